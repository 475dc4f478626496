"""The sink: ranges of the ledger into ClickHouse, each exactly once.

The protocol of one partition; the numbers are used in comments, tests and docs.
1. *Freeze*: collect rows in `seq` order and close a range. From here its first and last record never change.
2. *Fence*: commit the range as metadata of the group's offset. Kafka refuses that to an owner of an older generation,
   so all owners, dead, late or new, agree on every range, and thereby on every token.
3. *Insert* the range into `events`, `contents`, `ingest_rejects`: one insert each, its token made from the range.
4. *Manifest*: one row in `ingest_batches`. Only now does the range count as there.
5. *Commit* the group's offset behind the range: for lag tools only, the manifest is the truth of what is there.
Beside that, every few seconds the minutes that got rows are computed anew from them (`rollup.py`), which may be repeated.

| killed after | on restart |
| --- | --- |
| 1 | nothing was written: collected again, perhaps cut otherwise |
| 2, 3 | the frozen range is read again; rows that are there are recognised by `seq`, the others inserted |
| 4, 5 | the manifest has it: reading goes on behind it |

A token alone is not believed after a failure: ClickHouse writes it before the rows become visible, so a kill between
the two makes it swallow the repetition; and it forgets old ones. After a failure the rows are counted by `seq`.
Broker wiped, ClickHouse kept: another random `log_id`, other tokens, other keys. ClickHouse wiped, broker kept: no
manifest, all is read again. ReplacingMergeTree is the net under all this, for an old owner that wakes up after its
token was forgotten. ClickHouse down is lag, never loss: a partition holds at most three ranges, then it is not read.
Any number of projectors share the partitions as one consumer group. Never writes to a topic and never deletes a row.
Next: `ranges.py` (step 1), `writer.py` (steps 3 and 4), `source.py` (Kafka).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from aiokafka import ConsumerRebalanceListener, TopicPartition
from sluicegate.schemas.topics import full_name, space_of
from sluicegate.sinks import ddl
from sluicegate.sinks.archived import ArchivedSource
from sluicegate.sinks.embedded import database as database_of
from sluicegate.sinks.ranges import Collector, Frozen, Range
from sluicegate.sinks.rollup import ROLL_EVERY_S, ROLL_SHARE, Rollup
from sluicegate.sinks.rows import LOG_ID, ContentOpener, Reject, row
from sluicegate.sinks.source import KafkaSource, Source
from sluicegate.sinks.writer import Sink
from sluicegate.streams import kafka
from sluicegate.streams.failpoints import hit
from sluicegate.streams.settings import Settings

OUTCOMES = "outcomes"
TOPICS = (OUTCOMES, "control")
FETCH_S = 0.25  # how long one fetch waits for records
INSERTS_AT_ONCE = 2  # ranges of different partitions being written; the embedded ClickHouse has two writers
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 15.0  # between attempts, doubling; for ever
BEAT_S = 10.0  # aiokafka gives up the partitions of a consumer that asks for nothing for 300 s
GC_THRESHOLD = (
    100_000  # new containers between two collections, 30 MB; Python's own 700 cost 4 of 20 us a row
)
STOP_LIMIT_S = 10.0  # for ranges being written when the service stops; then they are left to the next owner

NOWHERE = TopicPartition("-", 0)
T = TypeVar("T")
log = logging.getLogger(__name__)


class Counters:
    """What one projector has done since it started."""

    def __init__(self) -> None:
        self.rows = 0
        self.batches = 0
        self.rejects = 0
        self.gaps = 0  # places where `seq` jumps: the ledger lost records, or Kafka did
        self.retries = 0
        self.errors: dict[str, str] = {}  # what waits, and for what; empty when all goes well


class Projection:
    """One partition, from Kafka to ClickHouse. A range is written while the next one is collected."""

    def __init__(self, source: Source, sink: Sink, counters: Counters, inserts: asyncio.Semaphore) -> None:
        self._source, self._sink, self._counters, self._inserts = source, sink, counters, inserts
        self._collector: Collector | None = None
        self._uncertain = -1, -1
        self._writing: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._rollup: Rollup | None = None
        self._written = self._rolled = -1
        self._grown = asyncio.Event()

    @property
    def lag(self) -> int:
        """Records of Kafka that are not in ClickHouse yet."""
        held = 0 if self._collector is None else len(self._collector)
        return self._source.unread() + held + self._in_flight

    @property
    def reached(self) -> int:
        """The last `seq` that is in ClickHouse with its minutes, or -1."""
        return self._written if self._source.topic != OUTCOMES else min(self._written, self._rolled)

    async def run(self) -> None:
        """Until cancelled. What is held then is not lost: the manifest does not have it."""
        rolling = asyncio.create_task(self._roll())
        try:
            while True:
                due = float("inf") if self._collector is None else self._collector.due()
                wait = min(FETCH_S, max(0.0, due - time.monotonic()))
                records = await self._retrying(partial(self._source.fetch, wait))
                if self._collector is None:
                    first = next((item for item in map(row, records) if not isinstance(item, Reject)), None)
                    if first is not None:
                        self._collector = await self._recover(cast(bytes, first[0][LOG_ID]))
                    continue
                now = time.monotonic()
                for record in records:
                    self._collector.add(record, now)
                await self._flush(self._collector)
        finally:
            rolling.cancel()
            if self._writing is not None:
                self._writing.cancel()

    async def finish(self) -> None:
        """Wait for the range that is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _recover(self, log_id: bytes) -> Collector:
        """The log's first record has named it; its manifest says where to go on."""
        place = log_id, self._source.topic, self._source.partition
        at = await self._retrying(lambda: asyncio.to_thread(self._sink.position, *place))
        frozen = Frozen.parse(await self._retrying(self._source.metadata), log_id)
        if frozen is not None and frozen.last_offset <= at.last_offset:
            frozen = None  # killed between 4 and 5
        self._uncertain = at.rows_until, frozen.last_offset if frozen else -1
        calls = await self._retrying(lambda: asyncio.to_thread(self._sink.calls, *place, at.last_seq + 1))
        self._source.seek(at.last_offset + 1)
        if self._source.topic == OUTCOMES:
            self._rollup = self._sink.rollup(log_id, self._source.partition)
        self._grew(at.last_seq)
        return Collector(*place, next_seq=at.last_seq + 1, frozen=frozen, calls=calls)

    def _grew(self, seq: int) -> None:
        self._written = seq
        if self._rollup is not None:
            self._grown.set()

    async def _roll(self) -> None:
        """Compute what grew, again and again. The last minutes of a partition that is taken away are its next owner's."""
        while True:
            await self._grown.wait()
            self._grown.clear()
            assert self._rollup is not None
            began = time.monotonic()
            more = True
            while more:
                until = self._written
                more = await self._retrying(partial(asyncio.to_thread, self._rollup.step, until))
            self._rolled = until
            await asyncio.sleep(max(ROLL_EVERY_S, ROLL_SHARE * (time.monotonic() - began)))

    async def _flush(self, collector: Collector) -> None:
        self._counters.gaps += collector.gaps
        collector.gaps = 0
        while (frozen := collector.take(time.monotonic())) is not None:  # Step 1.
            self._in_flight += len(frozen)
            if self._writing is not None:
                await self._writing
            self._writing = asyncio.create_task(self._write(frozen))

    async def _write(self, frozen: Range) -> None:
        seq, offset = self._uncertain
        certain = frozen.first_seq > seq and frozen.first_offset > offset

        async def attempt() -> None:
            nonlocal certain
            hit("sink.1.frozen")
            await self._source.commit(frozen.first_offset, frozen.metadata())  # Step 2.
            hit("sink.2.fenced")
            async with self._inserts:
                first_time, certain = certain, False  # from here on it may have happened
                await asyncio.to_thread(self._sink.write, frozen, first_time)  # Steps 3 and 4.
            await self._source.commit(frozen.last_offset + 1, "")  # Step 5.
            hit("sink.5.committed")

        await self._retrying(attempt)
        self._in_flight -= len(frozen)
        self._counters.rows += frozen.n
        self._counters.rejects += len(frozen.rejects)
        self._counters.batches += 1
        self._grew(frozen.last_seq)

    async def _retrying(self, work: Callable[[], Awaitable[T]]) -> T:
        place = f"{self._source.topic}/{self._source.partition}"
        return await retrying(work, self._counters, f"partition `{place}`")


