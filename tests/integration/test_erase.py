"""`sluicegate erase` on a real Kafka and a real ClickHouse: after it, and after the topics' expiry, a subject's text is
nowhere: not in a segment, not in a part, not in a snapshot, an artifact or the key store. Before it, it is in all of them. The
same bundle of evidence, made again, says what was erased and by which event."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import full_name
from sluicegate.sinks import ranges
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.ddl import ensure_schema
from sluicegate.sinks.embedded import EmbeddedClickHouse, database
from sluicegate.streams import erasures, kafka
from sluicegate.streams.archive.artifacts import store_of
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.expiry import IN_THE_CLEAR
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay import replay
from sluicegate.streams.replay.replay import Window
from sluicegate.streams.scan import scan, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.checkpointer import Checkpointer
from sluicegate.streams.verify.ledger import verify
from typer.testing import CliRunner

from tests.driver import AGENT
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, until
from tests.unit.test_artifacts import TOOL
from tests.unit.test_artifacts import files as artifact_files

TWO_PEOPLE = """
@id("forget") @quorum("2") permit (principal in Role::"privacy", action == Action::"subject.erased", resource);
"""
PEOPLE = [{"person_id": name, "roles": ["privacy"]} for name in ("pia", "leo")]
SUBJECT, OTHER = "person-1", "person-2"
OURS = "session-of-the-other"
LIMIT_S = 90.0
RUNS_S = 240.0
"""What the call that runs through the erasure may take: all that is looked for before, on a slow machine."""


class Marks:
    """Two texts that are nowhere else, and which files have them."""

    def __init__(self) -> None:
        self.erased, self.kept = secrets.token_hex(16), secrets.token_hex(16)

    def files(self, *folders: Path, text: str = "") -> set[str]:
        """Names of files that hold a text, as raw bytes."""
        needle = (text or self.erased).encode()
        return {str(path) for folder in folders for path in folder.rglob("*") if _has(path, needle)}


def _has(path: Path, needle: bytes) -> bool:
    try:
        return path.is_file() and needle in path.read_bytes()
    except FileNotFoundError:  # Kafka or ClickHouse removed it meanwhile
        return False


@contextmanager
def projecting(settings: Settings, keys: Keys, server: EmbeddedClickHouse) -> Iterator[Projector]:
    assert settings.kafka is not None
    projector = Projector(settings, settings.kafka, lambda: server.connect("sink"), keys)
    loop = Loop()
    stop = loop.run(_event())
    task = asyncio.run_coroutine_threadsafe(projector.run(stop), loop._loop)
    try:
        yield projector
    finally:
        loop.run(_set(stop))
        task.result(LIMIT_S)
        loop.close()


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _set(stop: asyncio.Event) -> None:
    stop.set()


def wait(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s: {what}"
        time.sleep(0.1)


def release() -> dict[str, str]:
    """With a tool of large results, a payment that may take four minutes, and two people for an erasure."""
    files = artifact_files()
    pay = json.loads(files["contracts/desk.pay.json"])
    pay["x-sluicegate"]["timeout_ms"] = int(RUNS_S * 1000)
    return {**files, "contracts/desk.pay.json": json.dumps(pay), "control.cedar": TWO_PEOPLE}


async def talk(gate: Gate, marks: Marks, going_on: threading.Event) -> None:
    """A session about the subject, and one about somebody else: said, asked, answered, held, large, unreadable."""

    async def answer(dispatch: r.Dispatch) -> Answer:
        text = marks.kept if dispatch.session_id == OURS else marks.erased
        if dispatch.tool == "desk.pay":  # begun before the erasure, and ends after it
            await asyncio.to_thread(going_on.wait, RUNS_S)
        size = 100_000 if dispatch.tool == TOOL else 1
        return Finished(json.dumps({"text": text + "x" * size, "secret": "1"}).encode())

    gate.adapter._behave = answer
    for session, person, text in (("session-1", SUBJECT, marks.erased), (OURS, OTHER, marks.kept)):
        ident = gates.new_id()
        about = r.Message(ident, AGENT, session, "session.open", gates.now_us(), f"goal {text}", person)
        await gate.put("messages", codec.encode(about))
        assert (await gate.answer(ident))[1].status == "opened"
        said = r.Message(
            gates.new_id(), AGENT, session, "session.user_said", gates.now_us(), text=f"I am {text}"
        )
        await gate.put("messages", codec.encode(said))
        read = await gate.ask(gates.intent("desk.read", {"value": text}, session=session))
        assert read.status == "released" and text.encode() in (read.result or b"")
        large = await gate.ask(gates.intent(TOOL, {}, session=session))
        assert large.status == "released" and b'"artifact"' in (large.result or b"")
        assert (
            await gate.ask(
                gates.intent("desk.ask", {"value": text}, session=session, intent_id=f"h-{session}")
            )
        ).status == "held"
    await gate.put("intents", b"unreadable " + marks.erased.encode())
    await gate.put(
        "intents", codec.encode(gates.intent("desk.pay", {"value": marks.erased}, intent_id="runs"))
    )
    await until(lambda: "claimed" in gate.life("runs"), "a claim")
    await until(lambda: gate.letters, "a dead letter")


def snapshots(settings: Settings) -> bytes:
    """What the snapshots on the topic hold, unpacked."""

    async def read() -> bytes:
        consumer = await kafka.connect(kafka.consumer(settings))
        found = b""
        try:
            for p in range(settings.partitions):
                [stretch] = await stretches(
                    consumer, [TopicPartition(full_name(settings.env, "snapshots"), p)]
                )
                async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                    chunks = [codec.decode_as(r.SnapshotChunk, record.value) for record in batch]
                    found += b"".join(zlib.decompress(c.data) for c in chunks if c.count == 1)
        finally:
            await consumer.stop()
        return found

    return asyncio.run(read())


async def keep(settings: Settings, **config: str) -> None:
    """Change how long topics with bytes in the clear keep them."""
    client = await kafka.connect(kafka.admin(settings))
    try:
        await client.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, full_name(settings.env, name), config)
                for name in IN_THE_CLEAR
            ]
        )
    finally:
        await client.close()


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_nothing_of_an_erased_subject_is_left(
    kafka: str, kafka_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_EVERY_S", 0.1)
    settings = gates.new_settings(kafka, tmp_path)
    for name, value in (("ENV", settings.env), ("KAFKA", kafka), ("HOME", str(tmp_path))):
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    marks, going_on = Marks(), threading.Event()
    topic_files = [p for p in (kafka_files / "kafka" / "data",) if p.exists()]
    assert topic_files, "this test greps the broker's own files"
    with EmbeddedClickHouse(tmp_path) as server:
        client = server.connect("sink")
        ensure_schema(client, database(settings))
        contents = f"`{database(settings)}`.contents"
        # Bytes as they are, so that a search in files can find them.
        client.command(f"ALTER TABLE {contents} MODIFY COLUMN content String CODEC(NONE)")
        control = [("people.registered", {"people": PEOPLE}), gates.head_key(tmp_path)]
        with gates.running(settings, files=release(), control=control) as (loop, gate):
            loop.run(talk(gate, marks, going_on))
            with projecting(settings, gate.keys, server) as projector:
                places = settings.partitions + 1  # and control's
                wait(
                    lambda: len(projector.lag) == places and not any(projector.lag.values()),
                    "ClickHouse to catch up",
                )
                _before(settings, gate, marks, topic_files, tmp_path, client)
                until_us = gates.now_us()
                code, before = bundle(settings, tmp_path / "before.zip", until_us, "--disclose", "secret")
                assert (code, before["verdict"]) == (0, "VALID") and not before["erased"], json.dumps(before)
                _two_people(gate, monkeypatch)
                event = _erased(settings, loop, gate, marks, going_on, client)
                _again(settings, tmp_path / "after.zip", until_us, before, event)
        _after(settings, marks, topic_files, tmp_path, client)
    asyncio.run(keep(settings, **{"retention.ms": "-1"}))
    with gates.running(settings, files=release()) as (
        loop,
        gate,
    ):  # another worker, to whom nothing else is left
        loop.run(gate.open_session(session="session-3"))
        assert loop.run(gate.ask(gates.intent("desk.read", {}, session="session-3"))).status == "released"
        assert loop.run(gate.ask(gates.intent("desk.read", {}, session=OURS))).status == "released"
        loop.run(gate.intact())


def _before(
    settings: Settings, gate: Gate, marks: Marks, topic_files: list[Path], home: Path, client: object
) -> None:
    """It is found where it stands: the search can fail."""
    found = marks.files(*topic_files)
    for topic in ("intents", "messages", "receipts", "replies", "dispatches", "dead-letters"):
        assert any(f"{settings.env}.{topic}-" in name for name in found), topic
    assert not any(f"{settings.env}.outcomes-" in name for name in found)  # sealed from the first day
    assert any("/clickhouse/" in name for name in marks.files(home))
    assert len(list((home / "artifacts").rglob("*"))) > 2
    listed = json.loads(run("erase", "--subject", SUBJECT, "--dry-run", "-o", "json"))
    [row] = listed["subjects"]
    assert (row["state"], row["sessions"], row["in_flight"], row["artifacts"]) == ("to erase", 1, 1, 1)
    assert row["events"] >= 8 and listed["event"] == -1
    assert {one["topic"] for one in listed["in_the_clear"]} == set(IN_THE_CLEAR)
    assert gate.keys.state(SUBJECT) == "live"


def _two_people(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """`control.cedar` says who may, and that it takes two; nothing is destroyed before."""
    monkeypatch.setenv("LOGNAME", "eve")
    refused = CliRunner().invoke(app, ["erase", "--subject", SUBJECT])
    assert refused.exit_code != 0 and "no registered person" in str(refused.exception)
    monkeypatch.setenv("LOGNAME", "pia")
    proposed = json.loads(run("erase", "--subject", SUBJECT, "--why", "asked for it", "-o", "json"))
    assert proposed["proposed"] and proposed["clickhouse_rows"] == 0
    assert gate.keys.state(SUBJECT) == "live"
    monkeypatch.setenv("LOGNAME", "leo")
    run("changes", "agree", str(proposed["event"]))
    assert gate.keys.state(SUBJECT) == "live"
    monkeypatch.setenv("LOGNAME", "pia")


def _erased(
    settings: Settings, loop: Loop, gate: Gate, marks: Marks, going_on: threading.Event, client: object
) -> int:
    unknown = CliRunner().invoke(app, ["erase", "--subject", "nobody"])
    assert unknown.exit_code != 0 and "no key of subject `nobody`" in str(unknown.exception)
    for name in ("system", "bad\nid"):
        assert CliRunner().invoke(app, ["erase", "--subject", name]).exit_code != 0
    done = json.loads(run("erase", "--subject", SUBJECT, "--why", "asked for it", "-o", "json"))
    assert done["artifacts"] == 1 and done["clickhouse_rows"] >= 8 and done["event"] > 0
    again = run("erase", "--subject", SUBJECT)
    assert f"erased by control event {done['event']}, before: nothing new was there" in again
    loop.run(until(lambda: gate.service.control.control.head >= done["event"], "the worker to read it"))
    # In the middle of a running call: it ends, and what it brought opens for nobody.
    going_on.set()
    loop.run(until(lambda: "released" in gate.life("runs"), "the running call to end"))
    refused = loop.run(gate.ask(gates.intent("desk.read", {"value": "x"})))
    assert (refused.status, refused.reason) == ("refused", "subject_erased")
    told = loop.run(gate.ask(gates.intent("desk.read", {"value": marks.kept}, session=OURS)))
    assert told.status == "released"
    loop.run(gate.open_session(session="session-2"))  # the same person comes back
    assert gate.keys.state(f"{SUBJECT}#{done['event']}") == "live"
    for lane in gate.service.lanes.values():
        loop.run(lane.snapshot())
    assert "ERASED" in run("explain", "runs")
    return int(done["event"])


async def heads(settings: Settings, ahead_s: int) -> None:
    """Every log's head is signed by a checkpointer whose clock is so far ahead that what was before is over, heads too."""
    ahead_us = ahead_s * 1_000_000
    running = Checkpointer(
        settings, clock=lambda: gates.now_us() + ahead_us, environ={"SLUICEGATE_CHECKPOINT_EVERY_S": "0.05"}
    )
    began = (gates.now_us() + ahead_us) // 1_000_000
    await running.start()
    try:
        await until(
            lambda: (
                running.trees
                and all(t.signed is not None and t.signed.second >= began - 60 for t in running.trees)
                and not running._unshown
            ),
            "heads",
        )
        assert running.alive == ""
    finally:
        await running.stop()


