"""Sessions that are over: remembered for a while, since people and evaluators score them then.

Filled by the fold alone, in the order in which sessions ended, so that the oldest goes first. No call is ever decided by
one. Next: `sessions/scores.py` (who asks), `state.py`.
"""

from __future__ import annotations

from sluicegate.processors.entries import Closed, PartitionState
from sluicegate.processors.memory import cells
from sluicegate.processors.sessions.resting import REST_US
from sluicegate.processors.sessions.session import Session

CLOSED_US = 3 * 24 * 3_600 * 1_000_000
"""A session can be scored for so long after its end."""
MAX_CLOSED = 20_000
"""Of one partition: about 350 bytes each, 7 MB; of more the oldest cannot be scored any more."""


def end(state: PartitionState, name: str, session: Session) -> None:
    """A session ended now."""
    cells.forget_session(state, session)
    state.closed.pop(name, None)  # an earlier one of the same name
    state.closed[name] = Closed(state.now, session.subject, session.release, session.opened_by)
    if len(state.closed) > MAX_CLOSED:
        del state.closed[next(iter(state.closed))]


def sweep(state: PartitionState, idle_since: int) -> None:
    """End sessions nobody used since then, and forget those that are over for long."""
    for name in state.sessions.idle(idle_since):  # by name: a state from a snapshot has them in another order
        end(state, name, state.sessions.pop(name))
    state.sessions.rest(state.now - REST_US)
    limit = state.now - CLOSED_US
    for name in list(state.closed):
        if state.closed[name].at >= limit:
            break
        del state.closed[name]
