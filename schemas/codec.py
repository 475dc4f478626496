"""Bytes <-> records: Avro single-object encoding (`C3 01`, CRC-64-AVRO fingerprint, body).

Spec: Avro 1.12, "Single-object encoding". Encoders are compiled once per schema into a Python function,
because a ledger record is written four times an intent; a property test holds them to fastavro, which does
all the reading. Never guesses: an unknown fingerprint, a short body or trailing bytes are `Unreadable`.
Next: `records.py` (the structs), `processors/outcomes.py` (the ledger's header, encoded in two halves).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import TypeVar, cast

import fastavro
from sluicegate.schemas import records
from sluicegate.schemas.errors import Unreadable

MAGIC = b"\xc3\x01"
PREFIX_BYTES = 10
"""Magic and fingerprint."""

# Lengths and small integers are looked up, not computed: 16,384 entries x about 60 bytes = 1 MB once.
_TABLE = 1 << 14

Record = object
T = TypeVar("T")


def _varint(z: int) -> bytes:
    out = bytearray()
    while z > 0x7F:
        out.append((z & 0x7F) | 0x80)
        z >>= 7
    out.append(z)
    return bytes(out)


_ZIGZAG = [_varint(i << 1) for i in range(_TABLE)]
_CHUNK = [bytes(((i & 0x7F) | 0x80, (i >> 7) | 0x80)) for i in range(_TABLE)]


def encode_long(value: int) -> bytes:
    """Avro `int`/`long`: zig-zag, little-endian base 128. Raises `ValueError` beyond 64 bits."""
    if 0 <= value < _TABLE:
        return _ZIGZAG[value]
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"`{value}` does not fit 64 bits")
    z = (value << 1) ^ (value >> 63)
    if z >> 28:  # of a timestamp the upper half stays for two minutes
        return _CHUNK[z & 0x3FFF] + _CHUNK[z >> 14 & 0x3FFF] + _upper(z >> 28)
    return _CHUNK[z & 0x3FFF] + _upper(z >> 14) if z >= _TABLE else _varint(z)


@lru_cache(maxsize=1_024)
def _upper(z: int) -> bytes:
    return _varint(z)


def encode_bytes(value: bytes) -> bytes:
    """Avro `bytes`."""
    return encode_long(len(value)) + value


def encode_string(value: str) -> bytes:
    """Avro `string`. Raises `UnicodeEncodeError` for lone surrogates."""
    raw = value.encode()
    return encode_long(len(raw)) + raw


def encode_array(items: list[T], encode: Callable[[T], bytes]) -> bytes:
    """Avro `array`: one block, or none."""
    if not items:
        return b"\x00"
    return encode_long(len(items)) + b"".join(map(encode, items)) + b"\x00"


@dataclass(frozen=True, slots=True)
class Schema:
    """One record type: its struct, its Avro schema and its fingerprint."""

    name: str
    parsed: dict[str, object]
    prefix: bytes
    cls: type
    encode_body: Callable[[object], bytes]


_LENGTH = "(zigzag[n] if (n := len({0})) < table else long(n))"
_ATOMS = {
    # Two parts of the join. Calls cost more than what they do here, so the usual case is written out.
    "string": _LENGTH.format("s{1} := {0}.encode()") + ", s{1}",
    "bytes": _LENGTH.format("s{1} := {0}") + ", s{1}",
    "int": "(zigzag[n] if 0 <= (n := {0}) < table else long(n))",
    "long": "(zigzag[n] if 0 <= (n := {0}) < table else long(n))",
    "boolean": "(b'\\x01' if {0} else b'\\x00')",
}
_ITEMS = {**_ATOMS, "string": "string({0})", "bytes": "bytes_({0})", "int": "long({0})", "long": "long({0})"}
"""In arrays and behind a union: one expression."""


def _expression(
    avro_type: object, value: str, fixed: dict[str, int], atoms: dict[str, str] = _ITEMS, at: int = 0
) -> str:
    """The Python expression, or expressions, that encode `value`, the field at index `at`, as `avro_type`."""
    if isinstance(avro_type, list):  # only ["null", T] is used
        inner = _expression(avro_type[1], value, fixed)
        return f"(b'\\x00' if {value} is None else b'\\x02' + {inner})"
    if isinstance(avro_type, dict):
        kind = avro_type["type"]
        if kind == "array":
            item = _expression(avro_type["items"], "x", fixed)
            return f"(array({value}, lambda x: {item}) if {value} else b'\\x00')"  # most are empty
        if kind == "fixed":
            fixed[avro_type["name"].rsplit(".", 1)[-1]] = avro_type["size"]
            return f"fixed({value}, {avro_type['size']})"
        return _expression(kind, value, fixed, atoms, at)
    name = cast(str, avro_type)
    if name in atoms:
        return atoms[name].format(value, at)
    return f"fixed({value}, {fixed[name.rsplit('.', 1)[-1]]})"


def _fixed(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"a fixed of {size} bytes got {len(value)}")
    return value


def _compile(raw: dict[str, object]) -> Callable[[object], bytes]:
    fixed: dict[str, int] = {}
    parts = [
        _expression(f["type"], f"r.{f['name']}", fixed, _ATOMS, at)
        for at, f in enumerate(cast(list[dict[str, object]], raw["fields"]))
    ]
    source = "lambda r: b''.join((" + ", ".join(parts) + ",))"
    scope = {
        "string": encode_string,
        "bytes_": encode_bytes,
        "long": encode_long,
        "array": encode_array,
        "fixed": _fixed,
        "zigzag": _ZIGZAG,
        "table": _TABLE,
    }
    return cast(Callable[[object], bytes], eval(source, scope))  # built from our own .avsc files only


def _load(name: str, *folder: str) -> Schema:
    text = resources.files("sluicegate.schemas").joinpath("avro", *folder, f"{name}.avsc").read_text("utf-8")
    raw = json.loads(text)
    cls = getattr(records, raw["name"])
    encode_body = _compile(raw)
    # Logical types stay in the file for other languages; here a time is an int, not a datetime.
    plain = json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if k != "logicalType"})
    parsed = cast(dict[str, object], fastavro.parse_schema(plain))
    digest = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(plain), "CRC-64-AVRO")
    return Schema(name, parsed, MAGIC + bytes.fromhex(digest), cls, encode_body)


NAMES = tuple(
    sorted(
        p.name[:-5]
        for p in resources.files("sluicegate.schemas").joinpath("avro").iterdir()
        if p.name.endswith(".avsc")
    )
)
SCHEMAS: dict[str, Schema] = {name: _load(name) for name in NAMES}
OLD = {
    p.name[:-5]: _load(p.name[:-5], "old")
    for p in sorted(
        resources.files("sluicegate.schemas").joinpath("avro", "old").iterdir(), key=lambda p: p.name
    )
    if p.name.endswith(".avsc")
}
"""`name.fingerprint` -> a schema that was written once. It is read for ever: fields added since take their defaults."""
_BY_PREFIX: dict[bytes, Schema] = {s.prefix: s for s in (*OLD.values(), *SCHEMAS.values())}
_BY_CLASS: dict[type, Schema] = {s.cls: s for s in SCHEMAS.values()}


def schema_of(cls: type) -> Schema:
    """The schema of a record struct."""
    return _BY_CLASS[cls]


def encode(record: object) -> bytes:
    """Single-object encoding of a record struct. Raises `ValueError` for a value the schema cannot hold."""
    schema = _BY_CLASS[type(record)]
    return schema.prefix + schema.encode_body(record)


def decode(data: bytes) -> object:
    """The record in `data`.

    Raises:
        Unreadable: `not_avro`, `unknown_schema` or `malformed_record`.
    """
    if data[:2] != MAGIC or len(data) < PREFIX_BYTES:
        raise Unreadable(
            "not_avro", "the value is not an Avro single-object encoding (it must begin with C3 01)"
        )
    schema = _BY_PREFIX.get(data[:PREFIX_BYTES])
    if schema is None:
        raise Unreadable(
            "unknown_schema",
            f"schema fingerprint `{data[2:PREFIX_BYTES].hex()}` is unknown to this version, upgrade the workers "
            "or publish with a schema of schemas/avro",
        )
    body = io.BytesIO(data)
    body.seek(PREFIX_BYTES)
    try:
        values = fastavro.schemaless_reader(body, schema.parsed, None)
    except Exception as error:  # fastavro raises many kinds for damaged bytes
        raise Unreadable(
            "malformed_record", f"the {schema.name} record is damaged ({type(error).__name__})"
        ) from error
    if body.tell() != len(data):
        raise Unreadable("malformed_record", f"the {schema.name} record has trailing bytes")
    return schema.cls(**cast(dict[str, object], values))


def decode_as(cls: type[T], data: bytes) -> T:
    """`decode`, and refuse another record type (`unexpected_type`)."""
    record = decode(data)
    if not isinstance(record, cls):
        raise Unreadable("unexpected_type", f"expected {cls.__name__}, got {type(record).__name__}")
    return record


def field_names(cls: type) -> tuple[str, ...]:
    """Names of a struct's fields, in schema order."""
    return tuple(f.name for f in fields(cls))
