"""The projector between a real Kafka and the embedded ClickHouse: transactions, crashes, outages, shared partitions."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from sluicegate.processors.releases import file as release_file
from sluicegate.processors.releases.file import digest_of
from sluicegate.schemas import codec, records
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.sinks import clickhouse, ddl, ranges
from sluicegate.sinks.checkpoints import CheckpointCopier
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.sinks.releases import ReleaseCopier
from sluicegate.sinks.rows import Record
from sluicegate.streams import kafka as clients
from sluicegate.streams import topics
from sluicegate.streams.control import releases
from sluicegate.streams.failpoints import SINK_POINTS
from sluicegate.streams.replay.resink import resink
from sluicegate.streams.settings import Settings

from tests.fake_clickhouse import Killed
from tests.ledger_records import Ledger, PlainOpener, log_id

LIMIT_S = 120.0
PARTITIONS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path_factory.mktemp("projector")) as running:
        yield running


@pytest.fixture
def settings(kafka: str, server: EmbeddedClickHouse) -> Settings:
    made = Settings(
        env=f"p-{uuid.uuid4().hex[:8]}", home=server._directory.parent, kafka=kafka, partitions=PARTITIONS
    )
    asyncio.run(topics.create(made))
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many ranges, short waits."""
    monkeypatch.setattr(ranges, "RANGE_ROWS", 100)
    monkeypatch.setattr(ranges, "RANGE_EVERY_S", 0.1)
    monkeypatch.setattr(clickhouse, "BACKOFF_MAX_S", 0.2)


async def publish(settings: Settings, records: list[Record], *, commit: bool = True) -> None:
    """One transaction."""
    producer = await clients.connect(
        clients.producer(settings, transactional_id=f"{settings.env}.{uuid.uuid4().hex}")
    )
    try:
        await producer.begin_transaction()
        sent = [
            await producer.send(f"{settings.env}.{r.topic}", r.value, partition=r.partition) for r in records
        ]
        await asyncio.gather(*sent)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


@asynccontextmanager
async def projecting(settings: Settings, factory: Callable[[], Any]) -> AsyncIterator[Projector]:
    assert settings.kafka is not None
    projector, stop = Projector(settings, settings.kafka, factory, PlainOpener()), asyncio.Event()
    task = asyncio.create_task(projector.run(stop))
    try:
        yield projector
    finally:
        stop.set()
        await task


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not done():
            await asyncio.sleep(0.02)


def caught_up(*projectors: Projector, partitions: int = PARTITIONS + 1) -> Callable[[], bool]:
    def look() -> bool:
        lags = [lag for p in projectors for lag in p.lag.values()]
        return len(lags) == partitions and not any(lags)

    return look


def check(server: EmbeddedClickHouse, settings: Settings, rows: int, rejects: int = 0) -> None:
    """All of it once, the manifest without a hole, every hash right."""
    client = server.connect(database=settings.env)
    assert client.query(
        "SELECT count(), uniqExact(src_topic, src_partition, seq) FROM events"
    ).result_rows == [(rows, rows)]
    assert client.query("SELECT sum(n), sum(rejects) FROM ingest_batches").result_rows == [(rows, rejects)]
    assert client.query("SELECT min(found = expected), min(same_hash) FROM ingest_audit").result_rows == [
        (1, 1)
    ]
    holes = client.query(
        "SELECT topic, partition, max(last_seq) + 1 - sum(n) AS missing FROM ingest_batches GROUP BY ALL HAVING missing != 0"
    )
    assert holes.result_rows == []


