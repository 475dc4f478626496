"""The readers of a fold against the Avro library: facts as structs, and headers, for whatever the ledger writes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.folding import Folder
from sluicegate.processors.outcomes import Origin, Outcome, seal
from sluicegate.processors.state import PartitionState
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.reading import split, split_two
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.struct_reader import decode, decode_as, read_facts

from tests.driver import Driver
from tests.properties.test_sink_avro import values_of

FACTS = [name for name in codec.NAMES if name.endswith("_facts")]
OLD = [name for name in codec.OLD if name.split(".")[0].endswith("_facts")]


@st.composite
def any_facts(draw: st.DrawFn) -> object:
    schema = codec.SCHEMAS[draw(st.sampled_from(FACTS))]
    fields = cast("list[dict[str, Any]]", schema.parsed["fields"])
    fixed: dict[str, int] = {}
    return schema.cls(**{f["name"]: draw(values_of(f["type"], fixed)) for f in fields})


@given(any_facts())
def test_facts_are_read_as_the_avro_library_reads_them(facts: object) -> None:
    raw = codec.encode(facts)
    assert read_facts(raw) == codec.decode(raw) == facts


@given(any_facts(), st.integers(0, 400), st.integers(0, 255))
def test_damaged_facts_are_unreadable_or_what_the_library_reads(facts: object, at: int, byte: int) -> None:
    raw = bytearray(codec.encode(facts))
    raw[at % len(raw)] = byte
    try:
        found = read_facts(bytes(raw))
    except Unreadable:
        return
    assert found == codec.decode(bytes(raw))


@st.composite
def any_record(draw: st.DrawFn) -> object:
    schema = codec.schema_of(draw(st.sampled_from([r.Intent, r.Receipt, r.Dispatch, r.Reply])))
    fields = cast("list[dict[str, Any]]", schema.parsed["fields"])
    fixed: dict[str, int] = {}
    return schema.cls(**{f["name"]: draw(values_of(f["type"], fixed)) for f in fields})


def read(reader: Callable[[bytes], object], raw: bytes) -> object:
    """The record, or the refusal's own words."""
    try:
        return reader(raw)
    except Unreadable as error:
        return error.reason, str(error)


@given(any_record())
def test_records_are_read_as_the_avro_library_reads_them(record: object) -> None:
    raw = codec.encode(record)
    assert decode(raw) == codec.decode(raw) == record
    assert decode_as(type(record), raw) == record
    for other in (r.Message, r.Receipt):
        assert read(partial(decode_as, other), raw) == read(partial(codec.decode_as, other), raw)


LONGS = st.integers(0, 2**70 - 1).map(
    lambda n: bytes((n >> 7 * i & 0x7F) | (0x80 if i < 9 else 0) for i in range(10))
)
"""Ten bytes of varint: 70 bits, of which Avro takes 64."""


@given(
    any_record(),
    st.integers(0, 600),
    st.binary(min_size=1, max_size=3) | LONGS | st.just(b"\xff" * 10),
    st.booleans(),
)
def test_damaged_records_come_to_the_same(record: object, at: int, other: bytes, insert: bool) -> None:
    raw = codec.encode(record)
    at = codec.PREFIX_BYTES + at % len(raw)
    damaged = raw[:at] + other + raw[at if insert else at + len(other) :]
    assert read(decode, damaged) == read(codec.decode, damaged)
    assert read(decode, raw[:at]) == read(codec.decode, raw[:at])


@pytest.mark.parametrize(
    "ten", [b"\xff" * 9 + end for end in (b"\1", b"\2", b"\x7f")] + [b"\x80" * 9 + b"\2"]
)
def test_a_number_of_more_than_64_bits_is_read_as_the_avro_library_reads_it(ten: bytes) -> None:
    time = 0x2AAAAAAA
    raw = codec.encode(r.Intent("c", "a", "s", "tool_call", "t", b"{}", time, None))
    damaged = raw.replace(codec.encode_long(time), ten)
    assert damaged != raw and read(decode, damaged) == read(codec.decode, damaged)


