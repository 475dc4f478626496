"""Awaiting: calls that passed every stage and wait, and what is done when their time has come.

    ""        plug-ins were asked: `guardrails/verdicts.py` says what their silence means
    "pause"   a model's server named a time before which it must not be asked again
    "cache"   an equal call runs, or its home was asked: looked at again when its turn has come (`cache/cache.py`)
    "memory"  the home of a shared scope was asked: its answer is here, or did not come in time (`memory/memory.py`)
    "grant"   a budget's home was asked for more: looked at again when the grant came, and at its deadline

What waits is `OpenIntent.awaits`. Never says how long a call waits: that is its plan's `not_after`. Next: `offering.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.guardrails.verdicts import decide_silence
from sluicegate.processors.memory import memory
from sluicegate.processors.offering import proceed_from
from sluicegate.processors.plan import PAUSE, deadline_of
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.work import Work, emit, reply


def look_again(work: Work, entry: OpenIntent) -> None:
    """Take the road on from the step the call waits at; the step finds out whether it may go on, waits or refuses."""
    if restore_waiting(work, entry):
        proceed_from(work, "" if entry.awaits == PAUSE else entry.awaits)
        if work.decision.outcomes:
            work.decision.outcomes[0].caused_by = [entry.last_event]


def restore_waiting(work: Work, entry: OpenIntent) -> bool:
    """Fill `work` with a waiting call. False: bytes are missing (`work.decision.needs`), or it was refused just now."""
    problem = restore_call(work, entry)
    if work.decision.needs:
        return False
    if not problem and work.action_digest != entry.action_digest:
        # INVARIANT: what runs after a wait is what was permitted before (tests/unit/test_budget_leases.py).
        problem = "call_changed"
    if not problem and work.session is None:
        problem = "unknown_session"
    if not problem and work.now >= deadline_of(entry):
        problem = "deadline_passed"
    if not problem:
        return True
    outcome = emit(work, "plan", "refused", stage_facts(work, "waited"), problem, caused_by=entry.last_event)
    reply(work, outcome)
    return False


SILENCE: dict[str, Callable[[Work, OpenIntent], None]] = {
    "": decide_silence,
    "grant": look_again,
    PAUSE: look_again,
    "cache": look_again,
    memory.KIND: memory.look_again,
}
"""What is awaited -> what a due deadline does."""
