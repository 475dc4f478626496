"""Restore an open intent's call from its own bytes, for a second offer or after an approval.

State holds no content, only where bytes stand: the intent's, and those of the review that put other arguments in
their place. A decision that needs them asks once (`Decision.needs`) and gets them from the ledger loop or from the
replayed ledger. Next: `ticks.py`, `approval/reviews.py`.
"""

from __future__ import annotations

from dataclasses import replace

from sluicegate.processors import erasure
from sluicegate.processors.agents.orders import waiting_order
from sluicegate.processors.authorize import conform_arguments
from sluicegate.processors.control import quarantine
from sluicegate.processors.control.registry import inactive
from sluicegate.processors.guardrails.redact import transform
from sluicegate.processors.handoff.delegation import narrowed
from sluicegate.processors.intake import Problem, take
from sluicegate.processors.large_arguments import REASON as CONTENT
from sluicegate.processors.large_arguments import bring
from sluicegate.processors.payload import record_in
from sluicegate.processors.route import unverified
from sluicegate.processors.sessions.task import REASON as BAD_TASK
from sluicegate.processors.state import OpenIntent, session_of
from sluicegate.processors.validate import bind
from sluicegate.processors.work import Work
from sluicegate.processors.work import at_hand as at_hand
from sluicegate.schemas.records import Intent, Review


def restore_call(work: Work, entry: OpenIntent, edit: bytes | None = None) -> str:
    """Fill `work` as routing would have. A reason when that is impossible, else an empty string.

    `edit`: arguments that stand in place of all earlier ones. When the bytes are not at hand, `work.decision.needs`
    is set and the answer is empty.
    """
    if quarantine.quarantined(
        work.control, entry.agent_id, entry.tool, entry.session_id, work.control.deployed, entry.intent_id
    ):
        return quarantine.REASON
    if entry.withdrawn or waiting_order(work.state, work.control, entry.agent_id) is not None:
        return "rolled_back"  # INVARIANT: nothing of it begins any more (tests/unit/test_agent_rollback.py)
    if erasure.is_erased(work.control, entry.subject):
        return erasure.REASON  # INVARIANT: nothing of it begins any more (tests/unit/test_erasure.py)
    places = [(entry.topic, entry.offset)]
    if entry.edit_topic:  # asked for in any case: then a decision asks once
        places.append((entry.edit_topic, entry.edit_offset))
    values = [at_hand(work, place) for place in places]
    if work.decision.needs:
        return ""
    if values[0] is None:
        return "no_executor"
    taken = take(work.control, entry.topic, values[0], None)
    if isinstance(taken, Problem):
        return taken.reason  # its key was revoked since: nothing it signed begins any more
    if not isinstance(taken.record, Intent):
        return "no_executor"
    if edit is None and len(places) > 1:
        edit = _edited(values[1])
        if edit is None:
            return "no_executor"
    work.intent, work.proof = _as_it_stands(work, entry, taken.record, edit), taken.proof
    work.payload, work.edited = work.payload or taken.payload, edit is not None
    work.large = None
    work.hold, work.policies, work.determined, work.grounded = None, [], [], []  # of an earlier try
    work.observed, work.redacted, work.asks, work.choice, work.aim = [], [], [], None, None
    work.release = work.control.release
    tool = work.release.tools.get(entry.tool) if work.release else None
    if tool is None:
        return "unknown_tool"
    work.tool = tool
    work.agent = work.control.agents.get(entry.agent_id)
    if reason := inactive(work.agent):
        return reason
    work.session = session_of(work.state, entry)
    if work.session is not None and work.agent is not None:
        work.agent = narrowed(work.agent, work.session)
        if reason := unverified(work.release, work.session.on_behalf_of, bool(work.session.verified)):
            return reason
    refusal = bring(work, entry.offset) or (None if work.decision.needs else conform_arguments(work))
    if work.decision.needs:
        return ""
    if refusal is not None:
        return refusal.reason if refusal.reason in (BAD_TASK, CONTENT) else "schema_violation"
    # What was taken out of it stays out: by what was recorded then, not by what rules say by now.
    if transform(work, entry.redacted.split()) is not None:
        return "redaction_breaks_schema"
    bind(work)
    return ""


def _as_it_stands(work: Work, entry: OpenIntent, intent: Intent, edit: bytes | None) -> Intent:
    """The intent with the arguments people put in, and its deadline moved by the time they took."""
    waited_us = work.now - entry.held_at if entry.state == "held" else entry.waited_us
    if intent.deadline_at is not None and waited_us:
        intent = replace(intent, deadline_at=intent.deadline_at + waited_us)
    return intent if edit is None else replace(intent, arguments=edit, arguments_ref=None)


def _edited(value: bytes | None) -> bytes | None:
    """The arguments in a review's bytes. Who signed it was checked when it was folded; the action digest, which the
    state keeps, says whether these are the bytes that people agreed to."""
    record = record_in(value)
    return record.arguments if isinstance(record, Review) else None
