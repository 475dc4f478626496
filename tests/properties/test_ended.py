"""An `Ended` is packed; nothing may be lost in it, whatever version wrote the words."""

from __future__ import annotations

import copy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors import lifecycle
from sluicegate.processors.ended import Ended
from sluicegate.processors.snapshot import decode, encode
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.topics import INPUTS, TICK

FIELDS = ("digest", "state", "reason", "topic", "offset", "event_id", "redacted")
ID = st.binary(min_size=16, max_size=16)
Values = tuple[bytes, str, str, str, int, bytes, str]
OTHER = st.text(max_size=20)
VALUES = st.tuples(
    ID,
    st.sampled_from(sorted(lifecycle.TERMINAL)) | OTHER,
    st.sampled_from(["", *REASONS]) | OTHER,
    st.sampled_from([*INPUTS, TICK]) | OTHER,
    st.integers(-(2**63), 2**63 - 1),
    ID,
    st.just("") | OTHER,
)


@given(VALUES)
def test_each_field_is_read_as_it_was_given(values: Values) -> None:
    entry = Ended(*values)
    assert tuple(getattr(entry, name) for name in FIELDS) == values
    assert eval(repr(entry)) == entry == copy.deepcopy(entry)
    assert type(copy.deepcopy(entry)) is Ended


@given(VALUES, VALUES)
def test_equal_bytes_are_equal_fields(a: Values, b: Values) -> None:
    assert (Ended(*a) == Ended(*b)) == (a == b)


@given(VALUES)
def test_a_snapshot_keeps_it(values: Values) -> None:
    state = PartitionState(bytes(16), 0)
    state.intents[bytes(16)] = Ended(*values)
    state.expiry[3] = bytearray(16)
    back = decode(encode(state))
    assert back.intents == state.intents
    assert encode(back) == encode(state)


@given(VALUES)
def test_a_snapshot_writes_it_field_by_field(values: Values) -> None:
    state = PartitionState(bytes(16), 0)
    state.intents[bytes(16)] = Ended(*values)
    state.expiry[3] = bytearray(16)
    digest, said, at, event, redacted = values[0], values[1:4], values[4], values[5], values[6]
    want = codec.encode_bytes(digest) + b"".join(map(codec.encode_string, said)) + codec.encode_long(at)
    want += codec.encode_bytes(event) + codec.encode_string(redacted)
    assert encode(state).endswith(bytes(16) + b"\x06\0" + want)


def test_its_size() -> None:
    """The bound of `MAX_REMEMBERED_IDS` is reckoned with it."""
    entry = Ended(bytes(16), "refused", "no_permit", "intents", 2**40, bytes(16))
    assert sys.getsizeof(entry) <= 96


@pytest.mark.parametrize(("digest", "event_id"), [(b"", bytes(16)), (bytes(16), bytes(15))])
def test_ids_have_their_length(digest: bytes, event_id: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Ended(digest, "refused", "", "intents", 0, event_id)
