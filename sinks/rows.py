"""One ledger record -> one row of `events`, and its decrypted text -> one row of `contents`.

Never checks the chain or the life cycle (`ledger verify` does) and never raises for a record: what cannot be read
becomes a `Reject`. Next: `avro.py` (how records are read), `ddl.py` (the columns), `ranges.py` (who calls this).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, cast

from sluicegate.schemas import codec, records
from sluicegate.sinks import avro, tables
from sluicegate.sinks.avro import Reader, Values

HEAD_BYTES = 4_096
"""Of an unreadable record, kept in `ingest_rejects`; its length and sha256 are kept too."""
TURN_ROWS = 256
"""x 71 values x about 60 bytes = 1 MB: half of a core's second cache."""


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


Row = tuple[Values, int, bytes, bytes, bytes, bytes, Values, "bytes | None"]
"""fields of the header, offset, header hash, header, facts, name of the facts' schema, their columns, sealed content"""

AT = {name: i for i, name in enumerate(tables.EVENTS.names)}
"""Where a column of `events` stands in `Block.columns`."""
SEALED = len(AT)
"""Where the sealed contents stand: behind those."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be a row; it is counted, so that nothing vanishes silently."""

    offset: int
    reason: str
    detail: str
    value: bytes


# Facts: ten record types share these columns; a column a type has no value for keeps its default.

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
    "grounded_arguments": (),
    "grounded_from": (),
    "grounded_labels": (),
    "observed": (),
    "redacted": (),
    "expires_at": None,
    "quorum": 0,
    "reviewers": (),
    "verdict": b"",
    "reviewer": b"",
    "approvals": (),
    "edited": None,
}
RENAMED: dict[tuple[str, str], str] = {
    ("intent_facts", "version"): "tool_version",
    ("result_facts", "executed_by"): "executor",
    ("plan_facts", "action_digest"): "digest",
    ("hold_facts", "action_digest"): "digest",
    ("review_facts", "action_digest"): "digest",
    ("result_facts", "result_digest"): "digest",
    ("intake_facts", "length"): "input_bytes",
    ("genesis_facts", "env"): "detail",
    ("memory_facts", "op"): "kind",
    ("memory_facts", "scope"): "detail",
    ("memory_facts", "value_digest"): "digest",
}
ONLY_IN_BYTES = {
    ("control_facts", "kid"),
    ("control_facts", "signature"),
    ("genesis_facts", "log_id"),
    ("genesis_facts", "partitions"),
    ("genesis_facts", "signing"),
    ("intent_facts", "call_digest"),
    ("memory_facts", "cell"),
    ("memory_facts", "integrity"),
    ("memory_facts", "confidentiality"),
    ("memory_facts", "version"),
    *(
        ("session_facts", name)
        for name in ("verified", "to_agent", "to_session", "chain", "roles", "calls_cap")
    ),
    ("plan_facts", "measured"),
    ("plan_facts", "amounts"),
    ("stage_facts", "grounded_events"),
    ("stage_facts", "grounded_paths"),
    ("hold_facts", "release"),  # the header's, again
    ("hold_facts", "grounded_events"),
    ("hold_facts", "grounded_paths"),
}


def _facts_reader(name: str) -> Reader:
    """The values of the facts columns, from the bytes of a facts record."""
    source = {column: repr(default) for column, default in FACTS_DEFAULTS.items()}
    for name_in_record in avro.names_of(name):
        column = RENAMED.get((name.split(".")[0], name_in_record), name_in_record)
        if column in source:  # a time of 0 is no time
            none = " or None" if column.endswith(("_at", "_after", "_until")) else ""
            source[column] = f"f_{name_in_record}{none}"
    return avro.compile_reader(name, returns=", ".join(source.values()) + ",")


_FACTS = {
    schema.prefix: (name.split(".")[0].encode(), _facts_reader(name))
    for name, schema in (codec.SCHEMAS | codec.OLD).items()
    if name.split(".")[0].endswith("_facts")
}
_NO_FACTS = tuple(FACTS_DEFAULTS.values())
_OUTCOME = codec.SCHEMAS["outcome"].prefix
_HEADER = codec.SCHEMAS["header"].prefix
_PREFIX = codec.PREFIX_BYTES
_read_outcome = avro.compile_reader("outcome")
_read_header = avro.compile_reader("header", shared_from="intent_id")
_FIELDS = codec.field_names(records.Header)
LOG_ID, PARTITION, SEQ, DECIDED_AT = (
    _FIELDS.index(name) for name in ("log_id", "partition", "seq", "decided_at")
)
"""Where they stand in `Row.fields`."""


def row(record: Record) -> Row | Reject:
    """The row of a record, or why there is none. Total: whatever the bytes are, it does not raise."""
    value = record.value or b""
    if value[:_PREFIX] != _OUTCOME:
        reason = "not_avro" if value[:2] != codec.MAGIC else "unexpected_type"
        return Reject(record.offset, reason, "the value is not an outcome record", value)
    try:
        header, facts, content = cast(tuple[bytes, bytes, bytes | None], _read_outcome(value))
        if header[:_PREFIX] != _HEADER:
            return Reject(
                record.offset, "unknown_schema", "its header is none that this version reads", value
            )
        fields = _read_header(header)
    except (IndexError, ValueError):
        return Reject(record.offset, "malformed_record", "the outcome or its header is damaged", value)
    if fields[PARTITION] != record.partition:
        return Reject(record.offset, "misrouted", f"its header says partition `{fields[PARTITION]}`", value)
    name, columns = b"", _NO_FACTS
    if (reader := _FACTS.get(facts[:_PREFIX])) is not None:
        try:
            name, columns = reader[0], reader[1](facts)
        except (IndexError, ValueError):
            pass  # the row counts, its bytes are kept, its facts columns stay empty
    return (fields, record.offset, sha256(b"\x00" + header).digest(), header, facts, name, columns, content)


class Block:
    """Rows turned into columns, a few at a time, while they are still in the processor's cache.

    Ten thousand at once take three times as long, and keep the garbage collector busy meanwhile.
    """

    def __init__(self) -> None:
        self._columns: list[list[Any]] = [[] for _ in range(SEALED + 1)]
        self._fresh: list[Row] = []

    def append(self, item: Row) -> None:
        """Add a row."""
        self._fresh.append(item)
        if len(self._fresh) == TURN_ROWS:
            self._turn()

    def columns(self, topic: str) -> list[list[Any]]:
        """The columns of `events`, and the sealed contents. Nothing is added after that."""
        self._turn()
        self._columns[0] = [topic] * len(self._columns[1])
        return self._columns

    def _turn(self) -> None:
        if self._fresh:
            fields, offsets, hashes, headers, facts, names, columns, contents = zip(*self._fresh, strict=True)
            ordered = (
                offsets,
                *zip(*fields, strict=True),
                hashes,
                headers,
                facts,
                names,
                *zip(*columns, strict=True),
            )
            for column, values in zip(self._columns[1:], (*ordered, contents), strict=True):
                column.extend(values)
            self._fresh.clear()
