"""The head of a log that rests is signed again, ever more seldom, and never over events that were not read."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import LogKey, Signed
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.transparency.checkpointer import REST_MAX_S, REST_MIN_S, Checkpointer
from sluicegate.streams.transparency.head_signer import HeadKey
from sluicegate.streams.transparency.log_tree import LogTree
from sluicegate.streams.transparency.tile_store import MemoryStore, folder_of

from tests.unit.test_checkpoints import KEY, NOW, PUBLIC
from tests.unit.test_log_tree import LOG, SIGN, dense, feed, opened

LONG = LogKey(KEY.kid, PUBLIC, 0, 2**53)
PLACE = TopicPartition("dev.outcomes", 0)
DAY_S = 86_400


class Broker:
    """Where Kafka says that the partition ends."""

    def __init__(self) -> None:
        self.end = 0

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self.end)


class Resting:
    """A checkpointer of one log, without its loop."""

    def __init__(self, home: Path) -> None:
        self.second = NOW
        self.store, self.broker = MemoryStore(), Broker()
        self.running = Checkpointer(
            Settings(env="dev", home=home),
            store=self.store,
            clock=lambda: self.second * 1_000_000,
            environ={},
        )
        self.running._consumer = self.broker  # type: ignore[assignment]
        self.tree = LogTree(self.store, "dev", LOG, 0)
        self.tree.open([LONG])
        self.running._at[PLACE] = 0

    def grow(self, count: int) -> None:
        feed(self.tree, dense(count))
        self.broker.end = self.running._at[PLACE] = count

    def look(self) -> Signed | None:
        """What the checkpointer does every few seconds; the head it would show."""
        asyncio.run(self.running._sign(PLACE, self.tree, HeadKey(LONG, SIGN)))
        return self.running._unshown.pop(PLACE, None)


@pytest.fixture
def resting(tmp_path: Path) -> Resting:
    return Resting(tmp_path)


def test_a_day_of_rest_is_28_more_heads_of_one_root(resting: Resting) -> None:
    resting.grow(40)
    first = resting.look()
    assert first is not None
    heads = [first]
    for _ in range(DAY_S // 5):
        resting.second += 5
        if (found := resting.look()) is not None:
            heads.append(found)
    ages = [b.second - a.second for a, b in pairwise(heads)]
    assert ages[:8] == [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] and set(ages[6:]) == {REST_MAX_S}
    assert len(heads) == 1 + 28
    assert {one.head for one in heads} == {first.head}
    for one in heads:
        assert checkpoints.verify(str(one.note), [LONG], resting.tree.origin).second == one.second
    assert resting.store.get(f"{folder_of(resting.tree.origin)}/checkpoint") == str(heads[-1].note).encode()
    assert resting.running.faults == {}


def test_growth_begins_anew(resting: Resting) -> None:
    resting.grow(40)
    resting.look()
    for _ in range(4):
        resting.second += 3_600
        assert resting.look() is not None
    resting.grow(80)
    resting.second += 5
    grown = resting.look()
    assert grown is not None and grown.head.size == 80
    resting.second += REST_MIN_S - 1
    assert resting.look() is None
    resting.second += 1
    assert resting.look() is not None


def test_nothing_is_signed_again_while_kafka_has_more(resting: Resting) -> None:
    """Its time would say that nothing followed, and an auditor would believe it."""
    resting.grow(40)
    resting.look()
    resting.second += REST_MAX_S
    resting.broker.end += 1
    assert resting.look() is None
    resting.running._at[PLACE] += 1  # a transaction's marker: read, and no event
    assert resting.look() is not None


def test_an_empty_log_has_no_head_to_sign_again(resting: Resting) -> None:
    resting.second += DAY_S
    assert resting.look() is None


def test_a_restart_goes_on_with_a_minute(resting: Resting) -> None:
    resting.grow(40)
    resting.look()
    tree = opened(resting.store)
    assert tree.seal(PUBLIC, KEY.kid, SIGN, NOW + 5) is None
    again = tree.seal(PUBLIC, KEY.kid, SIGN, NOW + 60, again=True)
    assert again is not None and again.head == resting.tree.signed.head  # type: ignore[union-attr]
    assert opened(resting.store).signed == again


def test_of_one_size_the_head_that_was_signed_last_is_newest(resting: Resting) -> None:
    resting.grow(40)
    first = resting.look()
    resting.second += REST_MIN_S
    second = resting.look()
    assert first is not None and second is not None
    for order in ([first, second], [second, first]):
        assert checkpoints.newest(order) is second
        assert max(order, key=checkpoints.age) is second
    record = checkpoint_topic.record_of(LOG, 0, second)
    assert (record.size, record.signed_at) == (40, (NOW + REST_MIN_S) * 1_000_000)
