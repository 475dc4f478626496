"""Approvals: a call is held until people agree, and then goes on from authorize under the state of that moment.

    authorize ▸ held (HoldFacts: what, how many, who, how long; content: the exact arguments and why)
    enough people agreed ▸ authorize again ▸ permitted ▸ validated ▸ dispatched
                                           ▸ refused, where anything but the policies that held it forbids it by now
                                           ▸ held again, where more is asked by now than people were shown

Never counts or checks people: that is `approval/reviews.py`, next. What a hold asks for is `approval/holds.py`.
"""

from __future__ import annotations

import rfc8785
from sluicegate.processors.approval.holds import Hold
from sluicegate.processors.authorize import authorize
from sluicegate.processors.guardrails.plugins import offer
from sluicegate.processors.large_arguments import shown as arguments_shown
from sluicegate.processors.outcomes import PASSED
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.validate import validate
from sluicegate.processors.work import Refusal, Work, emit, reply
from sluicegate.schemas.records import HoldFacts


def hold_call(work: Work, stage: str) -> tuple[str, Refusal] | None:
    """Hold a call that policies or guardrails permit with people's agreement (`work.hold`); else (stage, refusal).

    It is validated before: people are not asked for what would be refused anyway.
    """
    if stage == "authorize":
        refusal = validate(work)
        if refusal is not None:
            return "validate", refusal
    assert work.hold is not None
    if work.hold.impossible:
        return stage, no_reviewer(work.hold)
    ask(work, work.hold, work.now + work.hold.expires_us, stage)
    return None


def no_reviewer(hold: Hold) -> Refusal:
    """Nobody could ever agree, so nobody is asked."""
    named = "`, `".join(hold.policies)
    return Refusal("no_reviewer", f"`{named}` name reviewers without a common role", hold.policies)


def ask(work: Work, hold: Hold, expires_at: int, stage: str = "authorize") -> None:
    """Emit `held`: the digest is fixed now, so that nothing else can be approved."""
    tool, conformed, release = work.tool, work.conformed, work.release
    assert tool and conformed and release
    g = stage_facts(work)
    facts = HoldFacts(
        work.action_digest, tool.tool_class, tool.executor_kind, expires_at, tool.timeout_ms, hold.quorum,
        list(hold.reviewers), release.digest, g.grounded_arguments, g.grounded_from, g.grounded_labels,
        g.grounded_events, g.grounded_paths, g.observed, g.redacted, tool.name,
    )  # fmt: skip
    policies = sorted({*work.policies, *hold.policies})
    content = shown(arguments_shown(work), hold.why)
    outcome = emit(work, stage, "held", facts, "approval_required", policies, content)
    reply(work, outcome, detail=hold.why)


def shown(arguments: bytes, why: str) -> bytes:
    """What people are shown of a held call, canonical JSON: the exact arguments, and why they are asked."""
    return b'{"arguments":' + arguments + b',"why":' + rfc8785.dumps(why) + b"}"


def recheck(work: Work) -> Refusal | None:
    """Authorize and validate a restored call as of now. Sets `work.hold` where people have to agree.

    When the words of earlier events are not at hand, `work.decision.needs` is set and the answer means nothing.
    """
    if work.session is None:
        return Refusal("unknown_session")
    return authorize(work) or validate(work)


def go_on(work: Work, entry: OpenIntent, asked: Hold, digest: bytes, refusal: Refusal | None) -> None:
    """Enough people agreed to `digest` under `asked`, which is recorded already; `recheck` answered `refusal`."""
    if refusal is not None:
        refuse(work, refusal, "after approval")
    elif not _covered(work, asked, digest):
        # INVARIANT: what runs is what was shown, for reasons that were shown (tests/unit/test_reviews.py).
        ask_again(work, entry, asked)
    else:
        emit(work, "authorize", "permitted", stage_facts(work, "approved"), policies=work.policies)
        emit(work, "validate", "validated", PASSED)
        if digest == entry.action_digest:
            # People agreed to these bytes in spite of the plug-ins that held them: those are not asked once more.
            agreed = set(asked.policies) & set(entry.asked.split())
            work.asks = [rule for rule in work.asks if rule.rule_id not in agreed]
        offer(work)


def _covered(work: Work, asked: Hold, digest: bytes) -> bool:
    """Whether people agreed to everything that is asked by now."""
    hold = work.hold
    if work.action_digest != digest:
        return False
    if hold is None:
        return True
    fewer = hold.quorum <= asked.quorum and set(hold.policies) <= set(asked.policies)
    return fewer and (
        not hold.reviewers or (bool(asked.reviewers) and set(asked.reviewers) <= set(hold.reviewers))
    )


def ask_again(work: Work, entry: OpenIntent, asked: Hold) -> None:
    """Hold it anew: earlier approvals are void. Asking again never extends the wait."""
    hold = work.hold or asked
    if hold.impossible:
        refuse(work, no_reviewer(hold), "after approval")
        return
    ask(work, hold, min(entry.due_at, work.now + hold.expires_us))


def refuse(work: Work, refusal: Refusal, detail: str) -> None:
    """End a held call at authorize, and tell its agent."""
    outcome = emit(
        work, "authorize", "refused", stage_facts(work, detail), refusal.reason, list(refusal.policies),
        refusal.detail.encode() or None,
    )  # fmt: skip
    reply(work, outcome, detail=refusal.detail)
