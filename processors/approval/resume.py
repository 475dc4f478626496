"""Resume: a person lets a halted session go on.

A review with the verdict `resume`; its `intent_id` names the session. Every limit of the session counts anew from there
(`guardrails/derail.py`). Only a registered person may do it, and it is recorded who did. What changes nothing is `noted` with its
reason. Never lets the refused calls run: the agent has to ask again. Next: `guardrails/derail.py`, `approval/reviews.py`.
"""

from __future__ import annotations

import hashlib

from sluicegate.processors.route import valid_id
from sluicegate.processors.state import session_key
from sluicegate.processors.work import Work, emit, reply, stand_on
from sluicegate.schemas.records import IntakeFacts, Review, SessionFacts

VERDICT = "resume"
KIND = "session.resume"
BY_A_PERSON = "person"
"""`origin` of the facts; `on_behalf_of` then is the person."""

WHY_CHARS = 500


def decide_resume(work: Work, review: Review) -> None:
    """One review with the verdict `resume`."""
    o = work.origin
    name = review.intent_id
    session = work.state.sessions.get(session_key(o.agent_id, name)) if valid_id(name) else None
    if session is not None:
        o.session_id, o.subject = session.session_id, session.subject
        stand_on(work, name, session)
    reason = _problem(work, review, session.halted if session else "")
    digest = hashlib.sha256(work.payload).digest()[:16]
    if reason:
        emit(work, "session", "noted", IntakeFacts("resume", len(work.payload), digest), reason)
        return
    assert session is not None
    facts = SessionFacts(
        KIND, BY_A_PERSON, review.reviewer, digest, work.authenticated, work.source.control_stale, review.issued_at
    )  # fmt: skip
    outcome = emit(work, "session", "resumed", facts, caused_by=session.opened_by)
    reply(work, outcome, detail=review.why[:WHY_CHARS])


def _problem(work: Work, review: Review, halted: str) -> str:
    """Why this review changes nothing, or an empty text."""
    if not halted:
        return "not_halted"
    if review.reviewer in work.control.agents:
        # INVARIANT: no agent lets its own session go on (tests/unit/test_derail.py::test_only_a_person_resumes).
        return "agent_cannot_review"
    if review.reviewer not in work.control.people:
        return "unknown_person"
    return "control_stale" if work.source.control_stale else ""
