"""A canary judged on a real Kafka and the embedded ClickHouse: ended once by two watchers, and its evidence computed anew.

The canary's sessions misuse a parameter, so their calls are refused; nobody else's are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sluicegate.processors.canary.progress import FOR_EVER
from sluicegate.processors.canary.scores import Row
from sluicegate.processors.control.deployments import Canary, drawn
from sluicegate.schemas import codec
from sluicegate.schemas.records import Message
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import EmbeddedClickHouse, connect
from sluicegate.streams import stack
from sluicegate.streams.control import deployments, identities, operations, releases
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.watch import canary_evidence, canary_watcher
from sluicegate.streams.watch.canary_watcher import Watched, Watcher

from tests.driver import release_files
from tests.integration import gate as gates
from tests.integration.gate import LIMIT_S, Gate, Loop, intent, new_id, now_us, until

RULES = """
canary:
  min_sessions: 4
  max_sessions: 400
  metrics: {failure: {margin: 0.8}, refusal: {margin: 0.8}, withheld: {margin: 0.8}, ungrounded: {margin: 0.8}}
"""
CLOSED = '@id("leads") permit (principal in Role::"lead", action == Action::"canary.promoted", resource);'

Command = Callable[..., str]
Shared = tuple[Loop, Gate]


def files(edition: str, *, closed: bool = False) -> dict[str, str]:
    found = release_files(edition=edition)
    found = {**found, "release.yaml": found["release.yaml"] + RULES}
    return {**found, "control.cedar": CLOSED} if closed else found


def folder(path: Path, edition: str, *, closed: bool = False) -> str:
    for name, text in files(edition, closed=closed).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path_factory.mktemp("canary")) as running:
        yield running


@pytest.fixture(scope="module")
def shared(kafka: str, server: EmbeddedClickHouse) -> Iterator[Shared]:
    settings = gates.new_settings(kafka, server._directory.parent)
    with gates.running(settings, files=files("one")) as pair:
        yield pair


@pytest.fixture
def command(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Command:
    _, gate = shared
    invoked = gates.invoker(gate, monkeypatch)

    def run(*words: str, code: int = 0) -> str:
        found, said = invoked(words, code)
        return found.stdout if code == 0 else said

    return run


@asynccontextmanager
async def projecting(gate: Gate) -> AsyncIterator[None]:
    settings, stop = gate.settings, asyncio.Event()
    assert settings.kafka is not None
    projector = Projector(settings, settings.kafka, lambda: connect(settings, "sink"), gate.keys)
    task = asyncio.create_task(projector.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def watching(gate: Gate, count: int = 1) -> AsyncIterator[list[Watcher]]:
    """Watchers that look all the time, as leaders' timers would make them."""
    watchers = [Watcher(gate.settings, gate.keys) for _ in range(count)]
    for watcher in watchers:
        await watcher.start()

    async def follow(watcher: Watcher) -> None:
        while True:
            await watcher.look()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(follow(watcher)) for watcher in watchers]
    try:
        yield watchers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watcher in watchers:
            await watcher.stop()


async def sessions(gate: Gate, count: int, misuse: str) -> None:
    """Sessions of two calls each, on every partition; `misuse`: the arm that gets a parameter wrong."""
    await gate.service.control.wait_for((await control_log.read(gate.settings)).control.head)
    canary = gate.service.control.control.canary

    async def one(agent: str) -> None:
        name = new_id()
        await gate.open_session(agent, name)
        arm = "canary" if canary is not None and drawn(canary, agent, name) else "control"
        for _ in range(2):
            value = 7 if arm == misuse else "fine"
            await gate.ask(intent("desk.read", {"value": value}, agent=agent, session=name))
        close = new_id()
        await gate.put(
            "messages", codec.encode(Message(close, agent, name, "session.close", now_us())), agent=agent
        )
        assert (await gate.answer(close))[1].status == "closed"

    for _ in range(0, count, 10):
        await asyncio.gather(*(one(agent) for agent in gate.everywhere() for _ in range(5)))


