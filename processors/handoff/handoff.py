"""Hand-offs: an agent opens a session for another one, with at most what it has itself.

    intents    handoff ▸ `delegated`, and a record on `transfers` to the other agent's partition
    transfers  ▸ `opened` there, with the label, goal, chain, roles and budget it carries; both agents are told

The intent's arguments: `{"agent": ..., "session": ..., "roles": [...], "max_calls": ...}`, the last two optional. It needs
a permit that names `Action::"handoff"`; a policy reads them as `context.args`, a guardrail whose `tools` name `handoff` as
`args`, with the goal. Never observed: mode observe does not
widen a hand-off. Next: `handoff/delegation.py` (what such a session may not exceed), `sessions/sessions.py`.
"""

from __future__ import annotations

import hashlib
from typing import cast

import orjson
from sluicegate.processors import erasure
from sluicegate.processors.agents.orders import waiting_order
from sluicegate.processors.approval.holds import UNDER_REVIEW
from sluicegate.processors.authorize import ask
from sluicegate.processors.conform import Conformed, Misfit, conform
from sluicegate.processors.control import quarantine
from sluicegate.processors.control.registry import inactive
from sluicegate.processors.guardrails.guardrails import guard_handoff
from sluicegate.processors.handoff import delegation
from sluicegate.processors.handoff.terms import MAX_ROLES, TYPER, VALIDATOR
from sluicegate.processors.labels import header_labels
from sluicegate.processors.policy.cedar import names_action
from sluicegate.processors.policy.cedar_schema import HANDOFF
from sluicegate.processors.route import unverified, valid_id, window
from sluicegate.processors.sessions import task
from sluicegate.processors.state import MAX_SESSIONS, Ended, session_key, transfer_key
from sluicegate.processors.work import Refusal, Work, emit, reply, stand_on
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import IntakeFacts, Intent, Reply, SessionFacts, Transfer

MAX_GOAL_BYTES = 4_096
"""Of a goal that is handed on: it travels on `transfers` and in the reply."""


def decide_handoff(work: Work, intent: Intent) -> None:
    """One intent of kind `handoff`."""
    digest = hashlib.sha256(work.payload).digest()[:16]
    refusal = _terms(work, intent)
    if work.decision.needs:
        return
    refusal = refusal or _permitted(work) or guard_handoff(work, intent.goal)
    if refusal is not None:
        facts: object = IntakeFacts(refusal.reason, len(work.payload), digest)
        outcome = emit(work, "session", "session_refused", facts, refusal.reason, list(refusal.policies))
        reply(work, outcome, status="refused", detail=refusal.detail)
        return
    session, terms = work.session, cast("Conformed", work.conformed).args
    assert work.agent is not None and session is not None
    chain = [*delegation.names(session.chain), intent.agent_id]
    roles, calls = cast("list[str]", terms["roles"]), cast(int, terms["max_calls"])
    to_agent, to_session = str(terms["agent"]), str(terms["session"])
    outcome = emit(
        work, "session", "delegated",
        SessionFacts(
            "handoff", "agent", session.on_behalf_of, digest, work.authenticated, work.source.control_stale,
            intent.issued_at, bool(session.verified), to_agent, to_session, chain, roles, calls,
        ),
        policies=work.policies, caused_by=session.opened_by,
    )  # fmt: skip
    work.decision.transfers.append(
        Transfer(
            outcome.event_id, "handoff", to_agent, to_session, intent.agent_id, intent.intent_id, work.agent.tenant,
            work.now, intent.goal, session.on_behalf_of, bool(session.verified), session.subject, chain, roles, calls,
            header_labels(session.integrity, session.confidentiality), intent.traceparent, task.handed_on(work.task),
        )
    )  # fmt: skip


