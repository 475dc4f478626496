"""Who owns which partition: one consumer a process, one lane a partition index.

The range assignor gives a process the same index of every input topic; a lane runs only for an index held on all
of them. Rebalances start and stop lanes; partitions that stay keep their producer and state, since any other owner
would fence them. Never decides and never commits a transaction: that is the lane (`ledger.py`).
Next: `app.py` (the Faust app that supervises this).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.topics import INPUTS, full_name
from sluicegate.streams import kafka
from sluicegate.streams.archive.artifacts import store_of
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.keys.role_keys import RoleSigner
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.content_store import ContentStore
from sluicegate.streams.lanes.recovery import read_at
from sluicegate.streams.ledger import Lane
from sluicegate.streams.pace import gather_s
from sluicegate.streams.settings import Settings

REVOKE_LIMIT_S = 5.0
"""A lane's transaction may take this long at a rebalance before it is cancelled; the next owner fences it."""
FETCH_WAIT_MS = 50
"""How long the broker holds an empty fetch: it also bounds how late a new partition joins the next fetch."""
FETCH_BYTES = 256 * 1024
"""Of one input at a time: two batches. Records wait as objects of about 1 kB each, so a backlog costs memory by this:
5 inputs x 4 partitions x 1,400 records of 180 bytes = 28 MB."""
READER_FETCH_WAIT_MS = 5
LOAD_RECORDS = 200
"""Read at a time when one is asked for: what follows is asked for next, by the sessions and deadlines of that time. They
come in one answer of the broker anyway; to make records of them costs a millisecond."""
STALLED_AFTER_S = 30.0
"""A lane that neither committed nor found its inputs empty for this long is not alive."""


def wall_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class LedgerService(ConsumerRebalanceListener):  # type: ignore[misc]
    """The ledger role of one process."""

    def __init__(self, settings: Settings, keys: Keys, *, clock: Callable[[], int] = wall_clock) -> None:
        self.settings = settings
        self.keys = keys
        self.clock = clock
        self.group = f"sluicegate.{settings.env}.ledger"
        self.control = ControlReader(settings)
        self.contents = ContentStore(lambda: store_of(settings))
        self.sign_dispatch, self.sign_transfer = (
            RoleSigner(settings.home, "pipeline", topic, lambda: self.control.control, clock)
            for topic in ("dispatches", "transfers")
        )
        self.lanes: dict[int, Lane] = {}
        self.log = logging.getLogger("sluicegate.ledger")
        self.on_outcome: Callable[[int, Outcome], None] | None = None
        self.crashed: asyncio.Future[None] | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._took: dict[int, int] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._reader: AIOKafkaConsumer | None = None
        self._reader_lock = asyncio.Lock()
        self._closing = False

    async def start(self) -> None:
        """Read control to its end, join the group, run lanes as they are assigned."""
        self.crashed = asyncio.get_running_loop().create_future()
        await self.control.start()
        self._reader = await kafka.connect(kafka.consumer(self.settings, fetch_wait_ms=READER_FETCH_WAIT_MS))
        self._consumer = kafka.consumer(
            self.settings, group=self.group, fetch_wait_ms=FETCH_WAIT_MS, fetch_bytes=FETCH_BYTES
        )
        topics = [full_name(self.settings.space, t) for t in INPUTS]
        self._consumer.subscribe(topics, listener=self)
        await kafka.connect(self._consumer)

    async def stop(self) -> None:
        """Drain: finish the open transactions, write snapshots, leave the group."""
        self._closing = True
        await self._end(list(self._tasks))
        if self._consumer is not None:
            await self._consumer.stop()
        if self._reader is not None:
            await self._reader.stop()
        await self.control.stop()

    @property
    def alive(self) -> str:
        """Empty while every lane makes progress or has nothing to do; else what is wrong."""
        now = time.monotonic()
        for lane in self.lanes.values():
            if lane.stopped_because:
                return f"partition {lane.index} stopped: {lane.stopped_because}"
            if now - lane.metrics.progress_at > STALLED_AFTER_S:
                return f"partition {lane.index} made no progress for {STALLED_AFTER_S:.0f} s"
        return ""

    # -- rebalances ---------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Nothing ends here: with the eager protocol everything is revoked, most of it comes back at once."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Start and end lanes. Heartbeats do not run in here, so it never waits for long."""
        if self._closing or self._consumer is None:
            return
        # First and without an await: nothing may be fetched from where the group's offsets point.
        self._consumer.pause(*self._consumer.assignment())
        held: dict[int, int] = {}
        for place in self._consumer.assignment():
            held[place.partition] = held.get(place.partition, 0) + 1
        mine = {index for index, count in held.items() if count == len(INPUTS)}
        await self._end([index for index in self._tasks if index not in mine])
        for index in sorted(mine):
            if index in self._tasks:  # it stayed: the seek below its feet was lost in the rebalance
                self.lanes[index].reseek = True
            else:
                self._start_lane(index)

    def _start_lane(self, index: int) -> None:
        lane = self.lanes[index] = Lane(index, self)
        task = self._tasks[index] = asyncio.create_task(lane.run(), name=f"ledger-{index}")
        task.add_done_callback(lambda done: self._lane_done(index, done))

    def _lane_done(self, index: int, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            return
        self.log.error("partition %d crashed: %r", index, task.exception())
        if self.crashed is not None and not self.crashed.done():
            self.crashed.set_exception(task.exception() or RuntimeError("lane crashed"))

    async def _end(self, indexes: Iterable[int]) -> None:
        ending = [(i, self._tasks.pop(i)) for i in indexes if i in self._tasks]
        for index, _ in ending:
            self.lanes[index].finish()
        if ending:
            _, late = await asyncio.wait([t for _, t in ending], timeout=REVOKE_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for index, _ in ending:
            self.lanes.pop(index, None)

    # -- what lanes use -----------------------------------------------------------------------------------------

    async def poll(
        self, places: Iterable[TopicPartition], wait_ms: int, limit: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Committed records of a lane's inputs. A busy lane waits a moment first, so that more of them come together."""
        assert self._consumer is not None
        places = tuple(places)
        index = places[0].partition
        pause_s = gather_s(self._took.pop(index, 0), limit)
        if pause_s:
            await asyncio.sleep(pause_s)
        result: dict[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
            *places, timeout_ms=wait_ms, max_records=limit
        )
        self._took[index] = sum(map(len, result.values()))
        return result

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Go on reading here."""
        assert self._consumer is not None
        self._consumer.seek(place, offset)
        self._consumer.resume(place)

    async def position(self, place: TopicPartition) -> int:
        """The next offset the consumer will hand out; it passes transaction markers."""
        assert self._consumer is not None
        return int(await self._consumer.position(place))

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer for look-ups, one at a time: the polling one would make them wait for its long poll."""
        assert self._reader is not None
        async with self._reader_lock:
            yield self._reader

    @asynccontextmanager
    async def own_reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer for one recovery, which may take long."""
        consumer = await kafka.connect(kafka.consumer(self.settings, fetch_wait_ms=READER_FETCH_WAIT_MS))
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def load(self, place: TopicPartition, offset: int) -> dict[int, bytes]:
        """The bytes of an input and of those that follow it, by offset; empty when the topic no longer holds it."""
        async with self.reader() as reader:
            records = await read_at(reader, place, offset, LOAD_RECORDS)
        return {record.offset: record.value or b"" for record in records}

    def passed(self, lane: Lane) -> None:
        """A lane committed, or found nothing to do."""
        lane.metrics.progress_at = time.monotonic()
