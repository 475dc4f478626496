"""Read a stretch of a partition, committed records only: what verify, replay and explain have in common.

Where Kafka has let old records of the ledger go, they come from the archive (`archive/archive.py`).
Nothing here can write: there is no producer in it. Next: `verify.py`, `replay/replay.py`, `inspect/explain.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.topics import full_name
from sluicegate.streams.archive import archive
from sluicegate.streams.lanes import batches
from sluicegate.streams.lanes.batches import Record

FETCH_WAIT_MS = 20
"""A reader of stretches asks for records that are there: it need not wait for more."""
POLL_MS = 50
"""A stretch that ends in transaction markers gives nothing, and waits this long for it."""
SLICE = 2_000
"""Records that are handed on at a time: 40 ms of folding, then the process's other partitions have their turn, and what is on its
way is taken in."""
STALL_LIMIT_S = 30.0
"""Without any progress for this long Kafka counts as away."""


Advance = Callable[[int], None]
"""Told how many offsets more were read."""
OnStart = Callable[[int], Advance]
"""Told how many there are."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A partition from its first record to its committed end as of when it was asked."""

    place: TopicPartition
    begin: int
    end: int


async def stretches(consumer: AIOKafkaConsumer, places: Iterable[TopicPartition]) -> list[Stretch]:
    """Where partitions begin and end now. Transactions that are still open are behind the end."""
    wanted = list(places)
    begins, ends = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
    # INVARIANT: what kafka forgot is read from the archive, or said to be gone (tests/integration/test_archive.py).
    archived = {p: await archive.below(consumer, p, begin=begins[p]) is not None for p in wanted}
    return [Stretch(p, 0 if archived[p] else begins[p], ends[p]) for p in wanted]


async def since(
    consumer: AIOKafkaConsumer, found: Sequence[Stretch], at_ms: int
) -> dict[TopicPartition, int]:
    """Where records of this time and later begin, at the latest; the end where there are none.

    What is older in the archive alone is not looked up by its time: then it is the archive's beginning.
    """
    places = [one.place for one in found]
    begins = await consumer.beginning_offsets(places)
    answers = await consumer.offsets_for_times(dict.fromkeys(places, at_ms))
    starts = {}
    for one in found:
        answer = answers[one.place]
        offset = one.end if answer is None else answer.offset
        # INVARIANT: what kafka let go of is not taken for younger than it is (tests/integration/test_archive.py).
        archived = one.begin < begins[one.place] and offset <= begins[one.place]
        starts[one.place] = one.begin if archived else offset
    return starts


def announce(on_start: OnStart | None, found: Iterable[Stretch]) -> Advance:
    """Say how many offsets there are to read; what comes back is told how many were."""
    return on_start(sum(one.end - one.begin for one in found)) if on_start is not None else _silent


def _silent(_: int) -> None:
    pass


def places(env: str, topic: str, partitions: Iterable[int]) -> list[TopicPartition]:
    """Partitions of a topic that is named without its environment."""
    return [TopicPartition(full_name(env, topic), p) for p in partitions]


async def scan_values(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int
) -> AsyncGenerator[list[Record], None]:
    """As `scan`, offset and value of each record alone: for those who read millions. What comes next is on its way meanwhile."""
    old = await archive.below(consumer, place, start) if start < end else None
    if old is not None:
        async for archived in archive.records(old.archive, place, start, min(end, old.begin)):
            yield [(record.offset, record.value or b"") for record in archived]
        start = old.begin
    at, moved = start, time.monotonic()
    asked = asyncio.create_task(batches.fetch(consumer, {place: at}, FETCH_WAIT_MS)) if at < end else None
    try:
        while asked is not None:
            answer = (await asked).get(place)
            if answer is not None and answer.next_offset > at:
                at, moved = answer.next_offset, time.monotonic()
            elif time.monotonic() - moved > STALL_LIMIT_S:
                raise Retryable(
                    f"`{place.topic}`/{place.partition} stopped at offset {at}, check kafka and try again"
                )
            asked = None
            if at < end:
                asked = asyncio.create_task(batches.fetch(consumer, {place: at}, FETCH_WAIT_MS))
                await asyncio.sleep(0)  # it is sent now
            records = answer.records if answer is not None else []
            if records and records[-1][0] >= end:
                records = [record for record in records if record[0] < end]
            for first in range(0, len(records), SLICE):
                yield records[first : first + SLICE]
                await asyncio.sleep(0)
    finally:
        if asked is not None:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


async def scan(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int
) -> AsyncGenerator[list[ConsumerRecord], None]:
    """Records with `start` <= offset < `end`, in batches. The consumer reads nothing else meanwhile."""
    if start >= end:
        return
    old = await archive.below(consumer, place, start)
    if old is not None:
        async for batch in archive.records(old.archive, place, start, min(end, old.begin)):
            yield batch
        start = old.begin
        if start >= end:
            return
    consumer.assign([place])
    consumer.seek(place, start)
    at, moved = start, time.monotonic()
    try:
        while at < end:
            batch = (await consumer.getmany(place, timeout_ms=POLL_MS)).get(place, [])
            now = await consumer.position(place)
            if now != at:
                at, moved = now, time.monotonic()
            elif time.monotonic() - moved > STALL_LIMIT_S:
                raise Retryable(
                    f"`{place.topic}`/{place.partition} stopped at offset {at}, check kafka and try again"
                )
            if batch and batch[-1].offset >= end:
                batch = [record for record in batch if record.offset < end]
            if batch:
                yield batch
    finally:
        consumer.pause(place)  # unsubscribing would end aiokafka's fetch task in mid-flight
