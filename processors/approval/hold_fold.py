"""The fold of a held call: what is asked of people, who agreed, and how long it took. Only `state.py` calls it.

Never decides who may agree: that is `approval/reviews.py`. Next: `approval/holds.py`, `approval/approvals.py`.
"""

from __future__ import annotations

from sluicegate.processors.entries import OpenIntent
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.records import HoldFacts, PlanFacts, ReviewFacts


def fold_hold(entry: OpenIntent, outcome: Outcome) -> None:
    """A call becomes held, stays so, or goes on."""
    o, facts = outcome.origin, outcome.facts
    if type(facts) is HoldFacts or (type(facts) is ReviewFacts and facts.edited):
        # What plug-ins said was of another call or release; only their own hold leaves it standing.
        entry.asked = entry.asked if entry.state == "validated" else ""
    if isinstance(facts, HoldFacts | PlanFacts):
        if type(facts) is HoldFacts:
            entry.quorum, entry.reviewers, entry.hold_release = (
                facts.quorum,
                tuple(facts.reviewers),
                facts.release,
            )
        else:
            entry.quorum, entry.reviewers, entry.hold_release = 1, (), o.release
        entry.tool_class, entry.executor = facts.tool_class, facts.executor
        entry.timeout_ms, entry.action_digest = facts.timeout_ms, facts.action_digest
        entry.approvals, entry.hold_policies = (), tuple(outcome.policies)
        entry.held_at, entry.asked_at = entry.held_at or o.decided_at, o.decided_at
    elif type(facts) is ReviewFacts:
        entry.quorum, entry.reviewers = facts.quorum, tuple(facts.reviewers)
        entry.approvals = tuple(facts.approvals)
        if facts.edited:
            entry.action_digest, entry.edit_topic, entry.edit_offset = facts.action_digest, o.topic, o.offset
            entry.hold_policies, entry.asked_at = tuple(outcome.policies), o.decided_at
    if outcome.status != "held":
        entry.waited_us = o.decided_at - entry.held_at
