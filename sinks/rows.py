"""One ledger record -> one row of `events`, and its decrypted text -> one row of `contents`.

Never checks the chain or the life cycle (`ledger verify` does) and never raises for a record: what cannot be read
becomes a `Reject`. Next: `avro.py` (how records are read), `ddl.py` (the columns), `ranges.py` (who calls this).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, cast

from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.sinks import avro
from sluicegate.sinks.avro import Values

HEAD_BYTES = 4_096
"""Of an unreadable record, kept in `ingest_rejects`; its length and sha256 are kept too."""


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
_read_outcome = avro.READERS[_OUTCOME][1]
_read_header = avro.READERS[_HEADER][1]
_LOG_ID, _PARTITION, _SEQ, _EVENT_ID, _SUBJECT, _DECIDED_AT = 1, 2, 3, 4, 18, 19
"""Positions in the header; a test holds them to the schema."""


def _facts(facts: bytes) -> tuple[bytes, Values]:
    """Facts of a schema this version does not know leave their columns empty: the row counts, its bytes are kept."""
    try:
        name, values = avro.read(facts)
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
