"""The sink's own readers against fastavro, for every schema and for damaged bytes."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.sinks import avro, rows
from sluicegate.sinks.rows import Record, Reject

from tests.ledger_records import Ledger

LONG = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200) | st.integers(8_000, 20_000)
INT = st.integers(-(2**31), 2**31 - 1) | st.integers(-200, 200)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
READERS = {
    name: avro.compile_reader(name, shared_from="intent_id" if name == "header" else "")
    for name in codec.NAMES
}


def values_of(avro_type: Any, fixed: dict[str, int]) -> st.SearchStrategy[Any]:
    if isinstance(avro_type, list):
        return st.none() | values_of(avro_type[1], fixed)
    if isinstance(avro_type, dict):
        if avro_type["type"] == "array":
            return st.lists(values_of(avro_type["items"], fixed), max_size=5)
        if avro_type["type"] == "fixed":
            fixed[avro_type["name"]] = avro_type["size"]
            return st.binary(min_size=avro_type["size"], max_size=avro_type["size"])
        return values_of(avro_type["type"], fixed)
    known = {
        "int": INT,
        "long": LONG,
        "string": TEXT,
        "bytes": st.binary(max_size=300),
        "boolean": st.booleans(),
    }
    if avro_type in known:
        return known[avro_type]
    return st.binary(min_size=fixed[avro_type], max_size=fixed[avro_type])


@st.composite
def any_record(draw: st.DrawFn) -> tuple[str, object]:
    name = draw(st.sampled_from(codec.NAMES))
    fields = cast(list[dict[str, Any]], codec.SCHEMAS[name].parsed["fields"])
    fixed: dict[str, int] = {}
    strategies = {field["name"]: values_of(field["type"], fixed) for field in fields}
    return name, codec.SCHEMAS[name].cls(**{n: draw(strategy) for n, strategy in strategies.items()})


def raw(value: Any) -> Any:
    """As the readers leave it: strings as bytes, lists as what compares equal to a list."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list | tuple):
        return [raw(item) for item in value]
    return value


def _in_64_bits(value: Any) -> Any:
    """A varint beyond 64 bits as the library has it, which lets its upper bits go."""
    return (value + 2**63) % 2**64 - 2**63 if type(value) is int else value


def fields_of(name: str, record: object) -> list[Any]:
    return [raw(getattr(record, field)) for field in codec.field_names(codec.SCHEMAS[name].cls)]


@given(any_record())
def test_every_record_is_read_as_fastavro_reads_it(named: tuple[str, object]) -> None:
    name, record = named
    data = codec.encode(record)
    assert codec.decode(data) == record
    for _ in range(2):  # the second time the shared end comes from the cache
        assert [raw(v) for v in READERS[name](data)] == fields_of(name, record)


@given(any_record(), st.data())
def test_damaged_bytes_are_refused_or_read_as_fastavro_reads_them(
    named: tuple[str, object], data: st.DataObject
) -> None:
    name, record = named
    good = codec.encode(record)
    at = data.draw(st.integers(codec.PREFIX_BYTES, len(good)))
    bad = data.draw(
        st.sampled_from(
            [
                good[:at],
                good + b"\x00",
                good[:at] + b"\xff" + good[at:],
                good[:at] + good[at + 1 :],
                good[:at] + bytes(12),
            ]
        )
    )
    try:
        wanted: list[Any] | None = fields_of(name, codec.decode(bad))
    except Unreadable:
        wanted = None
    try:
        found: list[Any] | None = [raw(v) for v in READERS[name](bad)]
    except (IndexError, ValueError):
        found = None
    # What fastavro reads must be read the same. The other way round only UTF-8 and out-of-range varints may differ:
    # strings stay bytes here, and the record's writer is our own.
    if wanted is not None:
        assert found is not None and [_in_64_bits(v) for v in found] == wanted


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda b: codec.SCHEMAS["outcome"].prefix + b))
def test_a_row_or_a_reject_whatever_the_bytes(value: bytes) -> None:
    assert isinstance(rows.row(Record("outcomes", 0, 0, value)), Reject)


@pytest.mark.parametrize("flip", [1, 0x80])
def test_a_row_or_a_reject_whatever_byte_is_flipped(flip: int) -> None:
    value = Ledger().many(1)[0].value or b""
    for at in range(len(value)):
        broken = value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :]
        rows.row(Record("outcomes", 0, 0, broken))


def test_the_cache_of_shared_ends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avro, "SHARED_MAX", 3)
    read = avro.compile_reader("header", shared_from="intent_id")
    ledger = Ledger()
    headers = []
    for record in ledger.many(40):
        outcome = codec.decode(record.value or b"")
        headers.append(outcome.header)  # type: ignore[attr-defined]
    for header in headers * 2:
        assert [raw(v) for v in read(header)] == fields_of("header", codec.decode(header))
