"""Facts of a ledger record taken apart by position: only the fields that the invariants are about.

The Avro library takes five times as long. Damaged bytes are `Unreadable`; a test holds this to `schemas/codec.py`. Never checks
what the values mean. Next: `verify/reading.py` (headers, and what these are made of), `verify/lives.py` (who asks).
"""

from __future__ import annotations

from typing import NamedTuple, cast

from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable


def _texts(b: bytes, p: int) -> tuple[list[str], int]:
    """An array of texts."""
    end = reading._skip_array(b, p, 0)
    found: list[str] = []
    if b[p]:
        count, q = reading._long(b, p)
        for _ in range(count):
            text, q = reading._text(b, q)
            found.append(text)
    return found, end


class Planned(NamedTuple):
    """What an offer says of the call."""

    tool_class: str
    attempt: int


_read_began = reading._compile(
    reading._START,
    tuple,
    [(reading._S,)] * 5 + [(reading._L, "issued_at"), (reading._L, "deadline_at")],
    "",
    "issued_at, p",
)
_read_planned = reading._compile(
    reading._START,
    Planned,
    [(reading._S,), (reading._T, "tool_class"), (reading._S,), (reading._L, "attempt")],
    "",
)


def intent_facts(b: bytes) -> tuple[int, bool]:
    """`issued_at` and `remembered` of `IntentFacts`."""
    try:
        issued_at, p = _read_began(b)
        remembered = b[p + 2] == 1
        # Ledgers from before repeated calls could be limited have no digest of the call.
        if (reading._skip_texts(b, p + 3, 1) if b[: codec.PREFIX_BYTES] == reading.INTENT else p + 3) != len(
            b
        ):
            raise ValueError("another length than it says")
        return issued_at, remembered
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


def plan_facts(b: bytes) -> Planned:
    """`tool_class` and `attempt` of `PlanFacts`."""
    try:
        return cast(Planned, _read_planned(b))
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


def hold_facts(b: bytes) -> tuple[str, int, list[str]]:
    """`tool_class`, `quorum` and `reviewers` of `HoldFacts`."""
    try:
        tool_class, p = reading._text(b, reading._skip_texts(b, reading._START, 1))
        _, p = reading._long(b, reading._skip_texts(b, p, 1))
        _, p = reading._long(b, p)
        quorum, p = reading._long(b, p)
        return tool_class, quorum, _texts(b, p)[0]
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


class Agreed(NamedTuple):
    """What the facts of a review say of who agreed."""

    reviewer: str
    approvals: list[str]
    quorum: int
    reviewers: list[str]
    edited: bool


def review_facts(b: bytes) -> Agreed:
    """Of `ReviewFacts`."""
    try:
        reviewer, p = reading._text(b, reading._skip_texts(b, reading._START, 1))
        approvals, p = _texts(b, reading._skip_texts(b, p, 1))
        quorum, p = reading._long(b, p)
        reviewers, p = _texts(b, p)
        return Agreed(reviewer, approvals, quorum, reviewers, b[p] == 1)
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error


def first_long(b: bytes) -> int:
    """`attempt` of `ClaimFacts` or `ResultFacts`."""
    try:
        return reading._long(b, reading._START)[0]
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", f"the facts are damaged ({error})") from error
