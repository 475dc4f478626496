"""The compiled encoders against fastavro, and decoding against everything that is not a record."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any, cast

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.outcomes import HEADER_VERSION, Origin, Outcome, from_header, header_hash, seal
from sluicegate.schemas import codec, records
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.reasons import REASONS

from tests.golden import make

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
SIZES = {"string": TEXT, "bytes": st.binary(max_size=80), "boolean": st.booleans()}
INT = st.integers(-(2**31), 2**31 - 1)
LONG = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**15), 2**15))


def values(avro: object, fixed: dict[str, int]) -> st.SearchStrategy[Any]:
    """Everything an Avro type can hold."""
    if isinstance(avro, list):
        return st.none() | values(avro[1], fixed)
    if isinstance(avro, dict):
        kind = avro["type"]
        if kind == "fixed":
            fixed[avro["name"].rsplit(".", 1)[-1]] = avro["size"]
            return st.binary(min_size=avro["size"], max_size=avro["size"])
        return st.lists(values(avro["items"], fixed), max_size=4) if kind == "array" else values(kind, fixed)
    if avro in ("int", "long"):
        return INT if avro == "int" else LONG
    if avro in SIZES:
        return cast("st.SearchStrategy[Any]", SIZES[cast(str, avro)])
    size = fixed[cast(str, avro).rsplit(".", 1)[-1]]
    return st.binary(min_size=size, max_size=size)


def structs(name: str) -> st.SearchStrategy[object]:
    schema, fixed = codec.SCHEMAS[name], cast("dict[str, int]", {})
    fields = cast("list[dict[str, object]]", schema.parsed["fields"])
    return st.builds(schema.cls, **{str(f["name"]): values(f["type"], fixed) for f in fields})


def by_fastavro(record: object) -> bytes:
    """Single-object encoding by the library alone."""
    schema = codec.schema_of(type(record))
    out = io.BytesIO()
    fastavro.schemaless_writer(
        out, schema.parsed, {n: getattr(record, n) for n in codec.field_names(type(record))}
    )
    return b"\xc3\x01" + schema.prefix[2:] + out.getvalue()


@pytest.mark.parametrize("name", codec.NAMES)
@given(data=st.data())
def test_the_compiled_encoder_writes_fastavros_bytes_and_reads_them_back(
    name: str, data: st.DataObject
) -> None:
    record = data.draw(structs(name))
    encoded = codec.encode(record)
    assert encoded == by_fastavro(record)
    assert codec.decode(encoded) == record


@given(LONG)
def test_numbers(value: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    assert codec.encode_long(value) == out.getvalue()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**200])
def test_a_number_beyond_64_bits_is_never_written(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        codec.encode_long(value)


def test_a_fixed_of_another_length_and_a_lone_surrogate_are_never_written() -> None:
    reply = cast(records.Reply, make.record("reply"))
    for field, value in (("event_id", b"short"), ("reason", "\ud800")):
        broken = codec.decode_as(records.Reply, codec.encode(reply))
        setattr(broken, field, value)
        with pytest.raises(ValueError):
            codec.encode(broken)


GOLDEN = [bytes.fromhex(row["bytes"]) for row in json.loads(make.FILE.read_text("utf-8")).values()]
PREFIXED = st.builds(
    lambda schema, body: schema.prefix + body,
    st.sampled_from(sorted(codec.SCHEMAS.values(), key=lambda s: s.name)),
    st.binary(),
)
DAMAGED = st.builds(
    lambda good, at, new, cut: (good[: at % len(good)] + new + good[at % len(good) + len(new) :])[: len(good) - cut],
    st.sampled_from(GOLDEN), st.integers(0, 10_000), st.binary(min_size=1, max_size=4), st.integers(0, 3),
)  # fmt: skip


@given(st.one_of(st.binary(), PREFIXED, DAMAGED, st.binary().map(lambda b: b"\xc3\x01" + b)))
def test_no_bytes_raise_anything_but_unreadable(value: bytes) -> None:
    try:
        record = codec.decode(value)
    except Unreadable as error:
        assert error.reason in REASONS
        assert str(error) and "\n" not in str(error)
    else:
        assert type(record) in {s.cls for s in codec.SCHEMAS.values()}


@pytest.mark.parametrize("good", GOLDEN)
def test_trailing_and_missing_bytes_are_refused(good: bytes) -> None:
    for bad, reason in ((good + b"\0", "malformed_record"), (good[:-1], "malformed_record"), (good[:9], "not_avro"),
                        (good[:2] + bytes(8) + good[10:], "unknown_schema"), (b"", "not_avro"), (b"{}" * 20, "not_avro")):  # fmt: skip
        with pytest.raises(Unreadable) as caught:
            codec.decode(bad)
        assert caught.value.reason == reason


def test_another_type_than_expected_is_refused() -> None:
    with pytest.raises(Unreadable) as caught:
        codec.decode_as(records.Intent, codec.encode(make.record("receipt")))
    assert caught.value.reason == "unexpected_type"


FACTS = st.sampled_from([name for name in codec.NAMES if name.endswith("_facts")]).flatmap(structs)
IDS = st.binary(min_size=16, max_size=16)
ORIGINS = st.builds(Origin, TEXT, TEXT, TEXT, TEXT, TEXT, LONG, TEXT, INT, LONG, LONG, TEXT, TEXT)


@given(
    ORIGINS, IDS, TEXT, TEXT, TEXT, FACTS, st.lists(TEXT, max_size=3), st.lists(IDS, max_size=3), st.lists(TEXT, max_size=3),
    st.none() | st.binary(max_size=60), IDS, INT, LONG, st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_seal_writes_the_header_the_codec_would(
    origin: Origin, ident: bytes, stage: str, status: str, reason: str, facts: object, policies: list[str],
    caused_by: list[bytes], labels: list[str], content: bytes | None, log_id: bytes, partition: int, seq: int, prev: bytes,
) -> None:  # fmt: skip
    outcome = Outcome(origin, ident, stage, status, reason, facts, policies, caused_by, labels, content)

    def sealer(subject: str, event: bytes, plain: bytes) -> bytes:
        assert (subject, event) == (origin.subject, ident)
        return b"sealed:" + plain

    sealed = None if content is None else b"sealed:" + content
    facts_bytes = codec.encode(facts)
    header = records.Header(
        HEADER_VERSION, log_id, partition, seq, ident, stage, status, reason, policies, caused_by, labels,
        hashlib.sha256(facts_bytes).digest(), None if sealed is None else hashlib.sha256(sealed).digest(), prev,
        origin.intent_id, origin.tenant, origin.agent_id, origin.session_id, origin.subject, origin.decided_at,
        origin.topic, origin.partition, origin.offset, origin.control_head, origin.release, origin.engine,
    )  # fmt: skip
    expected = codec.encode(records.Outcome(codec.encode(header), facts_bytes, sealed))
    for _ in range(2):  # the second time the header's second half comes from the cache
        value, digest = seal(outcome, log_id, partition, seq, prev, sealer)
        assert value == expected
        assert (
            digest
            == header_hash(codec.encode(header))
            == hashlib.sha256(b"\0" + codec.encode(header)).digest()
        )
    back = from_header(header, facts, content)
    origin.tail = b""  # the cache is no part of the outcome
    assert back == outcome
