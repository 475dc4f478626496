"""Ticks: what happens when nobody reports in time.

    dispatched, unclaimed   offered again with the next attempt, until the deadline: then `expired`
    claimed, no receipt     read_only, idempotent: offered again with the same key, while it lives; queryable: looked up
                            where the contract says how; else `in_doubt`, never by itself. `in_doubt`, too, when another
                            release decides by now: it may name another server
    parked                  looked at again, or given up at its bound (`jobs/jobs.py`)
    held, no review         `expired`
    held or waiting, and its agent was rolled back: `voided`; dispatched: never offered again
    waiting, no verdict     what the guardrail says about a plug-in that fails
    waiting, no answer      looked at again: it goes on, waits longer or is refused (`awaiting.py`)

Before a lease counts as run out, the ledger loop has read `receipts` to an end fetched after the lease and its
margin (`streams/ledger.py`), so a claim that was made in time is never overlooked.
Next: `plan.py`, DESIGN §5.4's table.
"""

from __future__ import annotations

from sluicegate.processors.agents.restore_fold import asks_home
from sluicegate.processors.awaiting import SILENCE
from sluicegate.processors.budget.budgets import reserve_again
from sluicegate.processors.cache.cache import turn_to
from sluicegate.processors.control.quarantine import REASON as QUARANTINED
from sluicegate.processors.jobs import jobs
from sluicegate.processors.jobs.terms import ABSENT, CALLBACK, LOOKUP
from sluicegate.processors.models.aims import aim
from sluicegate.processors.plan import MAX_ATTEMPTS, deadline_of, plan
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.work import Work, emit, reply, stand_with
from sluicegate.schemas.kinds import REPEATABLE as REPEATABLE
from sluicegate.schemas.records import StageFacts


def decide_tick(work: Work, entry: OpenIntent) -> None:
    """The deadline of one open intent is due."""
    o = work.origin
    o.intent_id, o.tenant, o.agent_id, o.session_id = (
        entry.intent_id,
        entry.tenant,
        entry.agent_id,
        entry.session_id,
    )
    o.subject = entry.subject
    stand_with(work, entry)
    if entry.withdrawn and entry.state in ("held", "waiting") and not asks_home(entry):
        _end(work, entry, "voided", "rolled_back")
        return
    if entry.state == "held":
        _end(work, entry, "expired", "approval_expired")
        return
    if entry.state == "waiting":
        SILENCE[entry.awaits](work, entry)
        return
    if _elsewhere(work, entry):
        # INVARIANT: what may have happened is neither repeated nor looked up at another server (tests/unit/test_seams.py).
        _end(work, entry, "in_doubt", "call_in_doubt")
        return
    if entry.state == "parked":
        _parked(work, entry)
        return
    over = work.now >= deadline_of(entry) or entry.attempt >= MAX_ATTEMPTS
    if entry.state == "claimed" and entry.tool_class == "queryable" and jobs.can_look_up(work, entry):
        jobs.look_up(work, entry, "tick")
        return
    if entry.claimed_at and jobs.key_expired(work, entry):
        # INVARIANT: no call is repeated under a key that may be dead (tests/unit/test_jobs.py::test_the_life_of_a_key).
        _end(work, entry, "in_doubt", "call_in_doubt")
        return
    if entry.state == "claimed" and (entry.tool_class not in REPEATABLE or entry.executor == "in_process"):
        _end(work, entry, "in_doubt", "call_in_doubt")
    elif over and entry.state == "claimed":
        # A read that nobody answered did no harm; an idempotent call may have happened.
        read = entry.tool_class == "read_only"
        _end(work, entry, "failed" if read else "in_doubt", "timeout" if read else "call_in_doubt")
    elif over and entry.claimed_at and entry.tool_class != "read_only":
        # INVARIANT: what an earlier attempt may have done is never called `expired`
        # (tests/unit/test_jobs.py::test_a_second_offer_nobody_takes_is_in_doubt).
        _end(work, entry, "in_doubt", "call_in_doubt")
    elif over:
        _end(work, entry, "expired", "no_executor")
    else:
        _offer_again(work, entry)


def _elsewhere(work: Work, entry: OpenIntent) -> bool:
    """Whether a call that may have happened would be asked about, or for, under another release than it was offered under:
    its session was closed or its release withdrawn, and the other one may name another server."""
    if not entry.claimed_at or entry.tool_class == "read_only" or entry.executor == "in_process":
        return False
    asks = entry.state != "parked" or entry.waits_for in (LOOKUP, ABSENT)
    return asks and work.control.deployed != (entry.hold_release or entry.release)


def _parked(work: Work, entry: OpenIntent) -> None:
    """A job or a lookup: the next step of it, or the end of waiting."""
    if entry.waits_for == ABSENT:
        again = entry.tool_class == "queryable" and entry.attempt < MAX_ATTEMPTS
        if again and work.now < deadline_of(entry):
            _offer_again(work, entry)
        else:
            _end(work, entry, "failed", "not_found")
        return
    problem = "job_lost" if work.now >= entry.alive_until else ""
    if not problem and entry.waits_for != CALLBACK:
        problem = jobs.look_again(work, entry)
    if problem:
        _end(work, entry, "failed" if entry.tool_class == "read_only" else "in_doubt", problem)


def _offer_again(work: Work, entry: OpenIntent) -> None:
    problem = restore_call(work, entry)
    if work.decision.needs:
        return
    if not problem and work.action_digest != entry.action_digest:
        # INVARIANT: what is offered again is what was offered (tests/unit/test_redact.py::test_a_second_offer_is_the_same_call).
        problem = "call_changed"
    if problem:
        _end(work, entry, _ended_by(entry), problem)
        return
    aimed = aim(work)
    if work.decision.needs:
        return
    turn_to(work, entry)
    if not aimed:
        _end(work, entry, _ended_by(entry), QUARANTINED)  # the one that was asked is, and no other is left
        return
    reason = reserve_again(work, entry)
    if reason is None:
        return  # a budget has to grow first, which is asked for
    if reason:
        _end(work, entry, _ended_by(entry), reason)
        return
    plan(work, entry.attempt + 1)
    work.decision.outcomes[0].caused_by = [entry.last_event]


def _ended_by(entry: OpenIntent) -> str:
    """The status of a call that is not offered again."""
    if entry.state == "parked":
        return "failed"  # only after a lookup without a trace
    claimed = entry.state == "claimed" or (entry.claimed_at > 0 and entry.tool_class != "read_only")
    return "in_doubt" if claimed else "expired"


def _end(work: Work, entry: OpenIntent, status: str, reason: str) -> None:
    work.origin.release = entry.release  # no release decides this end; it belongs to the one that began it
    outcome = emit(work, "tick", status, StageFacts(""), reason, caused_by=entry.last_event)
    reply(work, outcome)