def _terms(work: Work, intent: Intent) -> Refusal | None:
    """Whether there is something to hand on, and to whom. Sets the session and the terms as they will be."""
    session = work.state.sessions.get(session_key(intent.agent_id, intent.session_id))
    if session is None:
        return Refusal("unknown_session", f"session `{intent.session_id[:80]}` is not open")
    assert work.agent is not None
    work.session, work.origin.subject = session, session.subject
    if erasure.is_erased(work.control, session.subject):
        return Refusal(erasure.REASON)
    work.agent = delegation.narrowed(work.agent, session)
    work.release = work.control.release
    if work.source.control_stale or work.release is None:
        return Refusal("control_stale" if work.source.control_stale else "no_release")
    stopped = quarantine.quarantined(
        work.control, intent.agent_id, HANDOFF, intent.session_id, work.release.digest
    )
    if stopped:
        return Refusal(quarantine.REASON, stopped)
    if waiting_order(work.state, work.control, intent.agent_id) is not None:
        return Refusal("rolling_back")
    if reason := unverified(work.release, session.on_behalf_of, bool(session.verified)):
        return Refusal(reason)
    if session.halted:
        return Refusal("halted", f"the session was halted for `{session.halted}`")
    refused = task.read(work, session)
    if refused is not None or work.decision.needs:
        return refused
    found = conform(VALIDATOR, TYPER, intent.arguments)
    if isinstance(found, Misfit):
        return Refusal(found.reason, found.detail)
    if len(intent.goal.encode()) > MAX_GOAL_BYTES:
        return Refusal("too_large", f"the goal has more than {MAX_GOAL_BYTES} bytes")
    to_agent, to_session = str(found.args["agent"]), str(found.args["session"])
    if not (valid_id(to_agent) and valid_id(to_session)):
        return Refusal("bad_identifier", "ids are 1 to 256 printable characters")
    other = work.control.agents.get(to_agent)
    if reason := inactive(other) or _stopped(work, to_agent, to_session):
        return Refusal(reason, f"`{to_agent}` cannot be handed anything")
    if other is None or other.tenant != work.agent.tenant:
        return Refusal("other_tenant", f"`{to_agent}` is of another tenant")
    if delegation.depth(session) >= delegation.MAX_DEPTH:
        return Refusal("delegation_too_deep", f"it was handed on {delegation.MAX_DEPTH} times already")
    asked, left = cast("int | None", found.args.get("max_calls")), delegation.remaining(session)
    calls = asked or (delegation.DEFAULT_CALLS if left < 0 else min(left, delegation.DEFAULT_CALLS))
    if 0 <= left < calls or calls == 0:
        return Refusal("budget_exhausted", f"{left} calls are left, {calls} were to be handed on")
    mine = sorted(role for role in set(work.agent.roles) if role.isprintable())[:MAX_ROLES]
    wanted = cast("list[str] | None", found.args.get("roles"))
    # INVARIANT: nobody hands on a role it does not have (tests/unit/test_handoff.py).
    roles = mine if wanted is None else [role for role in mine if role in wanted]
    args: dict[str, object] = {"agent": to_agent, "session": to_session, "roles": roles, "max_calls": calls}
    work.conformed = Conformed(
        orjson.dumps(args, option=orjson.OPT_SORT_KEYS), args, cast("dict[str, object]", TYPER(args))
    )
    return None


def _permitted(work: Work) -> Refusal | None:
    """Everybody in the chain must be permitted to hand this on. A hold is no permit: nobody is asked."""
    session, release = work.session, work.release
    assert work.agent is not None and session is not None and release is not None
    if not any(names_action(p, HANDOFF) for p in release.book.policies):
        return Refusal("no_permit", f'no policy of the release names Action::"{HANDOFF}"')
    if work.agent.agent_id in work.control.reviews:
        said = f"`{work.agent.agent_id}` is under review, and nobody is asked about a hand-off"
        return Refusal("forbidden", said, (UNDER_REVIEW,))
    chain, reason = delegation.delegators(work.control, session)
    if reason:
        return Refusal(reason)
    determined: set[str] = set()
    for principal in (work.agent, *chain):
        answer = ask(work, principal, HANDOFF, HANDOFF)
        if answer.verdict.error:
            return Refusal("policy_error", answer.verdict.error)
        if not answer.verdict.allowed or answer.holding:
            policies = tuple(sorted({*answer.verdict.policies, *answer.holding}))
            said = f"`{principal.agent_id}` may not hand this on"
            return Refusal("forbidden" if policies else "no_permit", said, policies)
        determined |= set(answer.verdict.policies)
    work.policies = sorted(determined)
    return None


