"""The result in an input's bytes, wherever it came from: an executor's receipt, a person's word, another partition.

Signed or not. Never says whether it fits, or who may see it. Next: `receipts.py`, `jobs/resolve.py`, `cache/cache.py`.
"""

from __future__ import annotations

from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Envelope, Exchange, Receipt, Resolution


def result_in(value: bytes) -> bytes | None:
    """The result as it was reported, or None when these bytes hold none."""
    try:
        record = codec.decode(value)
        if isinstance(record, Envelope):
            record = codec.decode(record.payload)
    except Unreadable:
        return None
    return record.result if isinstance(record, Resolution) else observed(record)


def observed(record: object) -> bytes | None:
    """The result in a record that an executor made, here or for another partition: no person's word."""
    if isinstance(record, Exchange):  # `cache/homes.py` writes them: a line about the result, then the result
        return record.body.partition(b"\n")[2] or None
    return record.result if isinstance(record, Receipt) else None
