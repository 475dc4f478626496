"""Scores: what a person or an evaluator says of a session, recorded so that releases can be compared by it.

A score decides nothing: no call, no budget, no label depends on one. It counts when its session is open or ended within
three days, its value is in 0 to 10,000, and its scorer is somebody: a registered person, or an evaluator that the release
names. Everything else is `noted` with its reason. The comment is content; facts have the number.
Never scores anything itself. Next: `sessions/closed.py`, `releases/evaluators.py` (what a release says), `streams/watch/evaluator.py`.
"""

from __future__ import annotations

import hashlib

from sluicegate.processors.outcomes import intent_key, score_key
from sluicegate.processors.route import valid_id, window
from sluicegate.processors.state import MAX_REMEMBERED_IDS, Ended, OpenIntent, session_key
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import IntakeFacts, Score, ScoreFacts
from sluicegate.schemas.scores import EVALUATOR, SCORE_KINDS, SCORE_MAX

STAGE = "score"
METRIC_CHARS = 64


def decide_score(work: Work, score: Score) -> None:
    """One score: `scored`, or `noted` with why not."""
    o, state = work.origin, work.state
    digest = hashlib.sha256(work.payload).digest()[:16]
    known = valid_id(score.session_id) and valid_id(score.score_id)
    name = session_key(o.agent_id, score.session_id)
    session = (state.sessions.get(name) or state.parked.get(name)) if known else None
    closed = state.closed.get(name) if known and session is None else None
    release, cause = "", b""
    if session is not None:
        o.session_id, o.subject, release, cause = (
            score.session_id,
            session.subject,
            session.release,
            session.opened_by,
        )
    elif closed is not None:
        o.session_id, o.subject, release, cause = (
            score.session_id,
            closed.subject,
            closed.release,
            closed.opened_by,
        )
    reason = "" if session or closed else "nothing_to_score"
    if not valid_id(score.score_id):
        reason = "bad_identifier"
    reason = reason or _problem(work, score)
    if not reason:
        seen = state.intents.get(score_key(o.tenant, o.agent_id, score.score_id))
        if isinstance(seen, Ended):
            # INVARIANT: an id counts once (tests/unit/test_scores.py): a worker that sends again after a crash adds nothing.
            reason = "duplicate" if seen.digest == digest else "id_conflict"
        elif len(state.intents) >= MAX_REMEMBERED_IDS:
            reason = "overloaded"
    if reason:
        emit(work, STAGE, "noted", IntakeFacts("score", len(work.payload), digest), reason)
        return
    o.intent_id = score.intent_id
    facts = ScoreFacts(
        score.score_id, score.scorer, score.kind, score.metric, score.value, release, digest, work.authenticated,
        work.source.control_stale, score.issued_at,
    )  # fmt: skip
    emit(work, STAGE, "scored", facts, caused_by=cause)


def _problem(work: Work, score: Score) -> str:
    """Why a score of a session that is known does not count, or an empty text."""
    if reason := window(score.issued_at, work.now):
        return reason
    if not 0 <= score.value <= SCORE_MAX:
        return "score_out_of_range"
    if score.kind not in SCORE_KINDS or not (valid_id(score.metric) and len(score.metric) <= METRIC_CHARS):
        return "unknown_metric"
    if score.scorer in work.control.agents:
        # INVARIANT: no agent scores a session, least of all its own (tests/unit/test_scores.py).
        return "agent_cannot_review"
    if score.kind == EVALUATOR:
        release = work.control.release
        if release is None or score.scorer not in {e.name for e in release.evaluators}:
            return "unknown_evaluator"
    elif score.scorer not in work.control.people:
        return "unknown_person"
    if not score.intent_id:
        return ""
    o = work.origin
    entry = work.state.intents.get(intent_key(o.tenant, o.agent_id, score.intent_id))
    other = isinstance(entry, OpenIntent) and entry.session_id != score.session_id
    return "nothing_to_score" if entry is None or other or not valid_id(score.intent_id) else ""