@given(st.sampled_from(OLD), st.data())
def test_old_facts_take_todays_defaults(name: str, data: st.DataObject) -> None:
    schema = codec.OLD[name]
    fixed: dict[str, int] = {}
    fields = cast("list[dict[str, Any]]", schema.parsed["fields"])
    values = {f["name"]: data.draw(values_of(f["type"], fixed)) for f in fields}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema.parsed, values)
    raw = schema.prefix + out.getvalue()
    assert read_facts(raw) == codec.decode(raw)


WORD = st.text("abcdef_", max_size=30)


@given(
    WORD, WORD, WORD, st.lists(st.text(max_size=70), max_size=3), st.lists(st.binary(min_size=16, max_size=16), max_size=3),
    st.lists(WORD, max_size=3), st.none() | st.binary(max_size=9_000), any_facts(), st.text(max_size=300),
    st.integers(0, 2**40),
)  # fmt: skip
def test_a_header_is_taken_apart_as_it_was_put_together(
    stage: str, status: str, reason: str, policies: list[str], causes: list[bytes], labels: list[str],
    content: bytes | None, facts: object, intent: str, seq: int,
) -> None:  # fmt: skip
    seen: list[Outcome] = []
    state = PartitionState(bytes(16), 3, seq=seq)
    origin = Origin(intent, "t", "a", "s", "p", 5, "intents", 3, 7, 2, "sha256:x", "0.1.0")
    outcome = Outcome(
        origin, bytes(range(16)), stage, status, reason, facts, policies, causes, labels, content
    )
    value, digest = seal(outcome, state.log_id, 3, seq, state.prev_hash, lambda s, e, c: c)
    assert split_two(value) == split(value)[:2]
    import sluicegate.processors.folding as folding

    before = folding.apply
    try:
        folding.apply = lambda state, given: (seen.append(given), state)[1]  # type: ignore[attr-defined]
        Folder(state).add(value)
    finally:
        folding.apply = before  # type: ignore[attr-defined]
    [got] = seen
    assert (got.event_id, got.stage, got.status, got.reason) == (outcome.event_id, stage, status, reason)
    assert (got.policies, got.labels, got.facts) == (policies, labels, facts)
    for name in ("intent_id", "tenant", "agent_id", "session_id", "subject", "decided_at", "topic", "partition", "offset",
                 "control_head", "release", "engine"):  # fmt: skip
        assert getattr(got.origin, name) == getattr(origin, name)
    assert state.prev_hash == digest


@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 300])
@pytest.mark.parametrize("letter", ["x", "~", "\U00010000"])
@pytest.mark.parametrize(
    "field", ["intent_id", "tenant", "agent_id", "session_id", "subject", "topic", "engine"]
)
def test_names_whose_length_takes_two_bytes(field: str, letter: str, length: int) -> None:
    """Twice: the second time the names are known."""
    plain = Origin("i", "t", "a", "s", "p", 5, "intents", 3, 7, 2, "sha256:x", "0.1.0")
    origin = replace(plain, **{field: letter * length})  # type: ignore[arg-type]
    outcome = Outcome(origin, bytes(16), "route", "routed", "", r.IntakeFacts("", 0, b""), [], [], [], None)
    header = split(seal(outcome, bytes(16), 3, 0, bytes(32), lambda s, e, c: c)[0])[0]
    for _ in range(2):
        got = reading.rest(reading.head(header).rest)
        assert all(value == getattr(origin, name) for name, value in got._asdict().items()), got


def test_what_does_not_continue_the_chain_is_refused() -> None:
    d = Driver()
    d.open_session()
    d.call("desk.read")
    folder = Folder(PartitionState(b"", 0))
    folder.add(d.records[0].value)
    with pytest.raises(Terminal, match=r"broken at seq 2 \(expected 1\)"):
        folder.add(d.records[2].value)
    with pytest.raises(Terminal, match=r"broken at seq 0 \(expected 1\)"):
        folder.add(d.records[0].value)
    header, facts = split_two(d.records[1].value)
    with pytest.raises(Terminal, match="facts of seq 1"):
        folder.take(header, codec.encode(r.IntakeFacts("x", 1, bytes(16))))
    at = header.index(folder.state.prev_hash)
    wrong = header[:at] + hashlib.sha256(b"").digest() + header[at + 32 :]
    with pytest.raises(Terminal, match=r"broken at seq 1"):
        folder.take(wrong, facts)
