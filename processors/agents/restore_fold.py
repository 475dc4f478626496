"""What a rollback of an agent changes in the state: the fold of `restored`, which carries every value it sets.

Sessions of after the cut are withdrawn, with what they remembered; calls that have not ended are marked, so that nothing
of them reaches the agent any more (`ticks.py`, `receipts.py`), and those that only wait have their end now.
Folds only, and from facts only. Next: `agents/restore.py` (who decides), `state.py` (who calls this).
"""

from __future__ import annotations

import heapq

import orjson
from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.cache.entries import WAKE_AT
from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.memory import cells
from sluicegate.processors.outcomes import Outcome, intent_key
from sluicegate.schemas.kinds import MEMORY
from sluicegate.schemas.records import RestoreFacts

STAGE, RESTORED = "rollback", "restored"

WITHDRAWN_KEPT_US = 7 * 24 * 3_600_000_000
"""How long a session that was withdrawn can be brought back by taking the rollback back."""
MAX_WITHDRAWN = 50_000
"""Of one partition, about 250 bytes each: 12 MB. The oldest cannot be brought back then."""


def fold(state: PartitionState, outcome: Outcome) -> None:
    """Fold one `restored`."""
    facts, agent = outcome.facts, outcome.origin.agent_id
    assert isinstance(facts, RestoreFacts)
    state.restored[agent] = facts.order
    if outcome.reason:
        return
    if facts.piece == 0:
        state.marks.pop(agent, None)
        if facts.mark:
            state.marks[agent] = facts.mark
        _withdraw_calls(state, agent)
    for name in facts.withdrawn:
        _withdraw_session(state, f"{agent}\0{name}")
    for raw in facts.sessions:
        session = agent_values.session_from(orjson.loads(raw))
        key = f"{agent}\0{session.session_id}"
        state.sessions[key] = session
        state.parked.pop(key, None)
        state.withdrawn.pop(key, None)
    for cell in facts.forgotten:
        old = state.memory.get(cell)
        if old is not None:
            cells.drop(state, cell, cells.shelf_of(old.scope, agent, ""))
    for raw in facts.cells:
        given = orjson.loads(raw)
        given_cell = agent_values.cell_from(given)
        shelf = cells.shelf_of(given_cell.scope, agent, "")
        cells.put(state, bytes.fromhex(given["key"]), given_cell, shelf)


def _withdraw_session(state: PartitionState, key: str) -> None:
    session = state.sessions.pop(key, None)
    if session is None:
        return
    cells.forget_session(state, session)
    state.withdrawn[key] = (session.opened_by, state.now)
    while len(state.withdrawn) > MAX_WITHDRAWN:
        del state.withdrawn[next(iter(state.withdrawn))]
    if session.held:
        state.parked[key] = session


def _withdraw_calls(state: PartitionState, agent: str) -> None:
    """What the agent asked and has not ended: nothing of it reaches the agent any more, and what waits has its end now."""
    for entry in state.intents.objects():
        if type(entry) is OpenIntent and entry.agent_id == agent:
            entry.withdrawn = 1
            if entry.state in ("held", "waiting") and not asks_home(entry):
                entry.due_at = WAKE_AT
                key = intent_key(entry.tenant, entry.agent_id, entry.intent_id)
                heapq.heappush(state.timers, (WAKE_AT, key))


def asks_home(entry: OpenIntent) -> bool:
    """Whether it is a write that the home of shared memory may do: it is in flight, though it waits."""
    return entry.awaits == MEMORY and entry.tool_class != "read_only"


def sweep(state: PartitionState) -> None:
    """Once an hour: sessions that were withdrawn long ago."""
    limit = state.now - WITHDRAWN_KEPT_US
    for key in [key for key, (_, at) in state.withdrawn.items() if at < limit]:
        del state.withdrawn[key]
