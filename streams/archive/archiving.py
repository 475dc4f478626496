"""Filling the archive from Kafka, checking it, and letting Kafka forget what it has.

    copy    whole bundles of each partition, from where the archive ends; nothing is deleted
    check   every bundle, every tile, the tree against the signed checkpoint, and where Kafka goes on
    trim    `DeleteRecords` up to the bundle that is archived, checked just now, in ClickHouse, below a snapshot and old enough

Each step is safe to run again and to kill. The topic's own retention stays without end: nothing but `trim` lets go of a record.
Next: `archive/archive.py` (the store), `processors/transparency/entry_bundles.py` (`may_forget`), `commands/archive.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import ZERO_HASH
from sluicegate.processors.transparency import checkpoints, merkle, tiles
from sluicegate.processors.transparency.checkpoints import CheckpointFault, keys_of
from sluicegate.processors.transparency.entry_bundles import (
    Archived,
    ArchiveFault,
    Bundle,
    bundle_of,
    may_forget,
)
from sluicegate.processors.transparency.tiles import WIDTH, TileFault, TileNodes, TileWriter
from sluicegate.processors.verify.reading import head, split_two
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka, topics
from sluicegate.streams.archive.archive import GROUP, LogArchive, store_of
from sluicegate.streams.lanes.recovery import load_snapshot
from sluicegate.streams.scan import FETCH_WAIT_MS, places, scan, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import tile_store

KEEP_US = 7 * 24 * 3_600 * 1_000_000
"""What Kafka keeps anyway: agents, monitors and people look at the last days, and Kafka is faster than the archive."""

Advance = Callable[[int], None]

_ROWS = """
SELECT uniqExact(seq) FROM `{database}`.events
WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND src_partition = {partition} AND seq < {until}
"""
_WHOLE = """
SELECT countIf(seq = at) FROM (
    SELECT seq, row_number() OVER (ORDER BY seq) - 1 AS at FROM (
        SELECT DISTINCT seq FROM `{database}`.events
        WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND src_partition = {partition} AND seq < {until}
    )
)
"""


@dataclass(slots=True)
class Part:
    """One partition: how far the archive is, and what came of a step."""

    partition: int
    archived: int = 0
    copied: int = 0
    kafka_begin: int = 0
    problems: list[str] = field(default_factory=list)
    checkpoint: int = -1
    """Events under the signed head that the archive was held against; -1 when there is none."""


@dataclass(slots=True)
class Cut:
    """What Kafka may forget of a partition, and the four bounds, in events."""

    partition: int
    kafka_begin: int
    archived: int
    in_clickhouse: int
    snapshot: int
    old: int
    events: int = 0
    before_offset: int = 0

    @property
    def bound_by(self) -> str:
        """What keeps Kafka from forgetting more. ClickHouse is looked at as far as the others reach, so of equals it is last."""
        bounds = {
            "archive": self.archived, "snapshot": self.snapshot, "age": self.old, "clickhouse": self.in_clickhouse,
        }  # fmt: skip
        return min(bounds, key=lambda name: bounds[name])


class Archiving:
    """One environment's archive, for one command. Use as a context."""

    def __init__(self, settings: Settings, control: Control) -> None:
        if not control.log_id:
            raise Terminal(f"there is no ledger in `{settings.env}` yet, start one with `sluicegate up`")
        self._settings, self._control = settings, control
        self._store = store_of(settings)
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Archiving:
        self._consumer = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=FETCH_WAIT_MS))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.consumer.stop()

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The one that reads."""
        assert self._consumer is not None
        return self._consumer

    def log(self, partition: int) -> LogArchive:
        """The archive of a partition."""
        return LogArchive(self._store, self._settings.env, self._control.log_id, partition)

    async def partitions(self) -> list[int]:
        """All of them."""
        return list(range(await topics.partitions_of(self._settings)))

    def _place(self, partition: int) -> TopicPartition:
        return places(self._settings.space, "outcomes", [partition])[0]

    async def _begin(self, partition: int) -> int:
        place = self._place(partition)
        return int((await self.consumer.beginning_offsets([place]))[place])

    async def state(self) -> list[Part]:
        """How far each partition is archived."""
        found = []
        for p in await self.partitions():
            size = await asyncio.to_thread(_size, self.log(p))
            found.append(Part(p, size, 0, await self._begin(p)))
        return found

    # -- copy ---------------------------------------------------------------------------------------------------

    async def copy(self, advance: Advance, *, dry_run: bool = False) -> list[Part]:
        """Archive every whole bundle that Kafka has beyond the archive. Raises `ArchiveFault` where it does not continue it."""
        found = []
        for p in await self.partitions():
            log = self.log(p)
            part = Part(p, await asyncio.to_thread(_size, log), 0, await self._begin(p))
            await self._copy(log, part, advance, dry_run)
            found.append(part)
        return found

    async def _copy(self, log: LogArchive, part: Part, advance: Advance, dry_run: bool) -> None:
        writer = await asyncio.to_thread(log.writer)
        last = await asyncio.to_thread(_last, log)
        start = await asyncio.to_thread(_next_offset, log)
        index, waiting, group = log.bundles, list[Archived](), list[Bundle]()
        [stretch] = await stretches(self.consumer, [self._place(part.partition)])
        async for batch in scan(self.consumer, stretch.place, start, stretch.end):
            waiting += [Archived(one.offset, one.timestamp, one.value or b"") for one in batch]
            while len(waiting) >= WIDTH:
                bundle = bundle_of(waiting[:WIDTH], index)
                # INVARIANT: the archive is one chain (tests/unit/test_archive.py).
                if bundle.prev != last:
                    raise ArchiveFault(
                        f"event {bundle.first} of partition {part.partition} does not follow the archive: another log's, or the "
                        "ledger was changed; run `sluicegate ledger verify`"
                    )
                del waiting[:WIDTH]
                last, index, part.copied = bundle.last, index + 1, part.copied + WIDTH
                group.append(bundle)
                advance(WIDTH)
                if len(group) == GROUP:
                    await self._put(log, group, writer, dry_run)
                    group = []
        if group:
            await self._put(log, group, writer, dry_run)
        part.archived += 0 if dry_run else part.copied

    async def _put(self, log: LogArchive, group: list[Bundle], writer: TileWriter, dry_run: bool) -> None:
        if not dry_run:
            await asyncio.to_thread(log.put, group, writer)

    # -- check --------------------------------------------------------------------------------------------------

    async def check(self, advance: Advance) -> list[Part]:
        """Read all of it back, and hold it against itself, the checkpoints and Kafka."""
        found = []
        for p in await self.partitions():
            log = self.log(p)
            part = Part(p, await asyncio.to_thread(_size, log), 0, await self._begin(p))
            try:
                last = await asyncio.to_thread(self._whole, log, advance)
                part.checkpoint = await asyncio.to_thread(self._under_checkpoint, log)
                await self._goes_on(log, last)
            except (SluicegateError, CheckpointFault, TileFault) as error:
                part.problems.append(str(error))
            found.append(part)
        found[0].problems += await self._retention()
        return found

    def _whole(self, log: LogArchive, advance: Advance) -> bytes:
        """Every bundle, the chain over them, and every tile; the hash of the last event."""
        last = ZERO_HASH
        for index in range(log.bundles):
            bundle = log.bundle(index)
            if bundle.prev != last:
                raise ArchiveFault(f"bundle {index} of `{log.origin}` does not follow the one before it")
            last = bundle.last
            advance(WIDTH)
        for _ in tiles.check_all(log.size, log.nodes()):
            pass
        return last

    def _under_checkpoint(self, log: LogArchive) -> int:
        """Hold the tree against the newest signed head; its size, or -1."""
        store = tile_store.store_of(self._settings)
        data = store.get(f"{tile_store.folder_of(log.origin)}/{tile_store.CHECKPOINT}")
        if data is None or not log.size:
            return -1
        signed = checkpoints.verify(data, keys_of(self._control), log.origin).head
        mine = TileNodes(log.size, log.nodes())
        theirs = TileNodes(signed.size, tile_store.reader(store, log.origin))
        common = min(log.size, signed.size)
        same = merkle.root_at(common, mine) == merkle.root_at(common, theirs)
        if not same or merkle.root_at(signed.size, theirs) != signed.root:
            raise ArchiveFault(
                f"the archive of `{log.origin}` is not what its checkpoint {signed.size} signed"
            )
        return signed.size

    async def _goes_on(self, log: LogArchive, last: bytes) -> None:
        """Kafka's next record follows the archive's last one."""
        start = await asyncio.to_thread(_next_offset, log)
        [stretch] = await stretches(self.consumer, [self._place(log.partition)])
        async for batch in scan(self.consumer, stretch.place, start, stretch.end):
            one = head(split_two(batch[0].value or b"")[0])
            if (one.seq, one.prev_hash) != (log.size, last):
                raise ArchiveFault(
                    f"kafka goes on with event {one.seq} of partition {log.partition}, the archive has {log.size}, and they do not meet"
                )
            return

    async def _retention(self) -> list[str]:
        """The topic itself may let go of nothing: only `trim` knows what is archived."""
        name = full_name(self._settings.space, "outcomes")
        values = (await topics.configs_of(self._settings, [name])).get(name, {})
        wanted = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
        return [
            f"`{name}` has {key}={values[key]}: kafka may forget what is not archived, set it to {value}"
            for key, value in wanted.items()
            if key in values and values[key] != value
        ]

    # -- trim ---------------------------------------------------------------------------------------------------

    async def cuts(self, keep_us: int) -> list[Cut]:
        """What Kafka may forget now. ClickHouse away: nothing."""
        rows = await asyncio.to_thread(_Rows, self._settings, self._control.log_id)
        try:
            return [await self._cut(p, keep_us, rows) for p in await self.partitions()]
        finally:
            await asyncio.to_thread(rows.close)

    async def _cut(self, partition: int, keep_us: int, rows: _Rows) -> Cut:
        log, place = self.log(partition), self._place(partition)
        # One bundle stays: from its first record a reader learns which log this is.
        archived = max(0, await asyncio.to_thread(_size, log) - WIDTH)
        found = await load_snapshot(self.consumer, self._settings.env, place)
        snapshot = found[0].seq if found is not None else 0
        since_ms = (time.time_ns() // 1000 - keep_us) // 1000
        young = (await self.consumer.offsets_for_times({place: since_ms}))[place]
        old = archived if young is None else await asyncio.to_thread(log.holding, young.offset) * WIDTH
        least = min(archived, snapshot, old)
        cut = Cut(partition, await self._begin(partition), archived, 0, snapshot, old)
        cut.in_clickhouse = await asyncio.to_thread(rows.whole, partition, max(0, least))
        cut.events = may_forget(cut.archived, cut.in_clickhouse, cut.snapshot, cut.old)
        if cut.events:
            cut.before_offset = (await asyncio.to_thread(log.bundle, cut.events // WIDTH - 1)).next_offset
        if cut.before_offset <= cut.kafka_begin:
            cut.events = cut.before_offset = 0  # it was forgotten before
        return cut

    async def trim(self, cuts: list[Cut], advance: Advance) -> None:
        """Let Kafka forget it. What goes is read back from the archive and checked first."""
        wanted: dict[TopicPartition, Any] = {}
        for cut in cuts:
            if not cut.before_offset:
                continue
            log = self.log(cut.partition)
            first = await asyncio.to_thread(log.holding, cut.kafka_begin)
            last = None
            for index in range(first, cut.events // WIDTH):
                bundle = await asyncio.to_thread(log.bundle, index)
                if last is not None and bundle.prev != last:
                    raise ArchiveFault(f"bundle {index} of `{log.origin}` does not follow the one before it")
                last = bundle.last
                advance(WIDTH)
            wanted[self._place(cut.partition)] = RecordsToDelete(cut.before_offset)
        if not wanted:
            return
        client = await kafka.connect(kafka.admin(self._settings))
        try:
            await client.delete_records(wanted)
        except KafkaError as error:
            raise Retryable(f"kafka did not let go of old records: {error}, run it again") from error
        finally:
            await client.close()


def _size(log: LogArchive) -> int:
    return log.size


def _next_offset(log: LogArchive) -> int:
    return log.next_offset


def _last(log: LogArchive) -> bytes:
    return log.bundle(log.bundles - 1).last if log.bundles else ZERO_HASH


class _Rows:
    """How much of a partition ClickHouse has, from its first event without a hole."""

    def __init__(self, settings: Settings, log_id: bytes) -> None:
        from sluicegate.sinks.embedded import connect, database  # the sinks need chDB only when they are used

        self._log, self._database = log_id.hex(), database(settings)
        self._client = connect(settings)

    def close(self) -> None:
        self._client.close()

    def whole(self, partition: int, until: int) -> int:
        """Events from `seq` 0 on without a hole, at most `until`."""
        given = {"database": self._database, "log": self._log, "partition": partition, "until": until}
        try:
            if int(self._client.query(_ROWS.format(**given)).result_rows[0][0]) == until:
                return until
            return int(self._client.query(_WHOLE.format(**given)).result_rows[0][0])
        except (ClickHouseError, OSError) as error:
            said = " ".join(str(error).split())[:200]
            raise Retryable(f"clickhouse did not say what it has: {said}: nothing is trimmed") from error