def test_filled_anew_beside_the_live_tables(settings: Settings, server: EmbeddedClickHouse) -> None:
    """What somebody deleted in ClickHouse is there again; a projector that starts after it goes on behind it."""

    async def scene() -> int:
        parts, control = ledgers(), Ledger(topic="control")
        first, second, third = ([r for part in parts for r in part.many(n)] for n in (250, 40, 10))
        await publish(settings, [control.genesis(), *first])
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await until(lambda: sum(seq + 1 for seq in projector.reached.values()) == 1 + len(first))
            with pytest.raises(Terminal, match="1` projector"):
                await resink(settings, PlainOpener())
            would = await resink(
                settings, PlainOpener(), dry_run=True
            )  # changes nothing: nobody is in its way
            assert would.offsets >= 1 + len(first) and would.rows == 0
        client = server.connect("sink", settings.env)
        minutes = client.query("SELECT count() FROM drift_1m FINAL").result_rows[0][0]
        client.command("ALTER TABLE events DELETE WHERE seq % 3 = 0", settings={"mutations_sync": "2"})
        client.command("TRUNCATE TABLE drift_1m")
        await publish(settings, second)
        assert (await resink(settings, PlainOpener(), dry_run=True)).rows == 0
        told: list[int] = []
        found = await resink(
            settings, PlainOpener(), on_start=lambda total: told.append(total) or told.append
        )
        assert (found.rows, found.rejects) == (1 + len(first) + len(second), 0)
        assert told[0] == sum(told[1:]) == found.rows
        assert client.query("SELECT count() FROM drift_1m FINAL").result_rows[0][0] >= minutes > 0
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await publish(settings, third)
            await until(caught_up(projector))
            await until(lambda: projector.rows == len(third))

        return 1 + len(first) + len(second) + len(third)

    check(server, settings, asyncio.run(scene()))
    left = server.connect().query(f"SHOW TABLES FROM `{settings.env}` LIKE '%{ddl.REBUILD}'").result_rows
    assert left == []


def ledgers() -> list[Ledger]:
    return [Ledger(partition=p) for p in range(PARTITIONS)]


def test_committed_records_once_and_aborted_ones_never(
    settings: Settings, server: EmbeddedClickHouse
) -> None:
    async def scene() -> None:
        parts, control = ledgers(), Ledger(topic="control")
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await publish(settings, [r for part in parts for r in part.many(250)])
            await publish(settings, [control.genesis()])
            aborted = [Ledger(partition=p, seq=parts[p].seq).many(40) for p in range(PARTITIONS)]
            await publish(settings, [r for part in aborted for r in part], commit=False)
            await publish(settings, [r for part in parts for r in part.many(50)])
            await publish(settings, [parts[0].raw(b"garbage")])
            all_of_it = 3 * (252 + 52) + 1, 1
            await until(lambda: (projector.rows, projector.rejects) == all_of_it and caught_up(projector)())
            assert projector.gaps == 0
            assert projector.errors == {}

    asyncio.run(scene())
    check(server, settings, 3 * (252 + 52) + 1, rejects=1)
    topics_found = server.connect(database=settings.env).query(
        "SELECT src_topic, count() FROM events GROUP BY 1 ORDER BY 1"
    )
    assert topics_found.result_rows == [("control", 1), ("outcomes", 3 * 304)]


def test_clickhouse_down_is_lag_and_then_all_is_there(settings: Settings, server: EmbeddedClickHouse) -> None:
    async def scene() -> None:
        parts = ledgers()
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await publish(settings, [r for part in parts for r in part.many(150)])
            await until(caught_up(projector))
            server.kill()
            await publish(settings, [r for part in parts for r in part.many(1_000)])
            await until(lambda: projector.retries > 5 and sum(projector.lag.values()) >= 3_000)
            assert projector.errors
            held = [len(p._collector) + p._in_flight for p, _ in projector._running.values() if p._collector]
            assert max(held) <= 3 * ranges.RANGE_ROWS + clickhouse_fetch_max(), held
            await asyncio.to_thread(server.start)
            await until(caught_up(projector))
            assert projector.errors == {}

    asyncio.run(scene())
    check(server, settings, 3 * (152 + 1_000))


