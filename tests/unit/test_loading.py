"""Loading: one read brings what is asked for next, and nothing is read twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.inputs import Tick
from sluicegate.streams.lanes.recovery import read_at, read_one
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.ledger import Lane

PLACE = TopicPartition("t.messages", 0)
TICK = Tick(0, 0)


class Service:
    """What a lane loads from: `held` offsets of every topic."""

    def __init__(self, held: range) -> None:
        self.settings = SimpleNamespace(env="t", space="t")
        self.sign_dispatch = self.sign_transfer = bytes
        self.held = held
        self.reads: Counter[tuple[str, int]] = Counter()

    async def load(self, place: TopicPartition, offset: int) -> dict[int, bytes]:
        self.reads[place.topic, offset] += 1
        return {at: b"%d" % at for at in self.held if at >= offset} if offset in self.held else {}


async def _what_came_with_a_read_is_not_read_again() -> None:
    service = Service(range(5, 50))
    lane = Lane(0, cast(LedgerService, service))
    assert [await lane._load(("messages", at), TICK) for at in (7, 8, 49, 7)] == [b"7", b"8", b"49", b"7"]
    assert service.reads == {("t.messages", 7): 1}
    assert await lane._load(("receipts", 7), TICK) == b"7"  # another topic is another place


async def _what_is_gone_is_asked_for_again() -> None:
    service = Service(range(5, 50))
    lane = Lane(0, cast(LedgerService, service))
    assert await lane._load(("messages", 4), TICK) is None
    assert await lane._load(("messages", 4), TICK) is None
    assert service.reads["t.messages", 4] == 2


class Consumer:
    """A topic with records 3 to 9, of which 6 is a transaction marker."""

    def __init__(self) -> None:
        self.at = 0

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {PLACE: 10}

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {PLACE: 3}

    def assign(self, places: list[TopicPartition]) -> None:
        pass

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at = offset

    def pause(self, place: TopicPartition) -> None:
        pass

    async def position(self, place: TopicPartition) -> int:
        return self.at

    async def getmany(
        self, place: TopicPartition, *, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[SimpleNamespace]]:
        await asyncio.sleep(0)
        found = [SimpleNamespace(offset=at) for at in range(self.at, 10) if at != 6][:max_records]
        self.at = found[-1].offset + 1
        return {PLACE: found}


async def _a_read_begins_exactly_where_it_is_asked_to() -> None:
    consumer = cast(AIOKafkaConsumer, Consumer())
    assert [r.offset for r in await read_at(consumer, PLACE, 4, 3)] == [4, 5, 7]
    assert await read_at(consumer, PLACE, 6, 3) == []  # a marker is no record
    assert await read_at(consumer, PLACE, 2, 3) == []  # no longer held
    assert await read_at(consumer, PLACE, 10, 3) == []
    record = await read_one(consumer, PLACE, 9)
    assert record is not None and record.offset == 9


def test_what_came_with_a_read_is_not_read_again() -> None:
    asyncio.run(_what_came_with_a_read_is_not_read_again())


def test_what_is_gone_is_asked_for_again() -> None:
    asyncio.run(_what_is_gone_is_asked_for_again())


def test_a_read_begins_exactly_where_it_is_asked_to() -> None:
    asyncio.run(_a_read_begins_exactly_where_it_is_asked_to())
