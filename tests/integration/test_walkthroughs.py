"""The walk-throughs of the docs, run as they stand: each command, and the lines that are said to come of it.

A block after `<!-- walk-through -->` holds `$ command` lines and lines of their output, where `…` stands for anything
and `INTENT` for the id that the last call printed. A command that ends in `&` runs on in the background until the page ends;
what a journal says is waited for. It runs against real roles, with the recorded tool server, or one of `tests/servers`.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sluicegate.streams import demo, stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.settings import Settings
from typer.testing import CliRunner

from tests.servers.tool_server import ToolProcess

ROOT = Path(__file__).parents[2]
PAGES = ("approvals", "policies", "models")
BLOCKS = re.compile(r"<!-- walk-through -->\n```console\n(.*?)```", re.S)
PORT = re.compile(r":89\d\d/")
SEEN_LIMIT_S = 60.0
"""For a journal to show what is said of it: a deployment is known within a second, and the agent asks once a second."""


def steps(page: str) -> Iterator[tuple[str, list[str]]]:
    """(command, lines of its output) of a page's blocks."""
    for block in BLOCKS.findall((ROOT / "docs" / f"{page}.md").read_text("utf-8")):
        for part in block.split("$ ")[1:]:
            command, *lines = part.rstrip().split("\n")
            yield command, lines


def run(command: str, port: int) -> str:
    """What a command prints; a shell's command runs in the test's folder."""
    word, *arguments = shlex.split(command)
    if word == "sluicegate":
        done = CliRunner().invoke(app, arguments)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            return f"{done.output}{done.exception}"
        return done.output
    if word == "curl":
        with urllib.request.urlopen(PORT.sub(f":{port}/", arguments[-1]), timeout=SEEN_LIMIT_S) as answer:
            return str(answer.read().decode())
    assert word in ("cp", "sed", "cat"), command
    return subprocess.run([word, *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def roles(kafka: str, page: str, home: Path) -> Iterator[tuple[stack.Stack, demo.ToolServer | ToolProcess]]:
    """The roles of an environment of its own, and the tool server."""
    settings = replace(Settings.from_env({"SLUICEGATE_HOME": str(home)}), kafka=kafka, env=f"walk-{page}")
    tools: demo.ToolServer | ToolProcess
    models = page == "models"
    tools = (
        ToolProcess("tests.servers.model_server", "MODELS_URL")
        if models
        else demo.ToolServer(demo.examples())
    )
    running = stack.Stack(settings, extra_env=tools.env())
    try:
        tools.wait_ready()
        asyncio.run(stack.prepare(settings))
        for role in ("ledger", "executor"):
            running.start_role(role)
        running.wait_ready()
        yield running, tools
    finally:
        running.stop()
        tools.stop()


@pytest.mark.parametrize("page", PAGES)
def test_it_runs_as_it_stands(kafka: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    intent, count = "", 0
    with roles(kafka, page, tmp_path / "home") as (running, tools), background() as begin:
        for name, value in stack.environment_of(running.settings).items():
            monkeypatch.setenv(name, value)
        for command, lines in steps(page):
            demo.wait_for_head(running, asyncio.run(control_log.read(running.settings)).control.head)
            if command.endswith("&"):
                begin(command)
                continue
            said = run(command.replace("INTENT", intent), tools.port)
            held = re.search(r"\(intent ([0-9a-f]{32})\)|^sluicegate explain ([0-9a-f]{32})$", said, re.M)
            intent = (held[1] or held[2]) if held else intent
            until = time.monotonic() + SEEN_LIMIT_S
            while command.startswith("curl") and missing(lines, intent, said) and time.monotonic() < until:
                time.sleep(0.3)
                said = run(command, tools.port)
            if gone := missing(lines, intent, said):
                pytest.fail(f"$ {command}\nsaid\n{said}\nand not\n" + "\n".join(gone))
            count += len(lines)
    assert count >= 10


def missing(lines: list[str], intent: str, said: str) -> list[str]:
    """The lines that what a command printed does not have."""
    patterns = {
        line: ".*".join(re.escape(p) for p in line.replace("INTENT", intent).split("…")) for line in lines
    }
    return [line for line in lines if not any(re.fullmatch(patterns[line], one) for one in said.splitlines())]


@contextmanager
def background() -> Iterator[Callable[[str], None]]:
    """Begins commands that run until the end of the block."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(command: str) -> None:
        word, *arguments = shlex.split(command.rstrip("& "))
        assert word == "python", command
        running.append(subprocess.Popen([sys.executable, *arguments], start_new_session=True))

    try:
        yield begin
    finally:
        for process in running:
            process.terminate()
            process.wait()
