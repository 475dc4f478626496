"""Memory cells in the state: where a remembered value stands, and how the fold moves them.

Names nothing and holds no value: a cell is found by a hash of scope, owner and key. Changed by the fold only.
Next: `memory.py` (the operations), `state.py` (who folds).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sluicegate.processors.session import Session
from sluicegate.schemas.records import MemoryFacts

MAX_CELLS = 200_000
"""Cells of one partition, about 350 bytes each: 70 MB."""


@dataclass(slots=True)
class Cell:
    """One remembered value; `topic` and `offset` are where the intent stands that wrote it."""

    agent_id: str
    topic: str
    offset: int
    version: int
    value_digest: bytes
    integrity: int
    confidentiality: int


def cell_key(scope: str, agent_id: str, session_id: str, key: str) -> bytes:
    """Identity of a cell, 16 bytes. A session's cell is its own, an agent's is shared by its sessions."""
    owner = session_id if scope == "session" else ""
    return hashlib.sha256(f"{scope}\0{agent_id}\0{owner}\0{key}".encode()).digest()[:16]


def fold(
    memory: dict[bytes, Cell],
    session: Session | None,
    agent_id: str,
    facts: MemoryFacts,
    topic: str,
    offset: int,
) -> None:
    """Fold one released operation. `topic`, `offset`: where its intent's bytes stand."""
    local = facts.scope == "session"
    if facts.op == "forget" and facts.cell in memory:
        del memory[facts.cell]
        if local and session is not None:
            session.cells = tuple(key for key in session.cells if key != facts.cell)
    elif facts.op == "write" and not (local and session is None):  # else the sweep just closed its session
        if local and session is not None and facts.cell not in memory:
            session.cells += (facts.cell,)
        memory[facts.cell] = Cell(
            agent_id, topic, offset, facts.version, facts.value_digest, facts.integrity, facts.confidentiality
        )


def forget_session(memory: dict[bytes, Cell], session: Session) -> None:
    """A session ended: what it remembered for itself goes with it."""
    for key in session.cells:
        memory.pop(key, None)