def bundle(
    settings: Settings, path: Path, until_us: int, *more: str, ahead_s: int = 300
) -> tuple[int, dict[str, Any]]:
    """Make one about the agent, and let its own file judge it, in a process that cannot import Sluicegate."""
    asyncio.run(heads(settings, ahead_s))
    since, end = (
        datetime.fromtimestamp(at / 1e6, UTC).isoformat() for at in (until_us - 3_600_000_000, until_us)
    )
    run("evidence", "--agent", AGENT, "--from", since, "--to", end, "-o", str(path), *more)
    script = path.with_suffix(".py")
    with zipfile.ZipFile(path) as archive:
        script.write_bytes(archive.read("verify.py"))
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(path), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=path.parent,
    )
    return done.returncode, json.loads(done.stdout)


def _again(settings: Settings, path: Path, until_us: int, before: dict[str, Any], event: int) -> None:
    """The same period after the erasure: everything holds, and what is gone is named, with who was told to."""
    code, after = bundle(settings, path, until_us, "--disclose", "secret", ahead_s=600)
    assert (code, after["verdict"]) == (6, "ERASED"), json.dumps(after)
    assert set(after["erased"]) == {str(event)} and after["counts"]["events"] == before["counts"]["events"]
    assert len(after["erased"][str(event)]) >= 5
    with zipfile.ZipFile(path) as archive:
        assert SUBJECT not in json.loads(archive.read("keys.json"))
    # The bundle of before keeps what was disclosed to whoever has it; with a later one it says so.
    script = path.with_suffix(".py")
    told = subprocess.run(
        [sys.executable, "-I", str(script), str(path.with_name("before.zip")), "--newer", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 6 and f"control event {event}" in told.stdout, told.stdout + told.stderr
    for one in path.parent.glob("*.zip"):
        one.unlink()  # they hold what was disclosed, and the search is not for them


def _after(settings: Settings, marks: Marks, topic_files: list[Path], home: Path, client: object) -> None:
    """The topics expire; then it is nowhere, and everything still holds."""
    keys = Keys(settings.home)
    report = asyncio.run(verify(settings))
    assert report.ok, report.as_json()
    checked = asyncio.run(replay.check(settings, Window(), keys.open))
    assert checked.ok and checked.total("erased") >= 5, checked
    # As if the time that they are kept had passed.
    asyncio.run(keep(settings, **{"retention.ms": "1", "file.delete.delay.ms": "0", "segment.ms": "1000"}))
    wait(lambda: not marks.files(*topic_files), f"kafka to forget: {marks.files(*topic_files)}")
    assert not marks.files(*topic_files, home)
    rows = f"SELECT countIf(subject = '{SUBJECT}'), countIf(position(content, '{marks.kept}') > 0) FROM `{database(settings)}`.contents"
    [(erased, kept)] = client.query(rows).result_rows  # type: ignore[attr-defined]
    assert erased == 0 and kept >= 5
    found = snapshots(settings)
    assert SUBJECT.encode() in found and marks.erased.encode() not in found
    assert sum(path.is_file() for path in (home / "artifacts").rglob("*")) == 1  # the other one's
    control = asyncio.run(control_log.read(settings)).control
    [one] = asyncio.run(erasures.look(settings, keys, control, [OTHER], lambda n: None))
    assert len(one.artifacts) == 1 and one.events >= 6
    assert asyncio.run(store_of(settings, {}).get(one.artifacts[0][1])) is not None
    keys.close()
