"""The archive on a real Kafka and a real ClickHouse: copied, trimmed no earlier than it may be, and read back without a word by
verify, replay, recovery, rebuild and explain, by a ClickHouse that is filled anew and a checkpointer that lost its tiles."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import TopicPartition
from sluicegate.processors import snapshot
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import Checkpoint
from sluicegate.processors.transparency.tiles import WIDTH
from sluicegate.schemas.errors import Retryable
from sluicegate.sinks import ranges
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams import kafka as clients
from sluicegate.streams.archive.archive import VARIABLE
from sluicegate.streams.cli import app
from sluicegate.streams.control import identities
from sluicegate.streams.inspect import explain, named
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes import snapshots
from sluicegate.streams.lanes.recovery import recover
from sluicegate.streams.replay import replay, reproduce
from sluicegate.streams.replay.replay import Window
from sluicegate.streams.settings import Settings
from sluicegate.streams.stores import KafkaStore
from sluicegate.streams.transparency.checkpointer import Checkpointer
from sluicegate.streams.verify.ledger import verify
from typer.testing import CliRunner

from tests.driver import AGENT, Driver, read
from tests.integration.test_ledger_tools import publish

T = TypeVar("T")
LIMIT_S = 60.0


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def wrapped() -> T:
        return await work()

    return asyncio.run(wrapped())


def command(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def rows(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    found = json.loads(command(*arguments, "-o", "json", code=code))
    assert isinstance(found, list)
    return found


def begin(settings: Settings) -> int:
    async def ask() -> int:
        consumer = await clients.connect(clients.consumer(settings))
        try:
            place = TopicPartition(f"{settings.env}.outcomes", 0)
            return int((await consumer.beginning_offsets([place]))[place])
        finally:
            await consumer.stop()

    return run(ask)


async def project(settings: Settings, driver: Driver) -> None:
    """ClickHouse catches up."""
    assert settings.kafka is not None
    projector, stop = (
        Projector(settings, settings.kafka, lambda: connect(settings, "sink"), driver.keys),
        asyncio.Event(),
    )
    task = asyncio.create_task(projector.run(stop))
    async with asyncio.timeout(LIMIT_S):
        while len(projector.lag) < 2 or any(projector.lag.values()):
            await asyncio.sleep(0.05)
    stop.set()
    await task


async def store_snapshot(settings: Settings, driver: Driver) -> None:
    producer = await clients.connect(clients.producer(settings, transactional_id=f"{settings.env}.s"))
    try:
        await snapshots.store(producer, settings.env, driver.state, len(driver.records) - 1)
    finally:
        await producer.stop()


def key_for_heads(settings: Settings) -> None:
    keys = Keys(settings.home)
    run(lambda: identities.new_key(settings, keys, "log", checkpoints.ROLE, "a test"))
    keys.close()


async def head_of(settings: Settings, size: int, tiles: Path) -> Checkpoint:
    """What a checkpointer with these tiles signs of the partition, once it has read all of it."""
    running = Checkpointer(
        settings, environ={"SLUICEGATE_CHECKPOINT_EVERY_S": "0.05", "SLUICEGATE_TILES": str(tiles)}
    )
    await running.start()
    try:
        tree = next(t for t in running.trees if t.partition == 0)
        async with asyncio.timeout(LIMIT_S):
            while tree.kept < size and not running.faults:
                await asyncio.sleep(0.05)
        assert running.faults == {} and tree.signed is not None
        return tree.signed.head
    finally:
        await running.stop()


def _filled_anew(settings: Settings, driver: Driver) -> None:
    """A ClickHouse that has nothing, after Kafka let old records go: the rest comes from the archive."""
    client = connect(settings, "sink")
    client.command(f"DROP DATABASE `{database(settings)}`")
    client.close()
    assert begin(settings) > 0
    run(lambda: project(settings, driver))
    report = run(lambda: verify(settings))  # every row against the ledger
    assert report.ok and report.pending == 0, report.as_json()
    client = connect(settings, "reader")
    [[count]] = client.query(
        f"SELECT count() FROM `{database(settings)}`.events WHERE src_topic = 'outcomes'"
    ).result_rows
    client.close()
    assert count == len(driver.records)


def test_old_records_are_kept_elsewhere_and_read_from_there(
    kafka: str, clickhouse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_EVERY_S", 0.1)
    env = f"a-{uuid.uuid4().hex[:8]}"
    settings = Settings(env=env, home=tmp_path, kafka=kafka, partitions=1, clickhouse=f"{clickhouse}/{env}")
    for name, value in (
        ("ENV", env),
        ("HOME", tmp_path),
        ("KAFKA", kafka),
        ("CLICKHOUSE", f"{clickhouse}/{env}"),
    ):
        monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    driver = Driver()
    while len(driver.records) < 4 * WIDTH:
        driver.everyday(2)
    run(lambda: publish(settings, driver))
    whole = len(driver.records) // WIDTH * WIDTH

    [said] = rows("archive", "run", "--dry-run")
    assert (said["copied"], said["archived"]) == (whole, 0)
    assert rows("archive", "run") == [{"partition": 0, "copied": whole, "archived": whole}]
    assert rows("archive", "run") == [{"partition": 0, "copied": 0, "archived": whole}]
    assert [r["verdict"] for r in rows("archive", "verify")] == ["intact"]

    _never_ahead(settings, driver)
    key_for_heads(settings)
    signed = run(lambda: head_of(settings, len(driver.records), tmp_path / "tiles"))
    [cut] = rows("archive", "trim", "--keep", "0s")
    assert cut["forgets"] == whole - WIDTH and cut["bound by"] == "archive"
    assert begin(settings) == whole - WIDTH
    assert [r["kafka begins at"] for r in rows("archive", "list")] == [whole - WIDTH]
    assert [r["forgets"] for r in rows("archive", "trim", "--keep", "0s")] == [0]

    _read_back(settings, driver)
    _nobody_has_it(settings, driver, monkeypatch, tmp_path)
    assert run(lambda: head_of(settings, len(driver.records), tmp_path / "lost")) == signed
    _filled_anew(settings, driver)
    _damage(settings, tmp_path / "elsewhere")


def _never_ahead(settings: Settings, driver: Driver) -> None:
    """INVARIANT: kafka forgets nothing that is not archived and in ClickHouse."""
    with pytest.raises(Retryable):  # not even a table there yet
        CliRunner().invoke(app, ["archive", "trim", "--keep", "0s"], catch_exceptions=False)
    run(lambda: project(settings, driver))
    [cut] = rows("archive", "trim", "--keep", "0s")
    assert (cut["forgets"], cut["snapshot"]) == (0, 0)
    run(lambda: store_snapshot(settings, driver))
    [cut] = rows("archive", "trim", "--keep", "1d", "--dry-run")
    assert (cut["forgets"], cut["old enough"]) == (0, 0)
    client = connect(settings, "sink")
    events = f"`{database(settings)}`.events"
    client.command(
        f"ALTER TABLE {events} DELETE WHERE src_topic = 'outcomes' AND seq = {WIDTH + 7} SETTINGS mutations_sync = 2"
    )
    [cut] = rows("archive", "trim", "--keep", "0s", "--dry-run")
    assert (cut["forgets"], cut["in clickhouse"], cut["bound by"]) == (WIDTH, WIDTH + 7, "clickhouse")
    assert begin(settings) == 0  # --dry-run
    client.command(f"TRUNCATE TABLE {events}")
    client.command(f"TRUNCATE TABLE `{database(settings)}`.ingest_batches")
    [cut] = rows("archive", "trim", "--keep", "0s")
    assert (cut["forgets"], cut["bound by"]) == (0, "clickhouse")
    assert begin(settings) == 0
    client.command(f"DROP DATABASE `{database(settings)}`")
    client.close()
    run(lambda: project(settings, driver))


def _read_back(settings: Settings, driver: Driver) -> None:
    report = run(lambda: verify(settings))
    assert report.ok, report.as_json()
    assert report.partitions[0].events == len(driver.records)
    checked = run(lambda: replay.check(settings, Window(), driver.keys.open))
    assert checked.ok and checked.total("outcomes") == len(driver.records)

    async def folded(use_snapshot: bool) -> tuple[bytes, int]:
        consumer = await clients.connect(clients.consumer(settings))
        try:
            found = await recover(consumer, settings.env, 0, use_snapshot=use_snapshot)
            return snapshot.encode(found.state), found.folded
        finally:
            await consumer.stop()

    assert run(lambda: folded(True)) == (snapshot.encode(driver.state), 0)
    assert run(lambda: folded(False)) == (snapshot.encode(driver.state), len(driver.records))

    async def stored() -> int:
        store = KafkaStore(settings)
        await store.open()
        try:
            count = 0
            async for batch in store.events(0):
                count += len(batch.events)
            between = [e async for b in store.between(0, WIDTH - 3, WIDTH + 3) for e in b.events]
            assert len(between) == 7
            return count
        finally:
            await store.close()

    assert run(stored) == len(driver.records)
    intent = next(i for i in (r.intent_id for r in driver.replies) if i)
    assert intent in command("explain", intent)
    again = run(lambda: reproduce.here(settings, {0: {(AGENT, intent)}}, driver.keys.open))
    assert {row.verdict for row in again} == {"SAME"}  # not EXPIRED: its state is folded from the archive
    copied = json.loads(
        command("replay", "--mode", "copy", "--topic", "outcomes", "--into", "mine", "--create", "--from-time", "2026-01-01", "-o", "json")
    )  # fmt: skip
    assert copied["copied"] == len(driver.records), "by time, too, the archive's come first"


async def remade(settings: Settings, driver: Driver, intent: str) -> reproduce.Result:
    """What `sluicegate reproduce INTENT` finds."""
    targets = reproduce.Targets()
    targets.add((await named.find(settings, intent, driver.keys.open)).events)
    return await reproduce.reproduced(settings, targets, driver.keys.open)


def _nobody_has_it(
    settings: Settings, driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What kafka let go of, and an archive that this process was not told of: EXPIRED, and never another answer."""
    at = begin(settings)
    events = [read(x).header for x in driver.records]
    asked = [h.intent_id for h in events if h.status == "routed"]
    there = {h.intent_id for h in events[at:]}
    first, last = next(i for i in asked if i not in there), asked[-1]
    for intent in (first, last):
        assert run(partial(remade, settings, driver, intent)).verdict == "SAME"
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path / "nowhere"))
        said = run(lambda: remade(settings, driver, last))
        assert {row.verdict for row in said.rows} == {"EXPIRED"} and said.share == 0
        assert f"begins at offset {at}" in said.rows[0].why and "archive" in said.rows[0].why
        told = run(lambda: explain.explain(settings, last, driver.keys.open, caused=False))
        assert told.reproducible["verdict"] == "EXPIRED"
        rows = run(lambda: reproduce.here(settings, {0: {(AGENT, first)}}, driver.keys.open))
        assert [(row.verdict, row.seq) for row in rows] == [("EXPIRED", -1)]
        for words in (("reproduce", first), ("explain", first)):
            done = CliRunner().invoke(app, words)
            assert f"begins at offset {at}: what was before is read where {VARIABLE} has it" in str(
                done.exception
            )
        done = CliRunner().invoke(app, ["replay", "--mode", "check"])
        assert (
            done.exit_code and f"begins at {at}" in str(done.exception) and "archive" in str(done.exception)
        )
    assert run(lambda: remade(settings, driver, first)).verdict == "SAME"


def _damage(settings: Settings, folder: Path) -> None:
    [name] = list(folder.rglob("entries/001"))
    data = name.read_bytes()
    name.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    [row] = rows("archive", "verify", code=1)
    assert "restore" in row["verdict"], row
    name.write_bytes(data)
    assert [r["verdict"] for r in rows("archive", "verify")] == ["intact"]
    for gone in [*folder.rglob("record/003"), *folder.rglob("record/002")]:
        gone.rename(gone.with_suffix(".moved"))
    for hint in folder.rglob("archived"):
        hint.unlink()
    done = CliRunner().invoke(app, ["ledger", "verify"])
    assert done.exit_code != 0 and "what is between is gone" in str(done.exception)
    for moved in folder.rglob("*.moved"):
        moved.rename(moved.with_suffix(""))
    assert run(lambda: verify(settings, clickhouse=False)).ok
