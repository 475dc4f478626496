"""Jobs: work that goes on at the tool after its first answer, and calls whose end is looked up there.

The call is `parked`: it waits in the state, not in an executor. A tick offers each look as a dispatch of its own, so a
crash of whoever looked costs one lease; a sign of life extends the time that is waited, up to a bound that nothing
moves. A look is a read: it needs no claim, and it goes on in quarantine, because what was begun is not undone.
Never makes the call again, but after a lookup that found no trace of it. Next: `jobs/terms.py`, `receipts.py`,
`ticks.py`; the other side is `executors/jobs.py`.
"""

from __future__ import annotations

import orjson
from sluicegate.processors.artifacts import limit_of
from sluicegate.processors.jobs.terms import (
    ABSENT,
    CALLBACK,
    COMPLETIONS,
    LOOKUP,
    LOOKUP_LIMIT_US,
    MISSED_LOOKS,
    POLL,
    US,
    interval_us,
)
from sluicegate.processors.models.streaming import rules_context
from sluicegate.processors.payload import record_in
from sluicegate.processors.plan import LEASE_US, idempotency_key
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.releases.contract import Governance
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import OpenIntent, session_of
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Dispatch, JobFacts, Receipt
from sluicegate.schemas.topics import MAX_RESULT_BYTES

PARKED, PROGRESS, TRACELESS = "parked", "progress", "absent"
"""Kinds of receipts that only this module takes."""
MAX_JOB_CHARS = 512
"""Of a job's name."""


def acceptable(entry: OpenIntent, receipt: Receipt) -> bool:
    """Whether a receipt of these kinds may move this intent."""
    mine = 0 < receipt.attempt <= entry.attempt
    if receipt.kind == PARKED:
        if job_of(receipt)[0] not in COMPLETIONS:
            return False
        waits = entry.state in ("claimed", "in_doubt") or (
            entry.state == "parked" and entry.waits_for == LOOKUP
        )
        return mine and (waits or (entry.state == "dispatched" and entry.tool_class == "read_only"))
    if entry.state != "parked":
        return False
    if receipt.kind == PROGRESS and entry.waits_for == CALLBACK:
        return mine
    # INVARIANT: only the look that is out now says something; one that was given up does not
    # (tests/unit/test_jobs.py::test_an_answer_to_an_older_look_is_noted).
    same = receipt.dispatch_id == entry.dispatch_id
    return same and (receipt.kind == PROGRESS or entry.waits_for == LOOKUP)


def job_of(receipt: Receipt) -> tuple[str, str]:
    """(completion, the tool's name of the work) in a `parked` receipt; empty texts when it says none."""
    try:
        said = orjson.loads(receipt.result or b"")
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(said, dict):
        return "", ""
    completion, job = said.get("completion"), said.get("job", "")
    if not isinstance(completion, str) or not isinstance(job, str) or len(job) > MAX_JOB_CHARS:
        return "", ""
    return completion, job


def take(work: Work, entry: OpenIntent, receipt: Receipt) -> None:
    """An acceptable receipt of these kinds."""
    if receipt.kind == PARKED:
        _park(work, entry, receipt)
    elif receipt.kind == TRACELESS:
        # At once: the next tick offers the call again.
        _wait(work, entry, ABSENT, work.now, entry.alive_until, note="")
    else:
        _sign(work, entry, receipt)


def _park(work: Work, entry: OpenIntent, receipt: Receipt) -> None:
    completion, _ = job_of(receipt)
    rules = _rules(work, entry)
    ends_at = work.now + rules.job_limit_s * US
    alive_until = _alive(work, rules, ends_at)
    due_at = min(alive_until, work.now + _interval(rules, 0)) if completion == POLL else alive_until
    facts = JobFacts(receipt.attempt, completion, 0, due_at, alive_until, ends_at, 0, True, "")
    outcome = emit(work, "execute", "parked", facts, "parked", caused_by=entry.last_event)
    reply(work, outcome)


def _sign(work: Work, entry: OpenIntent, receipt: Receipt) -> None:
    """A sign of life, or a look that brought nothing: that one extends nothing."""
    rules = _rules(work, entry)
    note = receipt.error_class if receipt.error_class in REASONS else "crashed" if receipt.error_class else ""
    alive_until = entry.alive_until if note else max(entry.alive_until, _alive(work, rules, entry.ends_at))
    looks = entry.waits_for in (POLL, LOOKUP)
    due_at = min(alive_until, work.now + _interval(rules, entry.polls)) if looks else alive_until
    _wait(work, entry, entry.waits_for, due_at, alive_until, note)


def _wait(work: Work, entry: OpenIntent, waits_for: str, due_at: int, alive_until: int, note: str) -> None:
    facts = JobFacts(
        entry.attempt, waits_for, entry.polls, due_at, alive_until, entry.ends_at, 0, False, note
    )
    emit(work, "execute", "parked", facts, caused_by=entry.last_event)


