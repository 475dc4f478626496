"""What `test_isolation.py` and the tools that its executor runs have in common: who is who, and tokens that name their owner."""

from __future__ import annotations

from collections.abc import Mapping

TENANTS = ("acme", "bolt", "core")
AGENTS = [f"agent-{n:02}" for n in range(50)]
BIG = 70_000
"""Characters: more than a result may have inline."""


def tenant_of(agent: str) -> str:
    """A third of the agents each."""
    return TENANTS[int(agent[-2:]) % len(TENANTS)]


def token(owner: str, writer: str, number: int) -> str:
    """A value that says in which scope it was written, and by whom."""
    return f"<{owner}|{writer}|{number}>"


def note(topic: str, sluicegate_call: Mapping[str, object]) -> dict[str, str]:
    """What the cache of a tenant keeps: for whom it ran. All tenants ask with the same arguments."""
    agent = str(sluicegate_call["agent_id"])
    return {"text": token(f"{tenant_of(agent)}/cache", agent, len(topic))}


def report(text: str, sluicegate_call: Mapping[str, object]) -> dict[str, str]:
    """What was asked, beside too much for a reply."""
    agent, session = str(sluicegate_call["agent_id"]), sluicegate_call["session_id"]
    return {"text": text, "by": token(f"{agent}/{session}", agent, 0), "more": "x" * BIG}
