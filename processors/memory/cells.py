"""Memory cells in the state: where a remembered value stands, and how the fold moves them.

Names nothing and holds no value: a cell is found by a hash of scope, owner and key. A value is one piece, or several
that were appended; each stands where the input stands that brought it. A shelf lists the cells of one owner, the last
one written last. Changed by the fold only. Next: `memory/ops.py` (the operations), `state.py` (who folds).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.sessions.session import Session
from sluicegate.schemas.records import CellFacts, MemoryFacts

if TYPE_CHECKING:
    from sluicegate.processors.entries import PartitionState

MAX_CELLS = 200_000
"""Cells and further pieces of one partition, about 550 bytes a cell and 200 a piece: 110 MB."""

MAX_SHELF_CELLS = 5_000
"""Values in one shared scope."""

MAX_PIECES = 100
"""Pieces of one value: reading it loads so many records at most."""

SESSION, SHARED = "session", "shared:"
_SHARED = re.compile(r"shared:[a-z0-9][a-z0-9_.-]{0,63}")


class Piece(NamedTuple):
    """What was appended to a value, and where it stands."""

    topic: str
    offset: int
    digest: bytes


@dataclass(slots=True)
class Cell:
    """One remembered value; `topic` and `offset` are where the first piece of it stands.

    Attributes:
        agent_id: who wrote it last. scope: where. subject: whom it is about; empty when its pieces are of several.
        version, base_version: of the last piece, and of the first.
        seq, at: the ledger record it was written by, counted on from earlier generations, and when.
        form: `list` (the first piece is a whole list), `items` (each piece is an item), `text`; empty: a value whose
            kind the state does not know.
        size: bytes of the value as JSON, once something was appended; else 0.
    """

    agent_id: str
    topic: str
    offset: int
    version: int
    value_digest: bytes
    integrity: int
    confidentiality: int
    subject: str = ""
    scope: str = ""
    base_version: int = 0
    seq: int = 0
    at: int = 0
    form: str = ""
    size: int = 0
    pieces: tuple[Piece, ...] = ()


def known_scope(scope: str) -> bool:
    """Whether a scope may be named so. What does not begin with `shared:` is an agent's own."""
    return not scope.startswith(SHARED) or _SHARED.fullmatch(scope) is not None


def cell_key(scope: str, agent_id: str, session_id: str, key: str, tenant: str = "") -> bytes:
    """Identity of a cell, 16 bytes. A session's cell is its own, an agent's is shared by its sessions, a shared one by
    all who may in one tenant."""
    if scope.startswith(SHARED):
        # INVARIANT: tenants share nothing (tests/properties/test_memory_isolation.py).
        text = f"{scope}\0\0{tenant}\0{key}"
    else:
        owner = session_id if scope == SESSION else ""
        text = f"{scope}\0{agent_id}\0{owner}\0{key}"
    return hashlib.sha256(text.encode()).digest()[:16]


def shelf_of(scope: str, agent_id: str, tenant: str) -> str:
    """The shelf of a scope's owner; a session lists its cells itself."""
    if scope == SESSION:
        return ""
    return f"{scope}\0{tenant if scope.startswith(SHARED) else agent_id}"


def fold(
    state: PartitionState,
    session: Session | None,
    outcome: Outcome,
    place: tuple[str, int],
    agent_id: str,
    tenant: str,
) -> None:
    """Fold one operation that was done here. `place`: where its bytes stand. `agent_id`: who asked for it."""
    facts = outcome.facts
    assert isinstance(facts, MemoryFacts | CellFacts)
    shelf = shelf_of(facts.scope, agent_id, tenant)
    if facts.op == "forget":
        _forget(state, facts.cell, shelf, session)
    elif facts.op in ("write", "append") and not (not shelf and session is None):
        put(state, facts.cell, _written(state, facts, outcome, place, agent_id), shelf)
        if not shelf and session is not None and facts.cell not in session.cells:
            session.cells += (facts.cell,)


def put(state: PartitionState, key: bytes, cell: Cell, shelf: str) -> None:
    """Set a cell, the last one on its shelf, if it has one."""
    old = state.memory.get(key)
    state.pieces += len(cell.pieces) - (len(old.pieces) if old is not None else 0)
    state.memory[key] = cell
    if shelf:
        cells = state.shelves.setdefault(shelf, {})
        cells.pop(key, None)
        cells[key] = None


def drop(state: PartitionState, key: bytes, shelf: str) -> bool:
    """Forget a cell; whether there was one."""
    old = state.memory.pop(key, None)
    if old is None:
        return False
    state.pieces -= len(old.pieces)
    if shelf:
        cells = state.shelves.get(shelf, {})
        cells.pop(key, None)
        if not cells:
            state.shelves.pop(shelf, None)
    return True


def _written(
    state: PartitionState,
    facts: MemoryFacts | CellFacts,
    outcome: Outcome,
    place: tuple[str, int],
    agent_id: str,
) -> Cell:
    old, subject = state.memory.get(facts.cell), outcome.origin.subject
    topic, offset = place
    form, size = (facts.form, facts.value_bytes) if isinstance(facts, CellFacts) else ("", 0)
    new = Cell(
        agent_id, topic, offset, facts.version, facts.value_digest, facts.integrity, facts.confidentiality, subject,
        facts.scope, facts.version, state.earlier + state.seq - 1, outcome.origin.decided_at, form, size,
    )  # fmt: skip
    if facts.op == "append" and old is not None:
        new.topic, new.offset, new.value_digest = old.topic, old.offset, old.value_digest
        new.base_version, new.subject = old.base_version, subject if subject == old.subject else ""
        new.pieces = (*old.pieces, Piece(topic, offset, facts.value_digest))
    return new


def _forget(state: PartitionState, key: bytes, shelf: str, session: Session | None) -> None:
    if drop(state, key, shelf) and not shelf and session is not None:
        session.cells = tuple(other for other in session.cells if other != key)


def forget_session(state: PartitionState, session: Session) -> None:
    """A session ended: what it remembered for itself goes with it."""
    for key in session.cells:
        drop(state, key, "")
