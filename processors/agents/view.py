"""One agent's part of a state as an operator reads it: times as text, labels by their names, no hash that says nothing.

What `rebuild --agent` prints. Never holds content: where a value stands is said, not what it is. Pure.
Next: `agents/values.py` (what is taken back), `streams/rebuild/agent.py`.
"""

from __future__ import annotations

from sluicegate.processors.agents.values import Plain, digest, values_of
from sluicegate.processors.budget.state import name_of
from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.labels import header_labels
from sluicegate.processors.memory.cells import Cell
from sluicegate.processors.sessions.session import Session, from_mark
from sluicegate.schemas.times import iso


def agent_view(state: PartitionState, agent_id: str) -> Plain:
    """All that the state holds of one agent."""
    values = values_of(state, agent_id)
    known = {key: name for name, one in values.sessions.items() for key in one.cells}
    calls = [e for e in state.intents.objects() if type(e) is OpenIntent and e.agent_id == agent_id]
    return {
        "agent_id": agent_id,
        "partition": state.partition,
        "seq": state.seq - 1,
        "decided_until": iso(state.now, "microseconds"),
        "digest": digest(values).hex(),
        "labels": header_labels(*from_mark(values.mark)),
        "rolled_back_by": state.restored.get(agent_id),
        "sessions": [_session(one) for _, one in sorted(values.sessions.items())],
        "memory": [_cell(key, cell, known.get(key, "")) for key, cell in sorted(values.cells.items())],
        "open_calls": [_call(entry) for entry in sorted(calls, key=lambda e: (e.issued_at, e.intent_id))],
        "budgets": _budgets(state, agent_id),
    }


def _session(one: Session) -> Plain:
    return {
        "session_id": one.session_id,
        "on_behalf_of": one.on_behalf_of,
        "opened_by": one.origin,
        "opened_at": iso(one.opened_at, "microseconds"),
        "last_at": iso(one.last_at, "microseconds"),
        "release": one.release,
        "labels": header_labels(one.integrity, one.confidentiality),
        "calls": one.calls,
        "dispatched": one.dispatched,
        "by_tool": dict(one.counts),
        "sums": {name: total / 10_000 for name, total in one.sums.items()},
        "halted": one.halted,
        "heard_from": len(one.sources),
        "remembers": len(one.cells),
        "held": one.held,
        "handed_on_by": one.chain,
    }


def _cell(key: bytes, cell: Cell, session: str) -> Plain:
    return {
        "cell": key.hex(),
        "scope": "session" if session else "agent",
        "session_id": session,
        "version": cell.version,
        "value_sha256": cell.value_digest.hex(),
        "written_by": f"{cell.topic}/{cell.offset}",
        "labels": header_labels(cell.integrity, cell.confidentiality),
    }


def _call(entry: OpenIntent) -> Plain:
    return {
        "intent_id": entry.intent_id,
        "session_id": entry.session_id,
        "tool": entry.tool,
        "state": entry.state,
        "attempt": entry.attempt,
        "issued_at": iso(entry.issued_at, "microseconds"),
        "due_at": iso(entry.due_at, "microseconds"),
        "withdrawn": bool(entry.withdrawn),
    }


def _budgets(state: PartitionState, agent_id: str) -> list[Plain]:
    found: list[Plain] = []
    for name, one in sorted(state.accounts.items()):
        kind, owner = name.partition(":")[0], name_of(name)
        mine = (kind == "agent" and owner == agent_id) or (
            kind == "session" and owner.startswith(f"{agent_id}\t")
        )
        if mine:
            found.append(
                {"account": name.replace("\t", " / "), "window": one.window, "reserved": one.reserved,
                 "spent": one.spent, "overran": one.overran, "frozen": one.frozen_at >= 0}
            )  # fmt: skip
    return found
