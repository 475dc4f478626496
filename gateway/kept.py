"""Replies that are kept on Kafka, read again: where the newest ones are, and a few readers for them.

A reply that came while this gateway ran is found by its offset, which a bounded index remembers. Of others ClickHouse says when they
were decided, and Kafka which offset that was; without it the newest `MAX_SCANNED` of the partition are looked through.
Never decodes more than it must, and never opens a reader for each request. Next: `hub.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.schemas.errors import Retryable
from sluicegate.streams.sdk.transport import away, stop_consumer

MAX_KNOWN = 100_000
"""Replies whose place is remembered, at most `KNOWN_BYTES` each: 26 MB; the one of longest ago leaves first."""
KNOWN_BYTES = 260
"""Measured: a digest of 12 bytes, an offset, and their share of an ordered dict that was just made larger."""
NAME_BYTES = 12
"""Of the digest that stands for agent and intent: two alike among 100,000 are as likely as one in 10^19."""
MAX_READERS = 4
"""Consumers that read old replies, at a time: each holds up to 1 MB of fetched records."""
READER_WAIT_S = 10.0
"""For one of them to be free."""
MAX_SCANNED = 200_000
"""Records of a partition that are looked through for one reply: about 1 s of one reader."""
POLL_MS = 200

log = logging.getLogger("sluicegate.gateway")


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of a partition, those of one key; `next` is where to go on, `done` whether it was read to its end."""

    records: list[ConsumerRecord]
    next: int
    done: bool


Name = tuple[bytes, int, str]
"""Agent, which time it is listened to, and intent."""


class Known:
    """Where the newest reply about an intent is."""

    def __init__(self, most: int = MAX_KNOWN) -> None:
        self._most = most
        self._places: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def note(self, name: Name, offset: int) -> None:
        """A reply was read there."""
        key = _short(name)
        self._places[key] = max(offset, self._places.pop(key, -1))
        if len(self._places) > self._most:
            self._places.popitem(last=False)

    def of(self, name: Name) -> int | None:
        """The newest one's offset, if it is remembered."""
        return self._places.get(_short(name))


def _short(name: Name) -> bytes:
    agent, time, intent = name
    text = b"%d %d %b %b" % (time, len(agent), agent, intent.encode())
    return hashlib.blake2b(text, digest_size=NAME_BYTES).digest()


class Readers:
    """Consumers that are lent, one request after the other. Belongs to one event loop."""

    def __init__(self, connect: Callable[[], Awaitable[AIOKafkaConsumer]]) -> None:
        self._connect = connect
        self._idle: list[AIOKafkaConsumer] = []
        self._free = asyncio.Semaphore(MAX_READERS)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[AIOKafkaConsumer]:
        """One of them. Raises `Retryable` when none is free in time, or Kafka is away."""
        try:
            async with asyncio.timeout(READER_WAIT_S):
                await self._free.acquire()
        except TimeoutError as error:
            raise Retryable("too many old replies are read at once: ask again") from error
        consumer: AIOKafkaConsumer | None = None
        try:
            consumer = self._idle.pop() if self._idle else await self._connect()
            yield consumer
            consumer.pause(
                *consumer.assignment()
            )  # unsubscribing would end aiokafka's fetch task in mid-flight
            self._idle.append(consumer)
            consumer = None
        except KafkaError as error:
            raise away(error) from error
        finally:
            self._free.release()
            if (
                consumer is not None
            ):  # it failed, or whoever read was cancelled: what it still fetches is unknown
                await stop_consumer(consumer)

    async def page(self, place: TopicPartition, key: bytes, start: int) -> Page:
        """The records of `key` among the next ones from `start` on. Raises `Retryable` when Kafka is away."""
        async with self.lent() as consumer:
            end = (await consumer.end_offsets([place]))[place]
            begin = (await consumer.beginning_offsets([place]))[place]
            start = max(start, begin)
            if start >= end:
                return Page([], start, True)
            consumer.assign([place])
            consumer.seek(place, start)
            batch = (await consumer.getmany(place, timeout_ms=POLL_MS)).get(place, [])
            position = await consumer.position(place)
            return Page([r for r in batch if r.key == key], position, position >= end)

    async def start(self, place: TopicPartition, time_ms: int | None) -> int:
        """The first offset of that time or later, else of the newest `MAX_SCANNED`. Raises `Retryable` when Kafka is away."""
        async with self.lent() as consumer:
            found = (
                (await consumer.offsets_for_times({place: time_ms}))[place] if time_ms is not None else None
            )
            if found is not None:
                return int(found.offset)
            return max(0, int((await consumer.end_offsets([place]))[place]) - MAX_SCANNED)

    async def stop(self) -> None:
        """Close them."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(stop_consumer(consumer) for consumer in idle))
