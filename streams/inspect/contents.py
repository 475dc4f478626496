"""The content of a ledger record, opened where the key store allows it.

Never seals and makes no key. Next: `inspect/explain.py` (what is told of it), `keys/store.py` (the store).
"""

from __future__ import annotations

from sluicegate.processors.replay.recorded import Opener
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.inspect.find import LedgerEvent

ERASED = "ERASED"


def content_of(event: LedgerEvent, opener: Opener) -> bytes | str | None:
    """The plain bytes, ERASED, or None when there is no content."""
    if event.sealed is None:
        return None
    try:
        value = opener(event.header.subject, event.header.event_id, event.sealed)
    except SluicegateError as error:
        return str(error)
    return ERASED if value is None else value
