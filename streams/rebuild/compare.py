"""Where two stores part: the first event of a partition that they do not have alike.

Every header names the one before, so prefixes with the same last hash are the same: only what comes after the last of them is
compared. Reads only, and of each store once. Next: `rebuild/rebuild.py` (the folds), `stores.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.verify.reading import head
from sluicegate.schemas.errors import Unreadable
from sluicegate.streams.rebuild.rebuild import Folded
from sluicegate.streams.stores import Event, Store


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event that two stores do not have alike."""

    seq: int
    event_id: str
    what: str


async def first_difference(one: Store, a: Folded, other: Store, b: Folded) -> Difference | None:
    """Where two folds of a partition part; None when what both have is the same.

    The last prefix that both have alike is found among the checkpoints; the events after it are compared.
    """
    known = [seq for seq, link in a.checkpoints.items() if b.checkpoints.get(seq) == link]
    first = max(known, default=-1) + 1
    last = max(a.seq, b.seq) + 1  # one more: what broke a fold is not counted in it
    mine, theirs = one.between(a.partition, first, last), other.between(a.partition, first, last)
    left: dict[int, Event] = {}
    right: dict[int, Event] = {}
    at = first
    async for batch in mine:
        _into(left, batch.events, at)
        top = max(left, default=at - 1)
        async for batch in theirs:
            _into(right, batch.events, at)
            if max(right, default=-1) >= top:
                break
        while at <= top:
            found = _compare(at, left.pop(at, None), right.pop(at, None), one.name, other.name)
            if found is not None:
                return found
            at += 1
    async for batch in theirs:
        _into(right, batch.events, at)
    return _compare(min(right), None, right[min(right)], one.name, other.name) if right else None


def _into(found: dict[int, Event], events: Sequence[Event], after: int) -> None:
    """By seq; a header that cannot be read stands where it was found."""
    for event in events:
        try:
            after = head(event[0]).seq
        except Unreadable:
            after = max(found, default=after - 1) + 1
        found[after] = event


def _compare(seq: int, mine: Event | None, theirs: Event | None, one: str, other: str) -> Difference | None:
    if mine == theirs:
        return None
    there = mine or theirs
    assert there is not None
    try:
        event = head(there[0]).event_id.hex()
    except Unreadable:
        event = ""
    if mine is None or theirs is None:
        return Difference(seq, event, f"{one if mine is None else other} does not have it")
    part = "header" if mine[0] != theirs[0] else "facts"
    links = f": {header_hash(mine[0]).hex()[:16]} and {header_hash(theirs[0]).hex()[:16]}"
    return Difference(seq, event, f"its {part} is another one{links if part == 'header' else ''}")
