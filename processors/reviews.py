"""Reviews: a person's word on a held intent.

An approval is bound to the digest that was shown, used once, and re-enters at authorize under the state of that
moment. Quorum, roles and edits come later (DESIGN §5.3). Next: `authorize.py`, `plan.py`.
"""

from __future__ import annotations

import hashlib

from sluicegate.processors.authorize import authorize
from sluicegate.processors.plugins import offer
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.validate import validate
from sluicegate.processors.work import Refusal, Work, emit, reply
from sluicegate.schemas.records import IntakeFacts, Review, StageFacts


def decide_review(work: Work, review: Review) -> None:
    """Approve or reject one held intent."""
    o = work.origin
    o.intent_id = review.intent_id
    entry = work.state.intents.get(key_of(o))
    if type(entry) is not OpenIntent or entry.state != "held" or review.verdict not in ("approve", "reject"):
        _note(work, "not_held")
        return
    o.session_id, o.subject = entry.session_id, entry.subject
    if work.source.control_stale:
        _note(
            work, "control_stale"
        )  # nothing is permitted under a head nobody could confirm; review it again
        return
    if review.action_digest != entry.action_digest:
        _note(work, "digest_mismatch")
        return
    if review.verdict == "reject":
        outcome = emit(
            work, "review", "refused", StageFacts(""), "approval_rejected", caused_by=entry.last_event
        )
        reply(work, outcome, detail=review.why[:500])
        return
    problem = restore_call(work, entry)
    if work.decision.needs:
        return
    refusal = Refusal(problem) if problem else None
    if refusal is None and work.now >= deadline_of_held(entry):
        refusal = Refusal("deadline_passed")
    if refusal is None and (work.agent is None or work.session is None):
        refusal = Refusal("unknown_session")
    refusal = refusal or authorize(work, approved=True) or validate(work)
    if work.decision.needs:
        return
    if refusal is not None:
        outcome = emit(
            work, "authorize", "refused", StageFacts("after approval"), refusal.reason, list(refusal.policies),
            caused_by=entry.last_event,
        )  # fmt: skip
        reply(work, outcome, detail=refusal.detail)
        return
    emit(
        work,
        "authorize",
        "permitted",
        stage_facts(work, "approved"),
        policies=work.policies,
        caused_by=entry.last_event,
    )
    emit(work, "validate", "validated", StageFacts(""))
    offer(work)


def deadline_of_held(entry: OpenIntent) -> int:
    """An intent with a deadline of its own is not approved after it; without one the hold's own expiry counts."""
    return entry.deadline_at or entry.due_at


def _note(work: Work, reason: str) -> None:
    digest = hashlib.sha256(work.payload).digest()[:16]
    emit(work, "review", "noted", IntakeFacts("review", len(work.payload), digest), reason)