@pytest.mark.parametrize("when", ["while it writes", "when it starts"])
def test_clickhouse_down_for_longer_than_the_group_waits(
    settings: Settings, server: EmbeddedClickHouse, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """aiokafka gives the partitions up when nobody asks for records, and never takes them again: 5 minutes, here 2 s."""
    made = clients.consumer

    def impatient(*arguments: Any, **more: Any) -> Any:
        consumer = made(*arguments, **more)
        consumer._max_poll_interval_ms = 2_000
        return consumer

    monkeypatch.setattr(clients, "consumer", impatient)
    monkeypatch.setattr(clickhouse, "BEAT_S", 0.5)

    async def scene() -> None:
        parts = [*ledgers(), Ledger(topic="control")]
        await publish(settings, [r for part in parts for r in part.many(100)])
        if when == "when it starts":
            ddl.ensure_schema(server.connect("sink"), settings.env)
            broken = iter([True])  # the tables are made, then it is gone

            def factory() -> Any:
                client = server.connect("sink")
                if next(broken, False):
                    command = client.command
                    views = itertools.count()

                    def last(statement: str) -> Any:
                        answer = command(statement)
                        if "`ingest_audit`" in statement and next(views) == 0:
                            server.kill()
                        return answer

                    client.command = last
                return client
        else:

            def factory() -> Any:
                return server.connect("sink")

        async with projecting(settings, factory) as projector:
            if when == "while it writes":
                await until(caught_up(projector))
                server.kill()
                await publish(settings, [r for part in parts for r in part.many(1_000)])
            await until(lambda: projector.retries > 0)
            await asyncio.sleep(5.0)  # longer than the group waits: the outage is what is tested
            await asyncio.to_thread(server.start)
            await until(caught_up(projector))

    asyncio.run(scene())
    check(server, settings, 4 * (1_100 if when == "while it writes" else 100))


def clickhouse_fetch_max() -> int:
    from sluicegate.sinks.source import FETCH_MAX

    return FETCH_MAX


def test_a_range_frozen_by_a_dead_owner_is_cut_the_same(
    settings: Settings, server: EmbeddedClickHouse
) -> None:
    """Killed after step 3; the frozen range is in the group's metadata, and the next owner keeps to it."""

    class Dying:
        def __init__(self) -> None:
            self._client = server.connect("sink")
            self.query, self.command = self._client.query, self._client.command

        def raw_insert(self, into: str, **more: Any) -> None:
            self._client.raw_insert(into, **more)
            if into.endswith("`events`"):
                raise Killed

    async def frozen() -> list[Any]:
        admin = await clients.connect(clients.admin(settings))
        try:
            found = await admin.list_consumer_group_offsets(f"{settings.env}.projector")
            return [
                json.loads(o.metadata) for place, o in found.items() if o.metadata and place.partition == 0
            ]
        finally:
            await admin.close()

    async def scene() -> None:
        part = Ledger()
        await publish(settings, part.many(30))
        with pytest.raises(Killed):
            async with projecting(settings, Dying) as projector:
                await until(
                    lambda: any(p._writing and p._writing.done() for p, _ in projector._running.values())
                )
                for projection, _ in projector._running.values():
                    if projection._writing is not None:
                        projection._writing.result()
        ((_, log, first, last),) = await frozen()
        assert (log, first, last) == (log_id().hex(), 0, 31)
        await publish(settings, part.many(30))
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await until(caught_up(projector))
        assert await frozen() == []

    asyncio.run(scene())
    check(server, settings, 64)
    found = server.connect(database=settings.env).query(
        "SELECT first_seq, last_seq FROM ingest_batches ORDER BY 1"
    )
    assert found.result_rows == [(0, 31), (32, 63)]


def test_two_share_the_partitions_and_one_leaves(settings: Settings, server: EmbeddedClickHouse) -> None:
    async def scene() -> None:
        parts = ledgers()
        async with projecting(settings, lambda: server.connect("sink")) as stays:
            await publish(settings, [r for part in parts for r in part.many(300)])
            async with projecting(settings, lambda: server.connect("sink")) as leaves:
                await until(
                    lambda: bool(stays.lag) and bool(leaves.lag) and len(stays.lag) + len(leaves.lag) == 4
                )
                for _ in range(5):
                    await publish(settings, [r for part in parts for r in part.many(200)])
                await until(lambda: leaves.rows > 0)
            await publish(settings, [r for part in parts for r in part.many(100)])
            await until(caught_up(stays))

    asyncio.run(scene())
    check(server, settings, 3 * (300 + 5 * 200 + 100))


_PROCESS = """
import asyncio, sys
from pathlib import Path
from sluicegate.sinks import ranges
from sluicegate.sinks.checkpoints import CheckpointCopier
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import connect
from sluicegate.streams.replay.resink import resink
from sluicegate.streams.settings import Settings
from tests.ledger_records import PlainOpener
ranges.RANGE_ROWS, ranges.RANGE_EVERY_S = 100, 0.05
env, home, kafka, partitions = sys.argv[1:]
settings = Settings(env=env, home=Path(home), kafka=kafka, partitions=int(partitions))
projector = Projector(settings, kafka, lambda: connect(settings, "sink"), PlainOpener())
asyncio.run(projector.run(asyncio.Event()))
"""


def process(settings: Settings, failpoint: str = "") -> subprocess.Popen[bytes]:
    """A projector of its own."""
    assert settings.kafka is not None
    command = [
        sys.executable,
        "-c",
        _PROCESS,
        settings.env,
        str(settings.home),
        settings.kafka,
        str(PARTITIONS),
    ]
    env = {**os.environ, "SLUICEGATE_FAILPOINT": failpoint}
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL, env=env)


