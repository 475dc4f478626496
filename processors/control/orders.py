"""Orders of operators to take calls back: `rollback.ordered` and `rollback.ended`, as control folds them.

An order names the agent that carries it out and the calls it will ask for, each by the id and tool of its compensation.
Two things follow. Those calls, and no others, go on although their tool or the release was quarantined *before* the
order: one stops a tool, and then takes back what it did. What is quarantined after it stops them, and so does a
quarantine of the agent that carries it out or of its session. And the first order for a call says which agent takes it
back, so that two operators never do it twice. Pure. Next: `control/control.py` (who folds), `control/quarantine.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, cast

from sluicegate.processors.jobs.compensate import base_of

ORDERED_KIND: Final = "rollback.ordered"
ENDED_KIND: Final = "rollback.ended"

MAX_ORDERED = 20_000
"""Ordered calls that control remembers, about 400 bytes each: 8 MB. The oldest are forgotten: to go on with those,
order them again."""

OPEN, DONE, VERIFIED = "ordered", "done", "verified"


@dataclass(frozen=True, slots=True)
class Ordered:
    """One call that an operator ordered.

    Attributes:
        above: the quarantines, (scope, id), that stood when it was ordered and do not stop it.
        saga: the saga it belongs to.
        state: `ordered`, `done`, or `verified` when its effect was read back, too.
        order: the control event of the last order that named it, `who` gave it, and `of` is the intent it began at.
    """

    agent_id: str
    tool: str
    saga: str
    above: frozenset[tuple[str, str]] = frozenset()
    state: str = OPEN
    order: int = -1
    who: str = ""
    of: str = ""


Orders = Mapping[str, Ordered]
"""By the id of the compensation's intent, without its number of tries."""


def with_order(
    orders: Orders, body: Mapping[str, object], stands: Mapping[tuple[str, str], str], seq: int, who: str
) -> dict[str, Ordered]:  # fmt: skip
    """The map after one `rollback.ordered`; `stands`: what is quarantined at that moment."""
    new = dict(orders)
    agent, saga = str(body["agent_id"]), str(body["saga"])
    # Which release will decide is not known here: the saga's session may be of a canary, or pinned.
    releases = frozenset(place for place in stands if place[0] == "release")
    for row in cast("list[Mapping[str, object]]", body["calls"]):
        ident, tool = str(row["id"]), str(row["tool"])
        known = new.pop(ident, None)  # to the end: it is no longer the oldest
        if known is not None and known.agent_id != agent:
            # INVARIANT: one agent takes a call back, the one of its first order (tests/unit/test_orders.py).
            new[ident] = known
            continue
        above = releases | ({("tool", tool)} & stands.keys())
        state = known.state if known is not None else OPEN
        new[ident] = Ordered(agent, tool, saga, above, state, seq, who, str(body["of_intent"]))
    for ident in list(new)[: max(0, len(new) - MAX_ORDERED)]:
        del new[ident]
    return new


def with_end(orders: Orders, body: Mapping[str, object]) -> dict[str, Ordered]:
    """The map after one `rollback.ended`: what was done, and what was seen to be done."""
    new = dict(orders)
    for state in (DONE, VERIFIED):
        for ident in cast("list[str]", body.get(state) or []):
            if ident in new:
                new[ident] = replace(new[ident], state=state)
    return new


def without_leave(orders: Orders, scope: str, value: str) -> Orders:
    """The map after something is quarantined: no earlier order stands above that."""
    if not any((scope, value) in one.above for one in orders.values()):
        return orders
    return {k: replace(one, above=one.above - {(scope, value)}) for k, one in orders.items()}


def stands_above(orders: Orders, agent_id: str, tool: str, intent_id: str, place: tuple[str, str]) -> bool:
    """Whether an operator ordered this very call after `place` was quarantined."""
    one = orders.get(base_of(intent_id)) or orders.get(intent_id)
    return one is not None and one.agent_id == agent_id and one.tool == tool and place in one.above
