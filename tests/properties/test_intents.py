"""The packed table of intents holds what a dictionary would hold, in a third of the memory."""

from __future__ import annotations

import copy
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.ended import Ended
from sluicegate.processors.entries import OpenIntent
from sluicegate.processors.intents import BUCKETS, KEY_BYTES, ROW_BYTES, Intents, keys_in

OPEN = OpenIntent(
    "i", "a", "s", "t", "p", "desk.read", "1", "http", "routed", bytes(16), 1, 2, "intents", 3, "r", bytes(16)
)

# Few keys, all in one bucket, made of few bytes: rows hold each other's keys across their borders.
KEYS = [bytes(2) + bytes([a, b]) * 7 for a in range(3) for b in range(3)]
ENDED = st.builds(
    Ended,
    st.sampled_from([bytes(16), b"\0\1" * 8, *KEYS]),
    st.sampled_from(["released", "refused", "a word of another version"]),
    st.just(""),
    st.just("intents"),
    st.sampled_from([0, 1, 2**40]),
    st.sampled_from([bytes(16), *KEYS]),
    st.sampled_from(["", "mask $.iban"]),
)
STEPS = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.just(OPEN) | ENDED), max_size=40)


@given(STEPS)
def test_it_holds_what_a_dictionary_would(steps: list[tuple[bytes, object]]) -> None:
    plain, packed = dict[bytes, object](), Intents()
    for key, entry in steps:
        if entry is None:
            if key in plain:
                del plain[key], packed[key]
            else:
                with pytest.raises(KeyError):
                    del packed[key]
        else:
            plain[key] = packed[key] = entry  # type: ignore[assignment]
        assert len(packed) == len(plain) and set(packed) == set(plain)
        assert {k: packed.get(k) for k in KEYS} == {k: plain.get(k) for k in KEYS}
        assert [k in packed for k in KEYS] == [k in plain for k in KEYS]
    assert all(type(packed[key]) is type(plain[key]) for key in plain)
    assert list(packed.ordered()) == sorted(plain.items())
    assert [e for e in plain.values() if e is OPEN] == [e for e in packed.objects() if e is OPEN]
    assert copy.deepcopy(packed) == packed


def test_two_tables_are_equal_when_they_hold_the_same() -> None:
    a, b = Intents(), Intents()
    end = Ended(bytes(16), "released", "", "intents", 1, bytes(16))
    a[KEYS[0]], b[KEYS[1]] = end, end
    assert a != b
    b[KEYS[0]] = a[KEYS[1]] = end
    assert a == b


def test_its_size() -> None:
    """The bound of `MAX_REMEMBERED_IDS` is reckoned with it."""
    table = Intents()
    for n in range(100_000):
        key = hashlib.sha256(b"%d" % n).digest()[:KEY_BYTES]
        table[key] = Ended(key, "released", "", "intents", n, key)
    used = sum(bucket.__sizeof__() for bucket in table._buckets.values())
    assert used <= 70 * 100_000 + 150 * BUCKETS and ROW_BYTES == 61


def test_keys_in_a_row() -> None:
    assert keys_in(bytearray(b"".join(KEYS))) == KEYS
