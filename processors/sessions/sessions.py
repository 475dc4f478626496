"""Sessions: opened, heard, closed.

`messages` carries what channels report: only there do words count as the user's. An agent that has no channel
may open a session itself, by an intent of kind `session.open`; such a session says `origin=agent`.
Next: `route.py` (who needs sessions), `pipeline.py`.
"""

from __future__ import annotations

from sluicegate.processors import erasure
from sluicegate.processors.agents.orders import waiting_order
from sluicegate.processors.control.registry import inactive
from sluicegate.processors.control.tokens import Refused, Verified, verify_token
from sluicegate.processors.route import unverified, valid_id, window
from sluicegate.processors.sessions import task
from sluicegate.processors.state import MAX_SESSIONS, Ended, message_key, session_key
from sluicegate.processors.work import Work, digest_of, emit, reply, stand_on
from sluicegate.schemas.records import IntakeFacts, Message, SessionFacts

OPEN = "session.open"
KINDS = (OPEN, "session.user_said", "session.close")


def decide_session(
    work: Work,
    kind: str,
    session_id: str,
    issued_at: int,
    *,
    origin: str,
    on_behalf_of: str = "",
    subject: str = "",
    token: str = "",
    about: bytes = b"",
) -> None:
    """Emit `opened`, `heard`, `closed` or `session_refused`. `about`: the task it is opened with, as JSON."""
    state, o = work.state, work.origin
    assert work.agent is not None
    name = session_key(o.agent_id, session_id)
    session = state.sessions.get(name)
    reason, detail = window(issued_at, work.now), ""
    verified = False
    if not reason and kind == "session.open" and token:
        found = verify_token(work.control, token, work.now)
        verified = isinstance(found, Verified)
        if isinstance(found, Refused):
            reason, detail = "bad_token", found.detail
        elif on_behalf_of not in ("", found.on_behalf_of):
            reason, detail = "bad_token", "on_behalf_of is not the token's subject"
        else:
            on_behalf_of = found.on_behalf_of
    named = [text for text in (on_behalf_of, subject) if text]
    if not reason and not (valid_id(session_id) and all(valid_id(text) for text in named)):
        reason = "bad_identifier"
    if reason == "bad_identifier":
        on_behalf_of = subject = ""  # they would stand in every header of the session
    if not reason and (kind not in KINDS or (origin == "agent" and kind == "session.user_said")):
        # INVARIANT: only a channel reports what a user said (tests/unit/test_sessions.py).
        reason = "unknown_kind"
    if not reason and kind == "session.open":
        reason = inactive(work.agent) or unverified(work.control.release, on_behalf_of, verified)
    if not reason and kind == "session.open" and about:
        declared = work.control.release.task if work.control.release is not None else None
        detail = task.wrong(declared, about)
        reason = task.REASON if detail else ""
    if not reason and kind == "session.open" and waiting_order(state, work.control, o.agent_id) is not None:
        reason = "rolling_back"
    if not reason and kind == "session.open" and (session is not None or name in state.parked):
        reason = "id_conflict"
    if not reason and kind == "session.open" and len(state.sessions) >= MAX_SESSIONS:
        reason = "overloaded"
    if not reason and kind != "session.open" and session is None:
        reason = "unknown_session"
    if session is None:
        o.subject = erasure.key_name(work.control, subject or on_behalf_of or f"agent:{o.agent_id}")
    else:
        o.subject = session.subject
        if not reason and kind == "session.user_said" and erasure.is_erased(work.control, o.subject):
            reason = erasure.REASON
    digest = digest_of(work)
    if reason:
        facts: object = IntakeFacts(reason, len(work.payload), digest)
        outcome = emit(work, "session", "session_refused", facts, reason)
        reply(work, outcome, status="refused", detail=detail)
        return
    status = {"session.open": "opened", "session.user_said": "heard", "session.close": "closed"}[kind]
    facts = SessionFacts(
        kind, origin, on_behalf_of, digest, work.authenticated, work.source.control_stale, issued_at, verified
    )  # fmt: skip
    if kind == OPEN:
        facts = task.facts_of(work, facts, bool(about))
    cause = session.opened_by if session else b""
    outcome = emit(work, "session", status, facts, caused_by=cause)
    reply(work, outcome)


def decide_message(work: Work, message: Message) -> None:
    """One record of `messages`, from a known agent's channel."""
    o = work.origin
    o.intent_id, o.session_id = message.message_id, message.session_id
    session = work.state.sessions.get(session_key(o.agent_id, message.session_id))
    if session is not None or message.kind == OPEN:
        stand_on(work, message.session_id, session)
    key = message_key(o.tenant, o.agent_id, message.message_id)
    seen = work.state.intents.get(key)
    if isinstance(seen, Ended):
        digest = digest_of(work)
        same = seen.digest == digest
        facts = IntakeFacts("message", len(work.payload), digest)
        outcome = emit(
            work, "session", "noted", facts, "duplicate" if same else "id_conflict", caused_by=seen.event_id
        )
        reply(work, outcome, status=seen.state if same else "refused", duplicate=same)
        work.decision.replies[-1].answers = b"" if same else digest
        return
    decide_session(
        work, message.kind, message.session_id, message.issued_at, origin="channel",
        on_behalf_of=message.on_behalf_of, subject=message.subject, token=message.on_behalf_token,
        about=message.task.encode(),
    )  # fmt: skip