def test_an_owner_that_was_asleep_wakes_up(settings: Settings, server: EmbeddedClickHouse) -> None:
    """SIGSTOP in the middle of its work, another one takes over, SIGCONT: it may not disturb anything."""

    async def scene() -> None:
        parts, asleep = ledgers(), process(settings)
        client = server.connect("sink")

        def rows() -> int:
            table = client.command(f"EXISTS TABLE `{settings.env}`.events")
            return int(client.command(f"SELECT count() FROM `{settings.env}`.events")) if table else 0

        def listed() -> int:
            return int(client.command(f"SELECT sum(n) FROM `{settings.env}`.ingest_batches"))

        try:
            await publish(settings, [r for part in parts for r in part.many(2_000)])
            await until(lambda: rows() > 100)
            asleep.send_signal(signal.SIGSTOP)
            async with projecting(settings, lambda: server.connect("sink")) as awake:
                await until(caught_up(awake))
                asleep.send_signal(signal.SIGCONT)
                await publish(settings, [r for part in parts for r in part.many(500)])
                await until(
                    lambda: rows() == 3 * 2_500 == listed()
                )  # the sleeper may have written the last range
        finally:
            asleep.kill()
            asleep.wait()

    asyncio.run(scene())
    check(server, settings, 3 * 2_500)


def test_projectors_killed_at_any_moment(settings: Settings, server: EmbeddedClickHouse) -> None:
    """SIGKILL of a whole projector process, six times, at moments drawn from a seed, while another one runs."""
    seed = random.SystemRandom().randrange(2**32)
    moments = random.Random(seed)

    async def scene() -> None:
        parts, running = ledgers(), [process(settings), process(settings)]
        try:
            for _ in range(6):
                await publish(settings, [r for part in parts for r in part.many(300)])
                await asyncio.sleep(moments.uniform(0.3, 2.5))  # the moment is what is varied
                victim = running.pop(0)
                victim.kill()
                victim.wait()
                running.append(process(settings))
        finally:
            for one in running:
                one.kill()
                one.wait()
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await until(caught_up(projector))

    print(f"seed {seed}")
    asyncio.run(scene())
    check(server, settings, 3 * 6 * 300)


def test_projectors_killed_after_each_step(settings: Settings, server: EmbeddedClickHouse) -> None:
    """SIGKILL at each of the five steps, an environment each: the next owner leaves nothing out and writes nothing twice."""
    scenes = {point: replace(settings, env=f"{settings.env}-{point[5]}") for point in SINK_POINTS}

    async def scene(point: str, mine: Settings) -> None:
        await topics.create(mine)
        parts = ledgers()
        await publish(mine, [r for part in parts for r in part.many(300)])
        victim = process(mine, f"{point}:2")
        try:
            assert await asyncio.to_thread(victim.wait, LIMIT_S) == -signal.SIGKILL, point
        finally:
            victim.kill()
        await publish(mine, [r for part in parts for r in part.many(50)])
        async with projecting(mine, lambda: server.connect("sink")) as projector:
            await until(caught_up(projector))

    async def all_of_them() -> None:
        await asyncio.gather(*(scene(point, mine) for point, mine in scenes.items()))

    asyncio.run(all_of_them())
    for mine in scenes.values():
        check(server, mine, 3 * (300 + 52))


def test_kafka_away_at_the_start_is_an_error_one_may_retry(server: EmbeddedClickHouse) -> None:
    away = Settings(env="p-away", home=server._directory.parent, kafka="127.0.0.1:1")

    async def scene() -> None:
        projector = Projector(away, "127.0.0.1:1", lambda: server.connect("sink"), None)
        with pytest.raises(Retryable, match="kafka does not answer"):
            await projector.run(asyncio.Event())

    asyncio.run(scene())