async def control_events(gate: Gate) -> list[str]:
    reader = await control_log.read(gate.settings, keep_history=True)
    assert reader.history is not None
    return [str(c.canary.started if c.canary else None) for c in reader.history]


def test_a_bad_canary_is_aborted_once(shared: Shared, command: Command, tmp_path: Path) -> None:
    loop, gate = shared
    old = gate.service.control.control.deployed
    assert "promoted or aborted by its sessions" in command(
        "canary", "start", folder(tmp_path / "two", "two"), "--weight", "50%"
    )

    async def scenario() -> int:
        async with projecting(gate), watching(gate, 2) as watchers:
            for _ in range(20):
                await sessions(gate, 20, "canary")
                if gate.service.control.control.canary is None:
                    break
            await until(lambda: gate.service.control.control.canary is None, "the abort")
            await until(lambda: all(w._reader.control.canary is None for w in watchers), "both know")
            return sum(w.verdicts for w in watchers)

    before = len(loop.run(control_events(gate)))
    assert loop.run(scenario(), 180.0) == 1  # of two watchers one wrote it
    assert len(loop.run(control_events(gate))) == before + 1
    assert gate.service.control.control.deployed == old

    verdict = asyncio.run(canary_evidence.find(gate.settings, None))
    evidence = verdict.evidence
    assert (verdict.kind, verdict.who, evidence["causes"]) == ("canary.aborted", "sentinel", ["refusal"])
    refusal = next(m for m in evidence["metrics"] if m["metric"] == "refusal")  # type: ignore[attr-defined]
    assert refusal["e"] >= refusal["bound"] and refusal["rates"] == [1.0, 0.0]
    said = command("canary", "explain")
    assert "sessions with a refused call 100 % against 0 %" in said
    assert "computed anew from clickhouse: the same" in said and "computed anew from ledger: the same" in said
    assert json.loads(command("canary", "explain", "-o", "json", "--from", "ledger"))[1]["says"] == "abort"
    assert "is no verdict on a canary" in command("canary", "explain", "1", code=1)

    # What was written about another cut does not come out the same.
    wrong = replace(verdict, evidence={**evidence, "sha256": "00", "alpha": 0.2})
    found = asyncio.run(canary_evidence.again(gate.settings, wrong, "ledger"))
    assert canary_evidence.differences(wrong.evidence, found) == ["alpha", "sha256"]


def test_an_even_canary_is_promoted_and_a_manual_one_is_left_alone(
    shared: Shared, command: Command, tmp_path: Path
) -> None:
    loop, gate = shared
    command("canary", "start", folder(tmp_path / "three", "three"), "--weight", "50%", "--manual")

    async def scenario(promoted: bool) -> None:
        async with projecting(gate), watching(gate):
            await sessions(gate, 60, "nobody")
            if not promoted:  # copied while somebody copies; and what closed last counts once nothing earlier can be missing
                deadline = time.monotonic() + LIMIT_S
                while "verdict so far: promote" not in (
                    said := await asyncio.to_thread(command, "canary", "status")
                ):
                    assert time.monotonic() < deadline, said
            if promoted:
                for _ in range(10):
                    await sessions(gate, 20, "nobody")
                    if gate.service.control.control.canary is None:
                        break
                await until(lambda: gate.service.control.control.canary is None, "the promotion")

    loop.run(scenario(False), 120.0)
    status = command("canary", "status")
    assert "promoted or aborted by a person" in status
    rows = json.loads(command("canary", "status", "-o", "json"))
    assert {row["metric"]: row["says"] for row in rows} == {
        "failure": "safe", "refusal": "safe", "withheld": "safe", "ungrounded": "safe", "quality": "unmeasured",
    }  # fmt: skip
    assert gate.service.control.control.canary is not None  # nobody but a person ends it
    command("canary", "abort", "--why", "never mind")
    assert (
        "and not by its sessions" in (said := command("canary", "explain", code=1)) and "`never mind`" in said
    )
    command("canary", "start", folder(tmp_path / "four", "four", closed=True), "--weight", "50%")
    loop.run(scenario(True), 180.0)
    verdict = asyncio.run(canary_evidence.find(gate.settings, None))
    assert verdict.kind == "canary.promoted" and verdict.evidence["verdict"] == "promote"
    assert gate.service.control.control.deployed == verdict.evidence["release"]
    assert "computed anew from ledger: the same" in command("canary", "explain", str(verdict.event))


