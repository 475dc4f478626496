"""`sluicegate replay --mode copy`: records of any topic into another one, from an offset or a time, at a rate, resumable.

    1. where     the window against what the topic has: what retention removed, what is not there yet, is said and refused
    2. target    another topic with as many partitions, and one that may be written to (`processors/replay/copies.py`)
    3. copy      partition to the same partition, in order; then the position file. At least once: a run that was killed
                 may write its last batch again, with the same `ce_id` and `replay_of`

It holds one producer of bytes without a signing key, and no executor. Next: `replay/position_file.py`, `commands/replay.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import NewTopic
from sluicegate.processors.replay.copies import Copied, Target, copied
from sluicegate.processors.replay.selection import Selection
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal, Unreadable
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.pace import Pace
from sluicegate.streams.replay.position_file import PositionFile
from sluicegate.streams.replay.window import Window, beginnings, check_times
from sluicegate.streams.scan import FETCH_WAIT_MS, OnStart, Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings

BATCH = 500
"""Records between two positions that are kept."""


class Outlet(Protocol):
    """All that a copy may do to the outside: bytes to a partition."""

    async def write(self, partition: int, records: Sequence[Copied]) -> None:
        """Returns when they are safe."""


@dataclass(slots=True)
class Told:
    """What was copied."""

    topic: str
    into: str
    partitions: dict[int, int] = field(default_factory=dict)
    left_out: int = 0
    unreadable: int = 0
    resumed: bool = False
    seconds: float = 0.0

    @property
    def copied(self) -> int:
        """Records written by this run."""
        return sum(self.partitions.values())

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {"copied": self.copied, **asdict(self)}


@dataclass(slots=True)
class Copier:
    """Copies one topic. `now`: microseconds."""

    env: str
    topic: str
    target: Target
    window: Window
    only: Selection
    outlet: Outlet
    position: PositionFile
    pace: Pace
    told: Told
    now: Callable[[], int]

    async def take(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """One batch of a partition, in order: written, then kept as done."""
        step = self.pace.batch(BATCH)
        for start in range(0, len(records), step):
            some = records[start : start + step]
            made = [c for c in (self._one(partition, record) for record in some) if c is not None]
            if made:
                await self.outlet.write(partition, made)
            self.told.partitions[partition] = self.told.partitions.get(partition, 0) + len(made)
            self.position.at[partition] = some[-1].offset + 1
            self.position.counts["copied"] = self.position.counts.get("copied", 0) + len(made)
            self.position.save()
            await self.pace.did(len(made))

    def _one(self, partition: int, record: ConsumerRecord) -> Copied | None:
        value = record.value or b""
        if not self.window.record(partition, record.offset, record.timestamp * 1_000):
            self.told.left_out += 1
            return None
        origin = f"{full_name(self.env, self.topic)}/{partition}/{record.offset}"
        try:
            if not self.only.everything and not self.only.record(*_looked_at(value)):
                self.told.left_out += 1
                return None
            return copied(record.key, value, record.headers, origin, self.target, self.now())
        except (Unreadable, SluicegateError):
            self.told.unreadable += 1
            return None


def _looked_at(value: bytes) -> tuple[object, r.Header | None, object]:
    record = codec.decode(value)
    if isinstance(record, r.Envelope):
        record = codec.decode(record.payload)
    if isinstance(record, r.Outcome):
        return record, codec.decode_as(r.Header, record.header), codec.decode(record.facts)
    return record, None, None


class _Kafka:
    """The real outlet."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer, self._topic = producer, topic

    async def write(self, partition: int, records: Sequence[Copied]) -> None:
        futures = [
            await self._producer.send(self._topic, c.value, key=c.key, partition=partition, headers=c.headers)
            for c in records
        ]
        await asyncio.gather(*futures)


async def copy(
    settings: Settings,
    window: Window,
    target: Target,
    *,
    only: Selection | None = None,
    resume: Path | None = None,
    rate: float = 0.0,
    create: bool = False,
    on_start: OnStart | None = None,
) -> Told:
    """Copy what the window and the selection hold. Raises `Terminal` for what cannot be."""
    started, only = time.monotonic(), only or Selection()
    question = {
        "mode": "copy", "env": settings.env, "topic": window.topic, "into": target.full, "name": target.name,
        "window": window.as_dict(), "only": only.as_dict(),
    }  # fmt: skip
    position = PositionFile(resume, question)
    told = Told(full_name(settings.space, window.topic), target.full, resumed=bool(position.at))
    check_times(window, _now_us())
    count = await same_partitions(settings, told.topic, target.full, create=create)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        found = await stretches(consumer, places(settings.space, window.topic, sorted(window.partitions) or range(count)))  # fmt: skip
        starts = await beginnings(consumer, window, found, position.at)
        producer = await kafka.connect(kafka.producer(settings))
        try:
            made = Copier(
                settings.env, window.topic, target, window, only, _Kafka(producer, target.full), position, Pace(rate), told,
                _now_us,
            )  # fmt: skip
            await _all(consumer, made, found, starts, on_start)
        finally:
            await producer.stop()
    finally:
        await consumer.stop()
    told.seconds = time.monotonic() - started
    return told


async def _all(
    consumer: AIOKafkaConsumer,
    copier: Copier,
    found: list[Stretch],
    starts: dict[int, int],
    on_start: OnStart | None,
) -> None:
    at = copier.position.at
    begins = {s.place.partition: max(at.get(s.place.partition, 0), starts[s.place.partition]) for s in found}
    total = sum(max(0, s.end - begins[s.place.partition]) for s in found)
    advance = on_start(total) if on_start is not None else lambda _: None
    for stretch in found:
        partition = stretch.place.partition
        gone = at.get(partition)
        if gone is not None and gone < stretch.begin:
            raise Terminal(
                f"`{stretch.place.topic}`/{partition} begins at {stretch.begin} by now, the position file is at {gone}: what is between is gone, start anew without --resume"
            )
        async for batch in scan(consumer, stretch.place, begins[partition], stretch.end):
            last = copier.window.last.get(partition, 1 << 62)
            await copier.take(partition, [record for record in batch if record.offset <= last])
            advance(len(batch))
            if batch[-1].offset >= last:
                break


async def same_partitions(settings: Settings, source: str, target: str, *, create: bool) -> int:
    """How many partitions both have. Raises `Terminal` when they do not exist, or differ."""
    client = await kafka.connect(kafka.admin(settings))
    try:
        counts = {t["topic"]: len(t["partitions"]) for t in await client.describe_topics()}
        if not counts.get(source):
            raise Terminal(f"topic `{source}` does not exist, see `sluicegate topics list`")
        if not counts.get(target) and create:
            await client.create_topics([NewTopic(target, counts[source], 1)])
            return counts[source]
        if not counts.get(target):
            raise Terminal(f"topic `{target}` does not exist, make it with --create")
        if counts[source] != counts[target]:
            raise Terminal(
                f"`{source}` has {counts[source]} partitions and `{target}` {counts[target]}: an agent's records would not stay in order in one partition, copy into a topic with {counts[source]}"
            )
        return counts[source]
    finally:
        await client.close()


def _now_us() -> int:
    return time.time_ns() // 1000