def test_the_group_has_offsets_for_lag_tools(settings: Settings, server: EmbeddedClickHouse) -> None:
    async def scene() -> None:
        part = Ledger(holes=False)
        await publish(settings, part.many(40))
        async with projecting(settings, lambda: server.connect("sink")) as projector:
            await until(lambda: projector.rows == 40 and caught_up(projector)())
        admin = await clients.connect(clients.admin(settings))
        try:
            found = await admin.list_consumer_group_offsets(f"{settings.env}.projector")
            assert found[TopicPartition(f"{settings.env}.outcomes", 0)].offset == 40
        finally:
            await admin.close()

    asyncio.run(scene())


def test_checkpoints_are_copied_once_over_restarts(settings: Settings, server: EmbeddedClickHouse) -> None:
    """A start goes on behind what the table has; what is no checkpoint is passed over."""
    log = log_id()

    def record(size: int, partition: int = 2) -> records.Checkpoint:
        return records.Checkpoint(
            log, partition, size, bytes([size]) * 32, "log.1", 1_800_000_000_000_000 + size, ["w"], "a note"
        )

    async def copy(until_rows: int, *made: bytes) -> list[tuple[object, ...]]:
        producer = await clients.connect(clients.producer(settings))
        for value in made:
            await producer.send_and_wait(f"{settings.env}.checkpoints", value)
        await producer.stop()
        ddl.ensure_schema(server.connect("sink"), settings.env)
        copier = CheckpointCopier(settings, lambda: server.connect("sink"), clickhouse.Counters())
        task = asyncio.create_task(copier.run())
        await until(lambda: copier.rows >= until_rows or task.done())
        task.cancel()
        await asyncio.wait([task])
        found = server.connect(database=settings.env).query(
            "SELECT src_topic, src_partition, size, lower(hex(root)), toUnixTimestamp64Micro(signed_at), witnesses, src_offset "
            "FROM checkpoints ORDER BY src_offset"
        )
        return [tuple(row) for row in found.result_rows]

    first = asyncio.run(copy(2, codec.encode(record(1)), b"nonsense", codec.encode(record(5, -1))))
    assert first == [
        ("outcomes", 2, 1, "01" * 32, 1_800_000_000_000_001, ["w"], 0),
        ("control", 0, 5, "05" * 32, 1_800_000_000_000_005, ["w"], 2),
    ]
    again = asyncio.run(copy(1, codec.encode(record(7))))
    assert [row[2] for row in again] == [1, 5, 7]  # nothing twice


def test_releases_are_copied_file_by_file_over_restarts(
    settings: Settings, server: EmbeddedClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks, published twice, beside bytes that are no release's: each file once, as it was published."""
    monkeypatch.setattr(releases, "CHUNK_BYTES", 1_000)
    first = {"release.yaml": "name: a\nversion: '1'\n", "prompts/desk.md": "Be exact. ß\n" * 300}
    second = {**first, "prompts/desk.md": "Be generous.\n"}

    async def copy(rows: int, *published: dict[str, str]) -> list[tuple[object, ...]]:
        for files in published:
            await releases.publish(settings, files)
        ddl.ensure_schema(server.connect("sink"), settings.env)
        copier = ReleaseCopier(settings, lambda: server.connect("sink"), clickhouse.Counters())
        task = asyncio.create_task(copier.run())
        await until(lambda: copier.rows >= rows or task.done())
        task.cancel()
        await asyncio.wait([task])
        assert copier.rows == rows
        found = server.connect(database=settings.env).query(
            "SELECT digest, path, body FROM releases ORDER BY 1, 2"
        )
        return [tuple(row) for row in found.result_rows]

    async def nonsense() -> None:
        lie = codec.encode(records.ReleaseChunk("sha256:" + "0" * 64, 0, 1, release_file.pack(first)))
        producer = await clients.connect(clients.producer(settings))
        for key, value in (("sha256:x", b"nonsense"), ("sha256:" + "0" * 64, lie)):
            await producer.send_and_wait(f"{settings.env}.releases", value, key=key.encode())
        await producer.stop()

    asyncio.run(nonsense())
    wanted = [(digest_of(first), path, body) for path, body in sorted(first.items())]
    assert asyncio.run(copy(2, first, first)) == wanted
    wanted += [(digest_of(second), path, body) for path, body in sorted(second.items())]
    assert asyncio.run(copy(2, second)) == sorted(wanted)
