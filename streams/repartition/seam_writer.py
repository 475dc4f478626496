"""What a repartition appends to a lane: seals behind what is there, and the beginnings of the next generation.

Whoever has a lane is its only writer: taking it fences the worker that had it, as that worker's own start does. Each append is
one transaction, folded as it is written. Never decides what to append. Next: `repartition/repartition.py`, `transactions.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from sluicegate.processors.outcomes import Outcome, seal
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.topics import space_of
from sluicegate.streams import kafka
from sluicegate.streams.lanes.outgoing import Outgoing
from sluicegate.streams.repartition.generation import lane_id
from sluicegate.streams.repartition.sealing import Folded
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import COMMIT_LIMIT_S, Transaction, close_quietly

VISIBLE_POLL_S, VISIBLE_LIMIT_S = 0.02, 30.0
"""A transaction's marker comes up to 21 ms after its commit was answered."""


class SeamWriter:
    """The one writer of a lane."""

    def __init__(self, env: str, producer: AIOKafkaProducer, lane: Folded) -> None:
        self._env, self._producer, self._lane = env, producer, lane

    async def append(self, log_id: bytes, records: Sequence[Outcome]) -> None:
        """Append records in one transaction, and fold them."""
        if not records:
            return
        lane, transaction = self._lane, Transaction(self._producer)
        partition = lane.place.partition
        outgoing = Outgoing(space_of(self._env, lane.generation.number), partition, _nothing, _nothing)
        for outcome in records:
            value, _ = seal(outcome, log_id, partition, lane.state.seq, lane.state.prev_hash, _no_content)
            outgoing.outcome(transaction, outcome, value)
            lane.take(value)
        async with asyncio.timeout(COMMIT_LIMIT_S):
            last = await transaction.append()
            await transaction.commit()
        lane.wrote(last[lane.place.topic, partition])

    async def visible(self, consumer: AIOKafkaConsumer) -> None:
        """Wait until readers see what was appended. Raises `Retryable`."""
        place, deadline = self._lane.place, time.monotonic() + VISIBLE_LIMIT_S
        while int((await consumer.end_offsets([place]))[place]) < self._lane.next_offset:
            if time.monotonic() > deadline:
                raise Retryable(f"kafka does not show what was written to `{place.topic}`, run this again")
            await asyncio.sleep(VISIBLE_POLL_S)


@asynccontextmanager
async def writer(settings: Settings, lane: Folded) -> AsyncIterator[SeamWriter]:
    """Take a lane: whoever else has it is fenced."""
    there = replace(settings, generation=lane.generation.number)
    producer = await kafka.connect(
        kafka.producer(there, transactional_id=lane_id(there, lane.place.partition))
    )
    try:
        yield SeamWriter(settings.env, producer, lane)
    finally:
        await close_quietly(producer)


def _nothing(value: bytes) -> bytes:
    raise AssertionError("a seam dispatches nothing")


def _no_content(subject: str, event: bytes, content: bytes) -> bytes:
    raise AssertionError("a seam has no content")
