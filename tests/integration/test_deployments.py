"""Releases on a real Kafka, by the commands: sessions stand on theirs, a canary, a pin, a rollback, two operators at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control import deployments, operators
from sluicegate.streams.control import log as control_log
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, release_files
from tests.integration import gate as gates
from tests.integration.gate import Command, Gate, Loop, intent


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("deployments"))
    with gates.running(settings) as pair:
        yield pair


@pytest.fixture
def command(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> Command:
    return gates.commands(shared[1], monkeypatch)


def folder(path: Path, edition: str) -> Path:
    """A release folder; another edition has another digest and decides alike."""
    for name, text in release_files(edition=edition).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, "utf-8")
    return path


def digest_in(text: str) -> str:
    return next(word.rstrip(";,") for word in text.split() if word.startswith("sha256:"))


async def decided_under(gate: Gate, session: str) -> str:
    """The release of a session's next call, once this worker knows of all control."""
    head = (await control_log.read(gate.settings)).control.head
    await gate.service.control.wait_for(head)
    one = intent("desk.read", session=session)
    assert (await gate.ask(one)).status == "released"
    return next(e.header.release for _, e in gate.events if e.header.intent_id == one.intent_id)


def test_a_release_comes_and_goes(shared: tuple[Loop, Gate], command: Command, tmp_path: Path) -> None:
    loop, gate = shared
    first = gate.service.control.control.deployed
    loop.run(gate.open_session(AGENT, "old"))
    second = digest_in(command("deploy", str(folder(tmp_path / "two", "two")), "--why", "a test"))
    loop.run(_until_known(gate))
    loop.run(gate.open_session(AGENT, "new"))
    assert loop.run(decided_under(gate, "old")) == first
    assert loop.run(decided_under(gate, "new")) == second
    command("pin", "session", "old", second[:20])
    assert loop.run(decided_under(gate, "old")) == second
    command("unpin", "session", "old")

    candidate = folder(tmp_path / "three", "three")
    assert "would be: 100 % of new sessions" in command("canary", "start", str(candidate), "--weight", "100%", "--dry-run")  # fmt: skip
    third = digest_in(command("canary", "start", str(candidate), "--weight", "100%"))
    assert "a canary is running" in command("deploy", str(candidate), code=1)
    loop.run(_until_known(gate))
    loop.run(gate.open_session(AGENT, "arm"))
    assert loop.run(decided_under(gate, "arm")) == third
    command("canary", "abort", "--why", "too many refusals")
    assert loop.run(decided_under(gate, "arm")) == second

    assert "would be: from" in command("rollback", "release", "--dry-run")
    told = json.loads(command("rollback", "release", "--dry-run", "-o", "json"))
    assert [m["after"] for m in told["moves"] if m["what"] == "new sessions"] == [first] and told["differs"]
    assert (
        sum(m["sessions"] for m in told["moves"]) >= 2
    )  # `new`, and `arm`, which the canary's abort brought there
    command("rollback", "release", "--why", "it refunds twice")
    assert loop.run(decided_under(gate, "new")) == first
    rows = json.loads(command("release", "list", "-o", "json"))
    stands = {row["digest"]: row["stands"] for row in rows}
    assert (stands[first], stands[second]) == ("deployed", "rolled back")
    assert "no earlier release" in command("rollback", "release", code=1)
    assert json.loads(command("canary", "status", "-o", "json")) == []
    loop.run(gate.intact())


def test_a_release_whose_canary_was_just_aborted_is_deployed_with_a_word(
    command: Command, tmp_path: Path
) -> None:
    candidate = folder(tmp_path / "five", "five")
    digest = digest_in(command("canary", "start", str(candidate), "--weight", "10%"))
    command("canary", "abort", "--why", "too many refusals")
    for more in (("--dry-run",), ()):
        said = command("deploy", digest, *more)
        assert (
            f"({digest.removeprefix('sha256:')[:12]}) was aborted by" in said and "too many refusals" in said
        )
    assert f"deployed {digest}" in said
    command("deploy", str(folder(tmp_path / "six", "six")))
    assert "was aborted by" not in command("deploy", digest, "--dry-run")


async def _until_known(gate: Gate) -> None:
    await gate.service.control.wait_for((await control_log.read(gate.settings)).control.head)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("canary", "abort"), "no canary is running"),
        (("unpin", "agent", "nobody"), "is not pinned"),
        (("pin", "team", "x", "sha256:0000000"), "there is no scope `team`"),
        (("pin", "agent", "x", "sha256:0000000"), "is no published release"),
        (("rollback", "release", "--to", "nothing"), "is no published release"),
        (("canary", "start", "nothing", "--weight", "10%"), "is no published release"),
    ],
)
def test_what_would_have_no_effect_is_said(command: Command, words: tuple[str, ...], said: str) -> None:
    assert said in command(*words, code=1)


@pytest.mark.parametrize(
    ("text", "weight_bp"), [("10%", 1_000), ("0.5", 5_000), ("100%", 10_000), ("0.01%", 1)]
)
def test_weights(text: str, weight_bp: int) -> None:
    assert deployments.weight_of(text) == weight_bp


@pytest.mark.parametrize("text", ["0", "101%", "ten", "-5%", "nan", ""])
def test_what_is_no_weight(text: str) -> None:
    with pytest.raises(Terminal, match="no share of sessions"):
        deployments.weight_of(text)


def test_two_operators_at_once(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, gate = shared
    plan = deployments.pin("session", "s", gate.service.control.control.deployed)
    look = control_log.read

    async def scenario() -> None:
        async def overtaken(settings: Settings, **more: bool) -> control_log.ControlReader:
            """Another operator writes between this one's look and word."""
            seen = await look(settings, **more)
            monkeypatch.setattr(control_log, "read", look)
            await deployments.change(gate.settings, gate.keys, plan, "the faster one")
            return seen

        monkeypatch.setattr(control_log, "read", overtaken)
        with pytest.raises(Terminal, match="control moved"):
            await deployments.change(gate.settings, gate.keys, plan, "the slower one")

    loop.run(scenario())


def test_who_may_deploy(shared: tuple[Loop, Gate], command: Command, tmp_path: Path) -> None:
    closed = folder(tmp_path / "closed", "closed")
    (closed / "control.cedar").write_text(
        '@id("a") permit (principal in Role::"lead", action == Action::"release.deployed", resource);'
        '@id("g") @quorum("2") permit (principal in Role::"lead", action == Action::"generation.begun", resource);'
    )
    command("deploy", str(closed))
    assert "is no registered person" in command("deploy", str(folder(tmp_path / "four", "four")), code=1)
    repartition = ("topics", "repartition", "--to", "3", "--yes")
    assert "is no registered person" in command(*repartition, code=1)
    command("people", "register", operators.operator(), "--role", "lead")
    first = command(*repartition, code=1)
    assert "takes several people, and is proposed as control event" in first
    assert command(*repartition, code=1) == first, "it is proposed once"
    control = asyncio.run(control_log.read(shared[1].settings)).control
    assert len(control.changes) == 1 and control.repartition is None
    command("rollback", "release")  # no policy names it
