"""Memory's part of the fold: operations done here, by a call of this partition or for another one, and answers that came.

A call whose home answered is woken by its deadline: the next tick takes it. Reads facts only.
Next: `memory/cells.py` (how cells move), `state.py` (who calls this).
"""

from __future__ import annotations

import heapq

from sluicegate.processors.cache.entries import WAKE_AT
from sluicegate.processors.crossing.homes import STAGES
from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.memory import cells
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.sessions.session import Session
from sluicegate.schemas.records import CellFacts, MemoryFacts

STAGE = "memory"
"""The stage of outcomes at a home, and of answers that came: they are `noted`. Also what a call awaits."""


def released(
    state: PartitionState, entry: OpenIntent, session: Session | None, outcome: Outcome
) -> tuple[str, int] | None:
    """A call's operation was done. Answers where a home's answer stands. `session`: never a parked one."""
    facts = outcome.facts
    assert isinstance(facts, MemoryFacts | CellFacts)
    if isinstance(facts, CellFacts) and facts.home != state.partition:
        return entry.job_topic, entry.job_offset
    place = (entry.edit_topic, entry.edit_offset) if entry.edit_topic else (entry.topic, entry.offset)
    cells.fold(state, session, outcome, place, entry.agent_id, entry.tenant)
    return None


def fold_noted(state: PartitionState, outcome: Outcome) -> None:
    """What a home did, or that it answered."""
    facts, o = outcome.facts, outcome.origin
    if type(facts) is not CellFacts:
        return
    if facts.op == "told":
        call = state.intents.get(o.key)
        if type(call) is OpenIntent and call.state == "waiting" and call.awaits == STAGE:
            call.job_topic, call.job_offset, call.due_at = o.topic, o.offset, WAKE_AT
            heapq.heappush(state.timers, (WAKE_AT, o.key))
    elif not outcome.reason:
        cells.fold(state, None, outcome, (o.topic, o.offset), facts.writer, o.tenant)


STAGES[STAGE] = fold_noted
