"""`sluicegate witness key | run | list`: what they print, refuse and remember; the running one is a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import LogKey, Signed
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.witness_policy import Policy, parse_policy
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.cli import app
from sluicegate.streams.transparency.witness_client import Witnesses
from typer.testing import CliRunner

from tests.unit.test_checkpoints import LOG_ID, ORIGIN, PUBLIC, signed
from tests.unit.test_merkle import mth
from tests.unit.test_witness_server import FORKED, LEAVES, NAME, proofs

KEY = LogKey("log.1", PUBLIC, 0, 2**53)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, ["witness", *words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, ["witness", *words])
    assert isinstance(done.exception, Terminal), done.output
    return str(done.exception)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.json").write_text(LogFile("dev", LOG_ID, 4, (KEY,)).text)
    return tmp_path


def test_a_key_is_made_once_and_shown_after(folder: Path) -> None:
    line = said("key", "--name", NAME)
    assert line.startswith(f"witness ops {NAME}+") and said("key", "--name", NAME) == line
    assert (folder / "witness.jwk").stat().st_mode & 0o077 == 0
    assert parse_policy(f"{line}quorum ops\n").witnesses.keys() == {"ops"}
    other = said("key", "--name", NAME, "--key", str(folder / "other.jwk"))
    assert other != line
    assert "name" in refused("key", "--name", "with space", "--key", str(folder / "third.jwk"))
    assert not (folder / "third.jwk").exists()


def test_what_it_cannot_run_with_is_one_sentence(folder: Path) -> None:
    usual = ("run", "--name", NAME, "--log", "log.json")
    assert "witness.jwk" in refused(*usual)  # no key yet
    said("key", "--name", NAME)
    assert "write HOST:PORT" in refused(*usual, "--listen", "8485")
    assert "missing.json" in refused("run", "--name", NAME, "--log", "missing.json")
    (folder / "witness.db").write_bytes(b"no database" * 200)
    assert "cannot be a witness's memory" in refused(*usual, "--listen", "127.0.0.1:0")
    (folder / "witness.db").unlink()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "give another --listen" in refused(*usual, "--listen", place)


def test_without_a_memory_there_is_nothing_to_list(folder: Path) -> None:
    assert "is no witness's memory" in refused("list")
    assert not (folder / "witness.db").exists()  # to look makes none


def head(size: int, leaves: list[bytes] = LEAVES) -> Signed:
    return checkpoints.verify(str(signed(size, mth(leaves[:size]), int(time.time()))), [KEY])


def test_one_runs_cosigns_refuses_a_fork_and_ends_when_it_is_told_to(folder: Path) -> None:
    line = said("key", "--name", NAME).strip()
    command = [sys.executable, "-m", "sluicegate.streams.cli", "witness", "run", "--name", NAME, "--log", "log.json",
               "--listen", "127.0.0.1:0"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            assert running.stdout is not None
            ready = running.stdout.readline()
            assert ready.startswith(f"witness {NAME}+") and "5 logs" in ready, ready
            url = ready.split(" at ")[1].split(",")[0]
            asyncio.run(_asked(parse_policy(f"{line} {url}\nquorum ops\n")))
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    [one] = json.loads(said("list", "-o", "json"))
    assert (one["log"], one["size"]) == (ORIGIN, 256)
    [kept] = json.loads(said("list", "--refused", "-o", "json"))
    assert (kept["log"], kept["code"]) == (ORIGIN, "forked")
    assert kept["cosigned"] != kept["refused"] and ORIGIN in kept["refused"]
    assert "cosigned" not in said("list", "--refused").splitlines()[0]  # notes are for -o json


async def _asked(policy: Policy) -> None:
    witnesses = Witnesses(policy)
    try:
        for size in (40, 256):
            one = head(size)
            found = await witnesses.ask(one, proofs(size))
            assert [s.name for s in found] == [NAME], witnesses.problems
            policy.check(one.note.with_signatures(*found), KEY)
        assert await witnesses.ask(head(256, FORKED), proofs(256, FORKED)) == []
        assert "FORKED" in witnesses.problems["ops"]
    finally:
        await witnesses.stop()