def _interval(rules: Governance, polls: int) -> int:
    """Until the next look, in microseconds; several fit into the time of one heartbeat."""
    wait_us = interval_us(rules.poll_every_s * US, polls)
    return min(wait_us, rules.heartbeat_s * US // MISSED_LOOKS) if rules.heartbeat_s else wait_us


def _alive(work: Work, rules: Governance, ends_at: int) -> int:
    """Until when this sign of life counts."""
    # INVARIANT: no heartbeat moves the bound (tests/unit/test_jobs.py::test_heartbeats_never_move_the_bound).
    return min(ends_at, work.now + rules.heartbeat_s * US) if rules.heartbeat_s else ends_at


def _rules(work: Work, entry: OpenIntent) -> Governance:
    """What the contract says now; its defaults when there is none any more."""
    tool = _tool(work, entry)
    return tool.contract.governance if tool else Governance.model_validate({"executor": {"kind": "http"}})


def _tool(work: Work, entry: OpenIntent) -> CompiledTool | None:
    release = work.control.release
    return release.tools.get(entry.tool) if release is not None else None


# -- looks ------------------------------------------------------------------------------------------------------


def can_look_up(work: Work, entry: OpenIntent) -> bool:
    """Whether the contract says how to ask the tool what became of a call."""
    tool = _tool(work, entry)
    executor = tool.contract.governance.executor.model_dump() if tool else {}
    return entry.executor == "http" and isinstance(executor.get("lookup"), dict)


def look_up(work: Work, entry: OpenIntent, stage: str) -> None:
    """Offer the first lookup of a call nobody knows the end of."""
    ends_at = work.now + LOOKUP_LIMIT_US
    _offer_look(work, entry, LOOKUP, "", 1, ends_at, ends_at, stage)


def look_again(work: Work, entry: OpenIntent) -> str:
    """The next look at a parked call; a reason when that is impossible, else an empty text."""
    job = ""
    if entry.waits_for == POLL:
        value = at_hand(work, (entry.job_topic, entry.job_offset))
        if work.decision.needs:
            return ""
        job = _job_in(value)
        if not job:
            return "job_lost"
    if _tool(work, entry) is None:
        return "unknown_tool"
    _offer_look(work, entry, entry.waits_for, job, entry.polls + 1, entry.alive_until, entry.ends_at, "plan")
    return ""


def _offer_look(
    work: Work, entry: OpenIntent, purpose: str, job: str, polls: int, alive_until: int, ends_at: int, stage: str
) -> None:  # fmt: skip
    tool, o = _tool(work, entry), work.origin
    assert tool is not None
    not_after = work.now + LEASE_US
    due_at = not_after + tool.timeout_ms * 1000
    facts = JobFacts(entry.attempt, purpose, polls, due_at, alive_until, ends_at, not_after, False, "")
    outcome = emit(work, stage, "parked", facts, caused_by=entry.last_event)
    large = limit_of(tool.executor) > MAX_RESULT_BYTES  # then the executor validates what it finds
    if large:
        work.tool, work.session = tool, session_of(work.state, entry)
        work.agent = work.control.agents.get(entry.agent_id)
    key = idempotency_key(entry.tenant, entry.agent_id, entry.intent_id, entry.action_digest)
    work.decision.dispatches.append(
        Dispatch(
            outcome.event_id, o.intent_id, o.agent_id, o.session_id, o.tenant, tool.name, "read_only", tool.executor,
            b"{}", entry.action_digest, key, entry.attempt, tool.timeout_ms, not_after, "", work.control.head, b"",
            True, purpose, job, release=work.control.deployed if large else "",
            around=rules_context(work, None) if large and work.agent is not None else b"",
        )
    )  # fmt: skip


def _job_in(value: bytes | None) -> str:
    """The job that a receipt's bytes name."""
    record = record_in(value)
    return job_of(record)[1] if isinstance(record, Receipt) else ""


def key_expired(work: Work, entry: OpenIntent) -> bool:
    """Whether a second offer could reach the tool after the life of the call's key."""
    if entry.tool_class != "idempotent":
        return False
    life_s = _rules(work, entry).key_lifetime_s
    # Counted from before the first call, to after the last moment of the next one: never too long.
    last = work.now + LEASE_US + entry.timeout_ms * 1000
    return life_s > 0 and last > entry.issued_at + entry.waited_us + life_s * US


def late_callback(work: Work, entry: OpenIntent) -> bool:
    """Whether an end may come for an attempt that was claimed before the offer that is out now."""
    return entry.claimed_at > 0 and _rules(work, entry).completion == CALLBACK
