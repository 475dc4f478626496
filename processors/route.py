"""Route: is this intent new, in time, from a known agent in an open session, and which contract does it name?

The first stage. Identity comes before everything: a repeated intent is answered, never decided again.
Next: `conform.py`, then `authorize.py`.
"""

from __future__ import annotations

from sluicegate.processors import erasure
from sluicegate.processors.agents.orders import waiting_order
from sluicegate.processors.control import quarantine
from sluicegate.processors.guardrails.derail import call_digest, limit_reached
from sluicegate.processors.handoff.delegation import narrowed, remaining
from sluicegate.processors.large_arguments import same_arguments
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.processors.state import (
    ACCEPT_WINDOW_US,
    MAX_OPEN_INTENTS,
    MAX_REMEMBERED_IDS,
    session_key,
)
from sluicegate.processors.work import Refusal, Work
from sluicegate.schemas.kinds import call_kind, may_ask

MAX_ID_CHARS = 256


def valid_id(text: str) -> bool:
    """An identifier: 1 to 256 printable characters."""
    return 0 < len(text) <= MAX_ID_CHARS and text.isprintable()


def window(issued_at: int, now: int) -> str:
    """A reason when `issued_at` lies outside the window in which ids are remembered, else an empty string."""
    if issued_at - now > ACCEPT_WINDOW_US:
        return "from_the_future"
    if now - issued_at > ACCEPT_WINDOW_US:
        return "too_old"
    return ""


def unverified(release: CompiledRelease | None, on_behalf_of: str, verified: bool) -> str:
    """A reason when the release wants proof of whom somebody acts for and there is none, else an empty string."""
    # INVARIANT: a bare name opens nothing and calls nothing there (tests/unit/test_tokens.py::test_bare_names).
    required = release is not None and release.require_verified_user
    return "unverified_user" if required and on_behalf_of and not verified else ""


def route(work: Work) -> Refusal | None:
    """Find session, release and contract of a tool call or a model call."""
    intent, state = work.intent, work.state
    assert intent is not None
    if intent.deadline_at is not None and intent.deadline_at <= work.now:
        return Refusal(
            "deadline_passed", f"the deadline passed {(work.now - intent.deadline_at) / 1e6:.1f} s ago"
        )
    work.session = state.sessions.get(session_key(intent.agent_id, intent.session_id))
    if work.session is None:
        return Refusal("unknown_session", f"session `{intent.session_id[:80]}` is not open")
    work.origin.subject = work.session.subject
    # INVARIANT: what was erased is asked about no more (tests/unit/test_erasure.py).
    if erasure.is_erased(work.control, work.session.subject):
        return Refusal(erasure.REASON)
    if work.agent is not None:
        work.agent = narrowed(work.agent, work.session)
    if work.source.control_stale:
        return Refusal("control_stale")
    if state.open_count >= MAX_OPEN_INTENTS or len(state.intents) >= MAX_REMEMBERED_IDS:
        return Refusal("overloaded", "the partition's bound on open or remembered intents is reached")
    work.release = work.control.release
    if work.release is None:
        return Refusal("no_release")
    # INVARIANT: nothing quarantined gets a permit (tests/unit/test_quarantine.py).
    stopped = quarantine.quarantined(
        work.control, intent.agent_id, intent.tool, intent.session_id, work.release.digest, intent.intent_id
    )
    if stopped:
        return Refusal(quarantine.REASON, stopped)
    if waiting_order(state, work.control, intent.agent_id) is not None:
        # INVARIANT: from the order on nothing new is permitted (tests/unit/test_agent_rollback.py).
        return Refusal("rolling_back")
    if reason := unverified(work.release, work.session.on_behalf_of, bool(work.session.verified)):
        return Refusal(reason)
    if work.session.halted:
        return Refusal("halted", f"the session was halted for `{work.session.halted}`")
    if remaining(work.session) == 0:
        return Refusal("budget_exhausted", f"the session was handed on for {work.session.calls_cap} calls")
    limits = work.release.derail
    work.call_digest = call_digest(limits, intent.tool, same_arguments(intent))
    reason, detail = limit_reached(limits, work.session, work.call_digest)
    if reason:
        return Refusal(reason, detail)
    work.tool = work.release.tools.get(intent.tool)
    if work.tool is None:
        return Refusal("unknown_tool", f"no contract is named `{intent.tool[:80]}`")
    if not may_ask(intent.kind, work.tool.executor_kind):
        wanted = call_kind(work.tool.executor_kind)
        # INVARIANT: a model is reached by a model call only, a tool never by one (tests/unit/test_model_call.py).
        return Refusal("wrong_kind", f"`{intent.tool[:80]}` is asked by a `{wanted}`, not a `{intent.kind}`")
    return None