def test_what_control_cedar_does_not_permit_waits_for_a_person(
    shared: Shared, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release promoted above lets leads promote only; then the copy stops, and nothing is judged any more."""
    loop, gate = shared
    said: list[str] = []
    monkeypatch.setattr(Watcher, "_say", lambda self, text: said.append(text))
    command("canary", "start", folder(tmp_path / "five", "five", closed=True), "--weight", "50%")

    async def scenario() -> None:
        async with projecting(gate), watching(gate):
            await sessions(gate, 80, "nobody")
            await until(lambda: any("waits for a person" in text for text in said), "the refusal")
        monkeypatch.setattr(canary_watcher, "BLIND_AFTER_S", 1.0)
        await sessions(gate, 20, "nobody")  # the copy misses these
        async with watching(gate):
            await until(
                lambda: any(text.startswith("blind: ClickHouse is behind") for text in said), "blindness"
            )

    loop.run(scenario(), 180.0)
    assert "`sentinel` is no registered person" in next(text for text in said if "waits for a person" in text)
    assert gate.service.control.control.canary is not None
    command("canary", "abort")
    assert deployments.good_before(gate.service.control.control)


def test_in_a_signed_environment_it_signs_as_a_person_of_its_own(kafka: str, tmp_path: Path) -> None:
    settings = gates.new_settings(kafka, tmp_path)

    async def scenario() -> None:
        keys = Keys(settings.home)
        old, new = [await releases.publish(settings, files(edition)) for edition in ("one", "two")]
        names: list[tuple[str, dict[str, object]]] = [
            ("release.published", {"digest": digest, "name": "a", "version": digest[-4:]})
            for digest in (old, new)
        ]
        deployed: tuple[str, dict[str, object]] = ("release.deployed", {"digest": old})
        await control_log.append(settings, keys, [*names, deployed], who="x", why="a test")
        await operations.register_people(
            settings, keys, [{"person_id": "watchdog", "roles": ["sentinel"]}], "a test"
        )
        path = settings.home / "keys" / "sentinel.jwk"
        await identities.new_key(settings, keys, "watchdog", "operator", "a test", path=path)
        await deployments.change(
            settings, keys, deployments.start_canary([], new, "50%", auto=True), "a test"
        )
        watcher = Watcher(settings, keys)
        await watcher.start()
        try:
            watched = Watched(settings, watcher._reader.control)
            watched.progress.feed(list(bad_sessions(watched.canary)), FOR_EVER)
            assert watched.progress.judge.verdict == "abort"
            head = watcher._reader.control.head
            await watcher._propose(watched)
            await watcher._reader.wait_for(head + 1)
            assert watcher._reader.control.canary is None  # the fold took it, so a key signed it
        finally:
            await watcher.stop()
            keys.close()

    asyncio.run(stack.prepare(settings, "signed"))
    asyncio.run(scenario())
    verdict = asyncio.run(canary_evidence.find(settings, None))
    assert verdict.kind == "canary.aborted" and verdict.who == "watchdog"


def bad_sessions(canary: Canary) -> Iterator[Row]:
    """Rows of sessions of which the canary's all have a refused call."""
    for n in range(200):
        arm = drawn(canary, "agent", f"s{n}")
        row = Row(
            canary.at + n,
            0,
            3 * n,
            "opened",
            "",
            (),
            "",
            "agent",
            f"s{n}",
            canary.started,
            canary.digest if arm else canary.control,
        )
        yield row
        yield row._replace(seq=3 * n + 1, status="refused" if arm else "routed", intent_id="i")
        yield row._replace(seq=3 * n + 2, status="closed")
