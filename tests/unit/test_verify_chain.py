"""The quick way through a record against the slow one: it takes what the slow one finds sound, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.outcomes import ZERO_HASH, header_hash
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.chain import RANGE, Chain, Linked, Quick
from sluicegate.schemas.errors import Unreadable

from tests.driver import LOG_ID
from tests.mutations import scenes

SCENES = (scenes.everyday, scenes.signed, scenes.budgeted, scenes.rolled_back)


class Slow(Chain):
    """The slow way alone."""

    def take(self, value: bytes, seq: int, prev_hash: bytes) -> Linked | None:
        """What it finds, or None when anything is wrong."""
        self.seq, self.prev_hash = seq, prev_hash
        found = self._link(0, value)
        return None if self.findings.counts else found

    def add(self, seq: int, header_hash: bytes) -> None:
        """One more of the sums."""
        self.prev_hash = header_hash
        self._sum(seq)


def slow() -> Slow:
    return Slow(0, LOG_ID)


@pytest.mark.parametrize("scene", SCENES)
def test_it_takes_every_sound_record_as_it_is(scene: object) -> None:
    assert callable(scene)
    quick, prev, taken = Quick(LOG_ID, 0), ZERO_HASH, 0
    for seq, record in enumerate(scene().records):
        one = quick.take(record.value, seq, prev)
        want = slow().take(record.value, seq, prev)
        assert want is not None
        assert one is None or one == want
        taken += one is not None
        prev = header_hash(want.header)
    assert taken >= seq  # the genesis is too short for it, and nothing else


@given(st.integers(0, 200), st.data())
def test_what_is_changed_it_does_not_take_unless_it_is_sound(at: int, data: st.DataObject) -> None:
    records = scenes.everyday().records
    prev = header_hash(slow_at(at).header) if at else ZERO_HASH
    value = bytearray(records[at + 1 if at else 0].value)
    for _ in range(data.draw(st.integers(1, 3))):
        what = data.draw(st.sampled_from(["flip", "drop", "insert", "cut"]))
        place = data.draw(st.integers(0, len(value) - 1))
        if what == "flip":
            value[place] ^= data.draw(st.integers(1, 255))
        elif what == "drop" and len(value) > 1:
            del value[place]
        elif what == "insert":
            value.insert(place, data.draw(st.integers(0, 255)))
        elif place:
            del value[place:]
    seq = at + 1 if at else 0
    one = Quick(LOG_ID, 0).take(bytes(value), seq, prev)
    if one is not None:
        assert one == slow().take(bytes(value), seq, prev)


def slow_at(at: int) -> Linked:
    """A sound record of the scene."""
    records, prev = scenes.everyday().records, ZERO_HASH
    for seq in range(at + 1):
        found = slow().take(records[seq].value, seq, prev)
        assert found is not None
        prev = header_hash(found.header)
    return found


def test_sums_are_of_their_range_and_end_where_clickhouse_does() -> None:
    chain = slow()
    chain.sum_until = RANGE + 2
    for seq in range(RANGE + 10):
        chain.add(seq, seq.to_bytes(8, "little") + bytes(24))
    assert chain.summed(0)[0] == RANGE and chain.summed(1) == (3, RANGE ^ RANGE + 1 ^ RANGE + 2)
    assert chain.summed(7) == (0, 0)
    chain.add(5, bytes(32))  # out of order, as in a damaged ledger
    assert chain.summed(0)[0] == RANGE + 1


@given(st.integers(1, 250), st.integers(0, 400), st.integers(0, 255))
def test_known_bytes_read_as_unknown_ones_do(at: int, place: int, value: int) -> None:
    """Also when one of them is another: what is known by its bytes is known by all of them."""
    bytes_ = bytearray(slow_at(at).rest)
    reading.rest(bytes(bytes_))
    bytes_[place % len(bytes_)] = value
    for known in (reading._names, reading._ends, reading._topics):
        assert len(known) <= reading.MAX_KNOWN
    assert _read(reading.rest, bytes(bytes_)) == _read(reading._unknown_rest, bytes(bytes_))


def _read(read: Callable[[bytes], object], value: bytes) -> object:
    try:
        return read(value)
    except (Unreadable, IndexError, ValueError):
        return None
