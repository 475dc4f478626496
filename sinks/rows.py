"""One ledger record -> one row of `events`.

Never checks the chain or the life cycle (`ledger verify` does) and never raises for a record: what cannot be read
becomes a `Reject`. Next: `avro.py` and `facts.py` (how records are read), `block.py` (rows into columns), `ranges.py` (who calls this).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol, cast

from sluicegate.schemas import codec, records
from sluicegate.sinks import avro, facts
from sluicegate.sinks.avro import Values

HEAD_BYTES = 4_096
"""Of an unreadable record, kept in `ingest_rejects`; its length and sha256 are kept too."""


class ContentOpener(Protocol):
    """Opens sealed content; the key store's side of it is `streams/keys/store.py`."""

    def open(self, subject: str, event_id: bytes, sealed: bytes) -> bytes | None:
        """The plain bytes, or None when the subject's key was erased."""
        ...


class Record(NamedTuple):
    """One record of a ledger topic as a consumer gives it; `topic` is without the environment's prefix."""

    topic: str
    partition: int
    offset: int
    value: bytes | None


Row = tuple[Values, int, bytes, bytes, bytes, int, Values, "bytes | None"]
"""fields of the header, offset, header hash, header, facts, kind of the facts, their columns, sealed content"""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be a row; it is counted, so that nothing vanishes silently."""

    offset: int
    reason: str
    detail: str
    value: bytes


_OUTCOME = codec.SCHEMAS["outcome"].prefix
_HEADER = codec.SCHEMAS["header"].prefix
_read_outcome = cast(Callable[[bytes], tuple[bytes, bytes, bytes | None]], avro.compile_reader("outcome"))
_read_header = avro.compile_reader("header", shared_from="intent_id")
_FIELDS = codec.field_names(records.Header)
LOG_ID, PARTITION, SEQ, DECIDED_AT = (
    _FIELDS.index(name) for name in ("log_id", "partition", "seq", "decided_at")
)
"""Where they stand in `Row.fields`."""


def row(record: Record) -> Row | Reject:
    """The row of a record, or why there is none. Total: whatever the bytes are, it does not raise."""
    _, partition, offset, value = record
    value = value or b""
    if not value.startswith(_OUTCOME):
        reason = "not_avro" if value[:2] != codec.MAGIC else "unexpected_type"
        return Reject(offset, reason, "the value is not an outcome record", value)
    try:
        header, raw, content = _read_outcome(value)
        if not header.startswith(_HEADER):
            return Reject(offset, "unknown_schema", "its header is none that this version reads", value)
        fields = _read_header(header)
    except (IndexError, ValueError):
        return Reject(offset, "malformed_record", "the outcome or its header is damaged", value)
    if fields[PARTITION] != partition:
        return Reject(offset, "misrouted", f"its header says partition `{fields[PARTITION]}`", value)
    kind, columns = facts.read(raw)
    return (fields, offset, sha256(b"\x00" + header).digest(), header, raw, kind, columns, content)
