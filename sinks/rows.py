"""One ledger record -> one row of `events`, and its decrypted text -> one row of `contents`.

Headers and facts are read by functions compiled from the Avro schemas, by position: fastavro and the record
structs take four times as long, and every outcome passes here. A property test holds them to fastavro. Strings stay
bytes, as ClickHouse wants them. Never checks the chain or the life cycle (`ledger verify` does) and never raises
for a record: what cannot be read becomes a `Reject`. Next: `clickhouse.py` (who calls this), `ddl.py` (the columns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, cast

from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable

HEAD_BYTES = 4_096
"""Of an unreadable record, kept in `ingest_rejects`; its length and sha256 are kept too."""

SHARED_MAX = 4_096
"""Header ends remembered: x about 1.5 kB = 6 MB."""

Values = tuple[object, ...]
Reader = Callable[[bytes], Values]


class ContentOpener(Protocol):
    """Opens sealed content; the key store's side of it is `streams/keys.py`."""

    def open(self, subject: str, event_id: bytes, sealed: bytes) -> bytes | None:
        """The plain bytes, or None when the subject's key was erased."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a ledger topic as a consumer gives it; `topic` is without the environment's prefix."""

    topic: str
    partition: int
    offset: int
    value: bytes | None


class Row(NamedTuple):
    """One ledger record, ready for `events` and `contents`. A tuple: they are made by the ten thousand."""

    log_id: bytes
    seq: int
    offset: int
    decided_at: int
    header_hash: bytes
    size: int
    values: Values
    sealed: tuple[str, bytes, bytes] | None
    """subject, event id, ciphertext"""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be a row; it is counted, so that nothing vanishes silently."""

    offset: int
    reason: str
    detail: str
    value: bytes


# Reading Avro by position. `b` is the record, `p` the position in it; each field leaves its value in `f<n>`.


def _long(b: bytes, p: int) -> tuple[int, int]:
    """The varint at `p`, still zig-zag, and where it ends."""
    value = shift = 0
    while True:
        byte = b[p]
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, p
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")


def _array(b: bytes, p: int, size: int) -> tuple[list[bytes], int]:
    """An array of strings (`size` 0) or of fixed bytes, and where it ends."""
    items: list[bytes] = []
    while True:
        count, p = _long(b, p)
        if count == 0:
            return items, p
        if count & 1:  # a negative count: the block's length in bytes follows
            count += 1
            _, p = _long(b, p)
        if count >> 1 > len(b):
            raise ValueError("an array longer than its record")
        for _ in range(count >> 1):
            n, p = (size << 1, p) if size else _long(b, p)
            items.append(b[p : p + (n >> 1)])
            p += n >> 1


_VARINT = """n = b[p]
if n < 128: p += 1
else:
    m = b[p + 1]
    if m < 128:
        n += (m << 7) - 128
        p += 2
    else: n, p = long(b, p)
"""
_BYTES = 4_096
"""Of an unreadable record, kept in `ingest_rejects`; its length and sha256 are kept too."""

SHARED_MAX = 4_096
"""Header ends remembered: x about 1.5 kB = 6 MB."""

Values = tuple[object, ...]
Reader = Callable[[bytes], Values]


class ContentOpener(Protocol):
    """Opens sealed content; the key store's side of it is `streams/keys.py`."""

    def open(self, subject: str, event_id: bytes, sealed: bytes) -> bytes | None:
        """The plain bytes, or None when the subject's key was erased."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a ledger topic as a consumer gives it; `topic` is without the environment's prefix."""

    topic: str
    partition: int
    offset: int
    value: bytes | None


