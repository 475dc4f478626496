"""The record in an input's bytes, signed or not.

For what was decided before: who signed it was checked when it came in (`intake.py`), and is not looked at again. Pure.
"""

from __future__ import annotations

from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Envelope


def record_in(value: bytes | None) -> object:
    """The record; None where the bytes are gone or hold none."""
    try:
        record = codec.decode(value or b"")
        return codec.decode(record.payload) if isinstance(record, Envelope) else record
    except Unreadable:
        return None