# -- the other side ------------------------------------------------------------------------------------------------


def decide_transfer(work: Work, transfer: Transfer) -> None:
    """One record of `transfers`, on the partition of the agent that receives."""
    o, state = work.origin, work.state
    o.intent_id, o.session_id = transfer.transfer_id.hex(), transfer.session_id
    o.subject = transfer.subject
    digest = hashlib.sha256(work.payload).digest()[:16]
    stand_on(work, transfer.session_id, None)
    seen = state.intents.get(transfer_key(transfer.transfer_id))
    if isinstance(seen, Ended):
        facts: object = IntakeFacts("transfer", len(work.payload), digest)
        emit(work, "session", "noted", facts, "duplicate", caused_by=seen.event_id)
        return
    if reason := _not_opened(work, transfer):
        facts = IntakeFacts(reason, len(work.payload), digest)
        outcome = emit(work, "session", "session_refused", facts, reason, caused_by=transfer.transfer_id)
        _tell(work, transfer, outcome.event_id, "refused", reason)
        return
    facts = SessionFacts(
        "handoff", "handoff", transfer.on_behalf_of, digest, work.authenticated, work.source.control_stale,
        transfer.issued_at, transfer.verified, "", "", transfer.chain, transfer.roles, transfer.calls_cap,
    )  # fmt: skip
    facts = task.facts_of(work, facts, bool(transfer.task))
    outcome = emit(work, "session", "opened", facts, caused_by=transfer.transfer_id)
    outcome.labels = list(transfer.labels)
    about = {
        "goal": transfer.goal, "from": transfer.from_agent, "on_behalf_of": transfer.on_behalf_of,
        "roles": transfer.roles, "max_calls": transfer.calls_cap,
    }  # fmt: skip
    reply(work, outcome, result=orjson.dumps(about, option=orjson.OPT_SORT_KEYS))
    _tell(work, transfer, outcome.event_id, "opened", "")


def _not_opened(work: Work, transfer: Transfer) -> str:
    """A reason not to open the session, or an empty string."""
    state = work.state
    assert work.agent is not None
    reason = window(transfer.issued_at, work.now) or inactive(work.agent)
    if reason := reason or _stopped(work, transfer.agent_id, transfer.session_id):
        return reason
    if work.agent.tenant != transfer.tenant:
        return "other_tenant"
    name = session_key(transfer.agent_id, transfer.session_id)
    if name in state.sessions or name in state.parked:
        return "id_conflict"
    return "overloaded" if len(state.sessions) >= MAX_SESSIONS else ""


def _stopped(work: Work, agent_id: str, session_id: str) -> str:
    """The reason when the agent or session that would receive it is quarantined."""
    stopped = quarantine.quarantined(work.control, agent_id, "", session_id, "")
    return quarantine.REASON if stopped else ""


def _tell(work: Work, transfer: Transfer, event_id: bytes, status: str, reason: str) -> None:
    """Tell the agent that handed on how it ended."""
    text = REASONS.get(reason)
    work.decision.replies.append(
        Reply(
            event_id, transfer.intent_id, transfer.from_agent, transfer.session_id, status, "session", reason, [],
            work.now, None, text.for_model if text else "", text.remedy if text else "", release=work.origin.release,
        )
    )  # fmt: skip
