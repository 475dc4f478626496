"""A request that may be sent again: its id and what it asks for, so that the ledger tells a repetition from another request.

The window is the ledger's own for ids, 24 h. Next: `sdk/asking.py`, `gateway/repeats.py` (who makes them).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Once:
    """One request.

    Attributes:
        ident: of the intent or message; empty for a random one.
        request: digest of what is asked for; empty for a request that is never repeated.
    """

    ident: str = ""
    request: str = ""


NEW = Once()
