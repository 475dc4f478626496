"""Delegation: what a session that was handed on may not exceed.

    chain      the agents that handed it on, the first one first: at most `MAX_DEPTH`
    roles_cap  only roles named here count, for the agent and for everybody in the chain
    calls_cap  so many calls, those handed on further included

A hand-off only narrows: each call needs a permit for the agent that asks *and* for every agent of the chain, each with
roles within the cap (docs/decisions/0008-handoffs-only-narrow.md). Pure.
Next: `handoff/handoff.py` (who makes such sessions), `authorize.py` (who asks for the chain), `route.py` (the budget).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sluicegate.processors import labels
from sluicegate.processors.control.quarantine import quarantined
from sluicegate.processors.control.registry import Agent, inactive
from sluicegate.processors.sessions.session import Session, mark_of

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control
    from sluicegate.processors.entries import PartitionState
    from sluicegate.processors.outcomes import Outcome
    from sluicegate.schemas.records import SessionFacts

MAX_DEPTH = 5
"""Hand-offs from one agent to the next: a call in the deepest session costs six evaluations."""

MAX_CALLS = 10_000
DEFAULT_CALLS = 100
"""Calls of a session that was handed on, at most and when nothing is said."""

_BETWEEN = "\n"
"""Between names in the state: no id and no role that counts has one, since both are printable."""


def join_names(names: Iterable[str]) -> str:
    """As the state keeps them. What is not printable is left out, which narrows."""
    return _BETWEEN.join(name for name in names if name.isprintable() and name)


def names(joined: str) -> tuple[str, ...]:
    """The names in the state's form."""
    return tuple(joined.split(_BETWEEN)) if joined else ()


def depth(session: Session) -> int:
    """How often it was handed on; 0 for a session that a channel or the agent itself opened."""
    return len(names(session.chain))


def narrowed(agent: Agent, session: Session) -> Agent:
    """The agent with the roles it has in this session."""
    if not session.chain:
        return agent
    cap = set(names(session.roles_cap))
    return replace(agent, roles=tuple(role for role in agent.roles if role in cap))


def remaining(session: Session) -> int:
    """Calls left, or -1 without a bound."""
    if session.calls_cap < 0:
        return -1
    return max(0, session.calls_cap - session.calls - session.calls_given)


def delegators(control: Control, session: Session) -> tuple[list[Agent], str]:
    """Everybody in the chain with the roles that count, and a reason when one of them may not act any more."""
    found: list[Agent] = []
    for agent_id in names(session.chain):
        agent = control.agents.get(agent_id)
        if agent is None or inactive(agent) or quarantined(control, agent_id, "", "", ""):
            return [], "delegation_ended"
        found.append(narrowed(agent, session))
    return found, ""


def hand_over(state: PartitionState, session: Session, outcome: Outcome, facts: SessionFacts) -> None:
    """A session that was handed on begins with the labels of the one it comes from, and within its bounds.

    INVARIANT: its agent remembers those labels, too (tests/unit/test_handoff.py::test_labels_travel).
    """
    session.chain, session.roles_cap = join_names(facts.chain), join_names(facts.roles)
    session.calls_cap = facts.calls_cap
    session.integrity, session.confidentiality = labels.read_header(outcome.labels)
    mark = mark_of(session.integrity, session.confidentiality)
    state.marks[session.agent_id] = state.marks.get(session.agent_id, 0) | mark