class Row(NamedTuple):
    """One ledger record, ready for `events` and `contents`. A tuple: they are made by the ten thousand."""

    log_id: bytes
    seq: int
    offset: int
    decided_at: int
    header_hash: bytes
    size: int
    values: Values
    sealed: tuple[str, bytes, bytes] | None
    """subject, event id, ciphertext"""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be a row; it is counted, so that nothing vanishes silently."""

    offset: int
    reason: str
    detail: str
    value: bytes


# Reading Avro by position. `b` is the record, `p` the position in it; each field leaves its value in `f<n>`.


def _long(b: bytes, p: int) -> tuple[int, int]:
    """The varint at `p`, still zig-zag, and where it ends."""
    value = shift = 0
    while True:
        byte = b[p]
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, p
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")


def _array(b: bytes, p: int, size: int) -> tuple[list[bytes], int]:
    """An array of strings (`size` 0) or of fixed bytes, and where it ends."""
    items: list[bytes] = []
    while True:
        count, p = _long(b, p)
        if count == 0:
            return items, p
        if count & 1:  # a negative count: the block's length in bytes follows
            count += 1
            _, p = _long(b, p)
        if count >> 1 > len(b):
            raise ValueError("an array longer than its record")
        for _ in range(count >> 1):
            n, p = (size << 1, p) if size else _long(b, p)
            items.append(b[p : p + (n >> 1)])
            p += n >> 1


_VARINT = "n = b[p]\nif n < 128: p += 1\nelse: n, p = long(b, p)\n"
_BYTES = _VARINT + "if n & 1: raise ValueError\nq = p + (n >> 1)\n{f} = b[p:q]\np = q\n"


def _lines(avro_type: object, f: str, fixed: dict[str, int]) -> str:
    """The statements that read one field."""
    if isinstance(avro_type, dict):
        kind = avro_type["type"]
        if kind == "array":
            items = avro_type["items"]
            size = fixed.get(items.rsplit(".", 1)[-1], 0)
            return f"if b[p] == 0:\n    {f} = ()\n    p += 1\nelse: {f}, p = array(b, p, {size})\n"
        if kind == "fixed":
            fixed[avro_type["name"].rsplit(".", 1)[-1]] = avro_type["size"]
            return f"{f} = b[p:p + {avro_type['size']}]\np += {avro_type['size']}\n"
        return _lines(kind, f, fixed)
    if isinstance(avro_type, list):  # only ["null", T] is used
        inner = _lines(avro_type[1], f, fixed).replace("\n", "\n    ").rstrip(" ")
        return f"n = b[p]\np += 1\nif n == 0: {f} = None\nelif n == 2:\n    {inner}else: raise ValueError\n"
    if avro_type in ("string", "bytes"):
        return _BYTES.format(f=f)
    if avro_type in ("int", "long"):
        return _VARINT + f"{f} = (n >> 1) ^ -(n & 1)\n"
    if avro_type == "boolean":
        return f"{f} = b[p] == 1\np += 1\n"
    size = fixed[cast(str, avro_type).rsplit(".", 1)[-1]]
    return f"{f} = b[p:p + {size}]\np += {size}\n"


def _compile(name: str, shared_from: str = "") -> Reader:
    """A function from a record's bytes, prefix included, to its fields in schema order.

    The fields from `shared_from` on are read once for each run of equal bytes: an input's outcomes share them.
    """
    fixed: dict[str, int] = {}
    fields = cast(list[dict[str, object]], codec.SCHEMAS[name].parsed["fields"])
    reads = [_lines(field["type"], f"f{i}", fixed) for i, field in enumerate(fields)]
    cut = [cast(str, field["name"]) for field in fields].index(shared_from) if shared_from else len(fields)
    values = ["".join(f"f{i}, " for i in part) for part in (range(cut), range(cut, len(fields)))]
    lines = [
        "def tail(b):",
        "p = 0",
        *reads[cut:],
        "if p != len(b): raise ValueError",
        f"return ({values[1]})",
    ]
    source = "\n".join(lines).replace("\n", "\n    ") + "\n"
    lines = ["def read(b):", f"p = {codec.PREFIX_BYTES}", *reads[:cut]]
    if shared_from:
        lines += ["rest = b[p:]", "t = cache.get(rest)", "if t is None:", "    t = tail(rest)"]
        lines += [
            f"    if len(cache) >= {SHARED_MAX}: cache.clear()",
            "    cache[rest] = t",
            f"return ({values[0]}*t)",
        ]
    else:
        lines += ["if p != len(b): raise ValueError", f"return ({values[0]})"]
    source += "\n".join(lines).replace("\n", "\n    ")
    scope: dict[str, object] = {"long": _long, "array": _array, "cache": {}}
    exec(source, scope)  # built from our own .avsc files only
    return cast(Reader, scope["read"])


_READERS: dict[bytes, tuple[str, Reader]] = {
    schema.prefix: (name, _compile(name, "intent_id" if name == "header" else ""))
    for name, schema in codec.SCHEMAS.items()
}


def read(data: bytes) -> tuple[str, Values]:
    """The schema's name and the fields, in schema order.

    Raises:
        Unreadable: `not_avro`, `unknown_schema` or `malformed_record`, as `codec.decode` does.
    """
    found = _READERS.get(data[: codec.PREFIX_BYTES])
    if found is None:
        codec.decode(data)  # says what is wrong
        raise Unreadable("unknown_schema", "the record's schema has no reader, report it as a bug")
    try:
        return found[0], found[1](data)
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the {found[0]} record is damaged") from error


# Facts: eight record types share these columns; a column a type has no value for keeps its default.

FACTS_DEFAULTS: dict[str, object] = {
    "kind": b"",
    "tool": b"",
    "tool_version": b"",
    "executor": b"",
    "tool_class": b"",
    "attempt": 0,
    "timeout_ms": 0,
    "error_class": b"",
    "issued_at": None,
    "deadline_at": None,
    "started_at": None,
    "finished_at": None,
    "not_after": None,
    "lease_until": None,
    "result_bytes": 0,
    "input_bytes": 0,
    "digest": b"",
    "detail": b"",
    "origin": b"",
    "on_behalf_of": b"",
    "authenticated": None,
    "control_stale": None,
    "remembered": None,
    "who": b"",
    "why": b"",
    "body": b"",
}
RENAMED: dict[tuple[str, str], str] = {
    ("intent_facts", "version"): "tool_version",
    ("result_facts", "executed_by"): "executor",
    ("plan_facts", "action_digest"): "digest",
    ("result_facts", "result_digest"): "digest",
    ("intake_facts", "length"): "input_bytes",
    ("genesis_facts", "env"): "detail",
}
ONLY_IN_BYTES = {("genesis_facts", "log_id"), ("genesis_facts", "partitions"), ("genesis_facts", "signing")}


def _flatten(name: str) -> Callable[[Values], Values]:
    """Compiled: the fields of a facts record -> the values of the facts columns."""
    fields = cast(list[dict[str, object]], codec.SCHEMAS[name].parsed["fields"])
    source = {column: repr(default) for column, default in FACTS_DEFAULTS.items()}
    for i, field in enumerate(fields):
        column = RENAMED.get((name, cast(str, field["name"])), cast(str, field["name"]))
        if column in source:  # a time of 0 is no time
            source[column] = f"f[{i}] or None" if column.endswith(("_at", "_after", "_until")) else f"f[{i}]"
    return cast(Callable[[Values], Values], eval(f"lambda f: ({', '.join(source.values())},)"))


_FLATTEN = {name: (name.encode(), _flatten(name)) for name in codec.NAMES if name.endswith("_facts")}
_NO_FACTS: tuple[bytes, Values] = (b"", tuple(FACTS_DEFAULTS.values()))

_OUTCOME = codec.SCHEMAS["outcome"].prefix
_HEADER = codec.SCHEMAS["header"].prefix
_read_outcome = _READERS[_OUTCOME][1]
_read_header = _READERS[_HEADER][1]
_LOG_ID, _PARTITION, _SEQ, _EVENT_ID, _SUBJECT, _DECIDED_AT = 1, 2, 3, 4, 18, 19
"""Positions in the header; a test holds them to the schema."""


def _facts(facts: bytes) -> tuple[bytes, Values]:
    """Facts of a schema this version does not know leave their columns empty: the row counts, its bytes are kept."""
    try:
        name, values = read(facts)
    except Unreadable:
        return _NO_FACTS
    found = _FLATTEN.get(name)
    return _NO_FACTS if found is None else (found[0], found[1](values))


def row(record: Record) -> Row | Reject:
    """The row of a record. Total: whatever the bytes are, it answers and does not raise."""
    value = record.value or b""
    try:
        if value[: codec.PREFIX_BYTES] != _OUTCOME:
            raise Unreadable(
                "not_avro" if value[:2] != codec.MAGIC else "unexpected_type", "not an outcome record"
            )
        header, facts, content = cast(tuple[bytes, bytes, bytes | None], _read_outcome(value))
        if header[: codec.PREFIX_BYTES] != _HEADER:
            raise Unreadable("malformed_record", "the outcome does not hold a header this version can read")
        values: Any = _read_header(header)
        if values[_PARTITION] != record.partition:
            raise Unreadable("misrouted", f"the header says partition `{values[_PARTITION]}`")
    except (Unreadable, IndexError, ValueError) as error:
        reason = error.reason if isinstance(error, Unreadable) else "malformed_record"
        return Reject(record.offset, reason, str(error) or type(error).__name__, value)
    header_hash = sha256(b"\x00" + header).digest()
    facts_type, flat = _facts(facts)
    return Row(
        values[_LOG_ID],
        values[_SEQ],
        record.offset,
        values[_DECIDED_AT],
        header_hash,
        len(value),
        (record.topic.encode(), record.offset, *values, header_hash, header, facts, facts_type, *flat),
        None
        if content is None
        else (values[_SUBJECT].decode("utf-8", "replace"), values[_EVENT_ID], content),
    )


def columns(rows: Sequence[Values]) -> list[Sequence[object]]:
    """Rows turned into columns, as ClickHouse takes them."""
    return list(zip(*rows, strict=True))