async def retrying(work: Callable[[], Awaitable[T]], counters: Counters, what: str) -> T:
    """For ever: giving up would be a hole. What went wrong stands in `Counters.errors` and in the log."""
    backoff = BACKOFF_MIN_S
    while True:
        try:
            result = await work()
        except Exception as error:
            counters.retries += 1
            counters.errors[what] = str(error) or type(error).__name__
            log.warning("the sink waits %.1f s with %s: %s", backoff, what, counters.errors[what])
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_MAX_S)
        else:
            counters.errors.pop(what, None)
            return result


def group_of(settings: Settings) -> str:
    """The consumer group of an environment's projectors."""
    return f"{settings.env}.projector"


def _names(settings: Settings) -> list[str]:
    """Those of every generation so far: what an earlier one's projector had not written is written by this one."""
    spaces = [space_of(settings.env, number) for number in range((settings.generation or 0) + 1)]
    return sorted({full_name(space, name) for space in spaces for name in TOPICS})


class Projector(Counters, ConsumerRebalanceListener):  # type: ignore[misc]
    """The service: a member of the group, with a `Projection` for each partition it is given.

    `opener` None keeps contents out of ClickHouse; `suffix` and a `group` of its own are for `streams/replay/resink.py`.
    """

    def __init__(
        self,
        settings: Settings,
        bootstrap: str,
        client_factory: Callable[[], Any],
        opener: ContentOpener | None,
        *,
        suffix: str = "",
        group: str = "",
    ) -> None:
        super().__init__()
        self.group = group or group_of(settings)
        self.database = database_of(settings)
        self._settings, self._bootstrap, self._connect = settings, bootstrap, client_factory
        self._sink = Sink(client_factory, self.database, opener, suffix)
        self._inserts = asyncio.Semaphore(INSERTS_AT_ONCE)
        self._running: dict[TopicPartition, tuple[Projection, asyncio.Task[None]]] = {}
        self._make: Callable[[TopicPartition], Source] | None = None

    @property
    def lag(self) -> dict[str, int]:
        """Of each partition of ours, `topic/partition`: records that are not in ClickHouse yet."""
        return {f"{place.topic}/{place.partition}": p.lag for place, (p, _) in self._running.items()}

    @property
    def reached(self) -> dict[TopicPartition, int]:
        """Of each partition of ours: the last `seq` that is in ClickHouse, minutes computed."""
        return {place: p.reached for place, (p, _) in self._running.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. ClickHouse being away is waited for; raises `Retryable` when Kafka is at the start."""
        gc.set_threshold(max(GC_THRESHOLD, gc.get_threshold()[0]), *gc.get_threshold()[1:])
        stopped = asyncio.create_task(stop.wait())
        consumer = kafka.consumer(self._bootstrap, security=self._settings.security, group=self.group)
        admin = kafka.admin(self._bootstrap, self._settings.security)
        reader = partial(kafka.consumer, replace(self._settings, kafka=self._bootstrap))

        def make(place: TopicPartition) -> Source:
            return ArchivedSource(KafkaSource(consumer, admin, self.group, place), place, reader)

        self._make = make
        tables = asyncio.create_task(retrying(partial(asyncio.to_thread, self._tables), self, "the tables"))
        beat: asyncio.Task[None] | None = None
        try:
            await asyncio.wait([stopped, tables], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await kafka.connect(admin)
                consumer.subscribe(_names(self._settings), listener=self)
                await kafka.connect(consumer)
                beat = asyncio.create_task(self._beat(consumer))
            while not stop.is_set():
                # The time-out: partitions may have come meanwhile.
                tasks = [task for _, task in self._running.values()]
                done, _ = await asyncio.wait(
                    [stopped, *tasks], timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done - {stopped}:
                    if not task.cancelled():  # its partition was taken away
                        task.result()  # a projection never ends by itself: this raises
        finally:
            self._make = None  # what is assigned from here on is not taken
            for task in filter(None, (stopped, tables, beat)):
                task.cancel()
            await asyncio.wait([asyncio.create_task(self._finish())], timeout=STOP_LIMIT_S)
            await self.on_partitions_revoked(())
            await consumer.stop()
            await admin.close()

    async def _beat(self, consumer: Any) -> None:
        """Ask for nothing, now and then. While ClickHouse is away no partition is read, and aiokafka would take that for
        a dead process: it gives the partitions up, and never asks for them again."""
        while True:
            await asyncio.sleep(BEAT_S)
            await retrying(partial(consumer.getmany, NOWHERE, timeout_ms=0), self, "the group")

    def _tables(self) -> None:
        ddl.ensure_schema(self._connect(), self.database)

    async def _finish(self) -> None:
        for projection, _ in list(self._running.values()):
            await projection.finish()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """From the start of each: its first record names the log, then it goes on where the manifest ends."""
        for place in assigned if self._make else ():
            assert self._make is not None
            source = self._make(place)
            source.seek(0)
            projection = Projection(source, self._sink, self, self._inserts)
            self._running[place] = (
                projection,
                asyncio.create_task(projection.run(), name=f"projection {place}"),
            )

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Nothing is waited for: who comes next finds the frozen range and goes on with it."""
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
