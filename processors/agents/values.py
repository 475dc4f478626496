"""An agent's values in the state: its sessions, what it remembers, and the labels of all it ever saw.

What a rollback takes back, and what `rebuild --agent` shows. Written as JSON with every field that is not at its
default, so that what is on the ledger can be read when a session has more fields than it had then. Never holds content:
only where bytes stand. Pure. Next: `agents/restore.py` (what changes when they go back), `sessions/session.py`, `memory/cells.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson
from sluicegate.processors.memory.cells import SHARED, Cell, Piece
from sluicegate.processors.sessions.session import Session, Source

if TYPE_CHECKING:
    from sluicegate.processors.entries import PartitionState

T = TypeVar("T", Session, Cell)
Plain = dict[str, object]
"""A record as JSON has it: bytes are hex."""


@dataclass(slots=True)
class AgentValues:
    """What the state holds of one agent.

    Attributes:
        mark: labels of all its sessions so far (`session.mark_of`).
        sessions: by session id.
        cells: by the cell's key.
    """

    mark: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)
    cells: dict[bytes, Cell] = field(default_factory=dict)


def values_of(state: PartitionState, agent_id: str) -> AgentValues:
    """One agent's values; the records may be the state's own."""
    start = f"{agent_id}\0"
    names = [name for name in state.sessions if name.startswith(start)]
    sessions = {name[len(start) :]: state.sessions.peek(name) for name in names}
    # INVARIANT: what agents share does not go back with one of them (tests/unit/test_shared_memory.py).
    cells = {
        key: cell
        for key, cell in state.memory.items()
        if cell.agent_id == agent_id and not cell.scope.startswith(SHARED)
    }
    return AgentValues(state.marks.get(agent_id, 0), sessions, cells)


def plain(record: Session | Cell) -> Plain:
    """A record as JSON has it, without the fields that are at their defaults."""
    found: Plain = {}
    for f in fields(record):
        value = getattr(record, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if value != default:
            found[f.name] = _plain(value)
    return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Source):
        # The last one only where there is something: ledgers of before it hold five.
        return [
            _plain(getattr(value, f.name)) for f in fields(value) if f.name != "redacted" or value.redacted
        ]
    return dict(value) if isinstance(value, Mapping) else value


def session_from(given: Plain) -> Session:
    """The session in a plain record. Fields of another version are passed over."""
    found = _from(Session, given)
    found.cells = tuple(bytes.fromhex(key) for key in cast("list[str]", given.get("cells") or ()))
    found.sources = tuple(
        Source(bytes.fromhex(event), *rest) for event, *rest in cast("list[Any]", given.get("sources") or ())
    )
    return found


def cell_from(given: Plain) -> Cell:
    """The cell in a plain record."""
    found = _from(Cell, given)
    found.pieces = tuple(
        Piece(topic, offset, bytes.fromhex(digest))
        for topic, offset, digest in cast("list[Any]", given.get("pieces") or ())
    )
    return found


_EMPTY: dict[str, object] = {"str": "", "bytes": b"", "int": 0}
"""What a required field of another version is."""


def _from(cls: type[T], given: Plain) -> T:
    known = {f.name: cast(str, f.type) for f in fields(cls)}
    values: dict[str, Any] = {
        name: bytes.fromhex(cast(str, value)) if known[name] == "bytes" else value
        for name, value in given.items()
        if name in known
    }
    for f in fields(cls):
        if f.name not in values and f.default is f.default_factory is MISSING:
            values[f.name] = _EMPTY[known[f.name]]
    return cls(**values)


def dump(value: object) -> bytes:
    """JSON whose bytes follow from the value."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def encode(values: AgentValues) -> bytes:
    """Canonical bytes: the same values give the same ones."""
    return dump(as_plain(values))


def as_plain(values: AgentValues) -> Plain:
    """All of it as JSON has it."""
    return {
        "mark": values.mark,
        "sessions": {name: plain(one) for name, one in values.sessions.items()},
        "cells": {key.hex(): plain(one) for key, one in values.cells.items()},
    }


def decode(data: bytes) -> AgentValues:
    """The values in canonical bytes."""
    raw = orjson.loads(data)
    return AgentValues(
        raw["mark"],
        {name: session_from(one) for name, one in raw["sessions"].items()},
        {bytes.fromhex(key): cell_from(one) for key, one in raw["cells"].items()},
    )


def digest(values: AgentValues) -> bytes:
    """sha256 of the canonical bytes."""
    return hashlib.sha256(encode(values)).digest()
