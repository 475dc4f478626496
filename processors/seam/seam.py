"""A seam: which state of a sealed partition goes to which partition of the next generation, as rows of bytes.

    sealed partition p of N ▸ rows for each partition j of M ▸ pieces, each an outcome `imported` there

What is an agent's goes where its id leads, what has a home where its name leads, by the same hash as ever. Offsets become far
ones (`schemas/places.py`): content stays where it stands. Left behind is what comes again by itself: cached results, how
candidates of model routes did lately, exchanges taken, leases (what was used counts at the home). Nothing open is moved:
calls end, or are settled by people, before. The same state always makes the same rows, so `ledger verify` makes them again
and compares. Pure. Next: `seam/fold.py` (the other side), `verify/seam.py` (verify), `streams/repartition/repartition.py` (who does it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from sluicegate.processors.agents.values import dump, plain
from sluicegate.processors.budget.state import Account, name_of, scope_of, shared
from sluicegate.processors.ended import Ended
from sluicegate.processors.entries import PartitionState
from sluicegate.processors.memory.cells import SHARED, Cell, Piece
from sluicegate.processors.seam.fold import AGENT, BUDGET, CELLS, ENDED_SESSIONS, FROM, HOME, IDS, SESSION
from sluicegate.processors.sessions.session import Session, Source
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.places import far
from sluicegate.schemas.records import ImportFacts
from sluicegate.schemas.topics import partition_of

PIECE_BYTES = 256 * 1024
"""Rows of one import; a record has at most 1 MB."""
ROW_IDS, ROW_CELLS = 500, 200
"""Ids and cells in one row: about 100 kB, and 80 kB (a cell of many pieces stands alone)."""


@dataclass(frozen=True, slots=True)
class Seal:
    """A sealed partition as the next generation names it: `root` is over all its headers, the seal's included."""

    generation: int
    log_id: bytes
    partition: int
    seq: int
    root: bytes


Rows = list[bytes]


def unsettled(state: PartitionState) -> str:
    """Why a partition cannot be sealed yet, in words; else empty."""
    if state.open_count:
        return f"{state.open_count:,} call(s) are open"
    if state.waiters or state.reservations:
        return f"{len(state.waiters) + len(state.reservations):,} reservation(s) are not settled"
    return f"{len(state.parked):,} closed session(s) have calls to be decided" if state.parked else ""


@dataclass(slots=True)
class Census:
    """How much a partition of the next generation gets."""

    agents: int = 0
    sessions: int = 0
    ids: int = 0
    cells: int = 0
    homes: int = 0


def census(states: Iterable[PartitionState], partitions: int) -> list[Census]:
    """How much each partition of the next generation would get, of states folded with `owners`; open calls count as ids."""
    made = [Census() for _ in range(partitions)]
    homes: set[str] = set()
    for state in states:
        owners = state.owners or {}
        by_agent = {
            *owners.values(),
            *state.marks,
            *map(_agent_in, state.sessions),
            *map(_agent_in, state.closed),
        }
        for agent in by_agent:
            made[partition_of(agent, partitions)].agents += 1
        for name in state.sessions:
            made[partition_of(_agent_in(name), partitions)].sessions += 1
        for agent in owners.values():
            made[partition_of(agent, partitions)].ids += 1
        for cell in state.memory.values():
            owner = cell.scope if cell.scope.startswith(SHARED) else cell.agent_id
            made[partition_of(owner, partitions)].cells += 1
        homes |= state.homes.keys() | {
            shelf.partition("\0")[0] for shelf in state.shelves if shelf.startswith(SHARED)
        }
    for name in homes:
        made[partition_of(name, partitions)].homes += 1
    return made


def slices(state: PartitionState, generation: int, partitions: int) -> list[Rows]:
    """The rows of every partition of the next generation, in its order. `state` was folded with `owners`.

    Raises `Terminal` where an id has no owner there: the fold did not begin at the beginning.
    """
    made: list[Rows] = [[] for _ in range(partitions)]

    def put(name: str, rows: Iterable[dict[str, object]]) -> None:
        target = made[partition_of(name, partitions)]
        target.extend(dump(row) for row in rows)

    for rows in made:
        rows.append(dump({"kind": FROM, "earlier": state.earlier + state.seq}))
    book = _Book(state, generation)
    for agent in sorted(book.agents):
        put(agent, book.of_agent(agent))
    for name in sorted({n for n in state.accounts if shared(n)} | state.homes.keys()):
        put(name, _budget(state, name))
    for shelf in sorted(state.shelves):
        if shelf.startswith(SHARED):
            put(shelf.partition("\0")[0], book.shelf(shelf))
    return made


class _Book:
    """What a state holds, by agent."""

    def __init__(self, state: PartitionState, generation: int) -> None:
        self.state, self._generation = state, generation
        self.sessions: dict[str, list[str]] = {}
        self.ids: dict[str, list[bytes]] = {}
        self.ended: dict[str, tuple[list[str], list[str]]] = {}
        self.accounts: dict[str, list[str]] = {}
        self.shelves: dict[str, list[str]] = {}
        owners = state.owners
        if owners is None:
            raise Terminal("the ids of this state have no owners: fold it from its first record")
        for key in state.intents:
            if key not in owners:
                raise Terminal(f"nobody owns the id `{key.hex()}`: fold the partition from its first record")
            self.ids.setdefault(owners[key], []).append(key)
        for name in sorted(state.sessions):
            self.sessions.setdefault(_agent_in(name), []).append(name)
        for at, names in enumerate((list(state.closed), list(state.withdrawn))):
            for name in names:
                self.ended.setdefault(_agent_in(name), ([], []))[at].append(name)
        for name in sorted(n for n in state.accounts if not shared(n)):
            owner = name_of(name).partition("\t")[0] if scope_of(name) == "session" else name_of(name)
            self.accounts.setdefault(owner, []).append(name)
        for shelf in sorted(s for s in state.shelves if not s.startswith(SHARED)):
            self.shelves.setdefault(shelf.rpartition("\0")[2], []).append(shelf)
        self.agents = {
            *self.ids,
            *self.sessions,
            *self.ended,
            *self.accounts,
            *self.shelves,
            *state.marks,
            *state.restored,
        }
        self._hours = {key: hour for hour, keys in state.expiry.items() for key in _keys(keys)}

    def of_agent(self, agent: str) -> Iterator[dict[str, object]]:
        """All rows of one agent."""
        state = self.state
        yield {
            "kind": AGENT, "agent": agent, "mark": state.marks.get(agent, 0), "restored": state.restored.get(agent),
            "accounts": {name: _numbers(state.accounts[name]) for name in self.accounts.get(agent, ())},
        }  # fmt: skip
        for name in self.sessions.get(agent, ()):
            session = state.sessions.peek(name)
            own = [self._cell(key) for key in session.cells if key in state.memory]
            yield {"kind": SESSION, "session": plain(self._moved(session)), "cells": own}
        for shelf in self.shelves.get(agent, ()):
            yield from self.shelf(shelf)
        closed, withdrawn = self.ended.get(agent, ([], []))
        if closed or withdrawn:
            yield {
                "kind": ENDED_SESSIONS,
                "closed": self._closed(closed),
                "withdrawn": self._withdrawn(withdrawn),
            }
        yield from self._ids(agent)

    def shelf(self, shelf: str) -> Iterator[dict[str, object]]:
        """The cells of one owner, in their order."""
        given = [self._cell(key) for key in self.state.shelves[shelf]]
        for at in range(0, len(given), ROW_CELLS):
            yield {"kind": CELLS, "shelf": shelf, "cells": given[at : at + ROW_CELLS]}

    def _closed(self, names: list[str]) -> list[object]:
        rows = sorted((self.state.closed[name].at, name, self.state.closed[name]) for name in names)
        return [[name, at, one.subject, one.release, one.opened_by.hex()] for at, name, one in rows]

    def _withdrawn(self, names: list[str]) -> list[object]:
        rows = sorted((self.state.withdrawn[name][1], name) for name in names)
        return [[name, self.state.withdrawn[name][0].hex(), at] for at, name in rows]

    def _ids(self, agent: str) -> Iterator[dict[str, object]]:
        by_hour: dict[int, list[bytes]] = {}
        for key in sorted(self.ids.get(agent, ())):
            by_hour.setdefault(self._hours[key], []).append(key)
        for hour in sorted(by_hour):
            keys = by_hour[hour]
            for at in range(0, len(keys), ROW_IDS):
                rows = [self._id(key) for key in keys[at : at + ROW_IDS]]
                yield {"kind": IDS, "agent": agent, "hour": hour, "ids": rows}

    def _id(self, key: bytes) -> list[object]:
        one = self.state.intents[key]
        if not isinstance(one, Ended):
            raise Terminal(
                f"call `{one.intent_id}` of `{one.agent_id}` is open: it ends before it can be moved"
            )
        offset = self._far(one.offset)
        return [
            key.hex(),
            one.digest.hex(),
            one.state,
            one.reason,
            one.topic,
            offset,
            one.event_id.hex(),
            one.redacted,
        ]

    def _cell(self, key: bytes) -> list[object]:
        cell = self.state.memory[key]
        moved: Cell = replace(
            cell, offset=self._far(cell.offset),
            pieces=tuple(Piece(p.topic, self._far(p.offset), p.digest) for p in cell.pieces),
        )  # fmt: skip
        return [key.hex(), plain(moved)]

    def _moved(self, session: Session) -> Session:
        sources = (
            Source(s.event_id, s.origin, s.topic, self._far(s.offset), s.tool) for s in session.sources
        )
        return replace(session, sources=tuple(sources))

    def _far(self, offset: int) -> int:
        return far(self._generation, self.state.partition, offset)


def _agent_in(name: str) -> str:
    return name.partition("\0")[0]


def _keys(row: bytearray) -> Iterator[bytes]:
    return (bytes(row[at : at + 16]) for at in range(0, len(row), 16))


def _numbers(one: Account) -> dict[str, int]:
    return {f.name: getattr(one, f.name) for f in fields(one) if getattr(one, f.name) != f.default}


def _budget(state: PartitionState, name: str) -> Iterator[dict[str, object]]:
    home, one = state.homes.get(name), state.accounts.get(name)
    if home is not None:
        yield {
            "kind": HOME, "name": name, "window": home.window, "cap": home.cap, "frozen_at": home.frozen_at,
            "frozen_cap": home.frozen_cap,
        }  # fmt: skip
    if one is not None:
        yield {
            "kind": BUDGET, "name": name, "window": one.window, "spent": one.spent, "overran": one.overran,
            "home_cap": one.home_cap, "used_at": one.used_at, "frozen_at": one.frozen_at, "frozen_cap": one.frozen_cap,
        }  # fmt: skip


def imports(seal: Seal, rows: Sequence[bytes]) -> list[ImportFacts]:
    """A slice as facts of imports. The first holds no rows: an empty slice is seen to be empty, and what was sealed can be shown
    to who may not see the rows."""
    digest = hashlib.sha256()
    # INVARIANT: the statement of a seam is a record without anybody's state (tests/unit/test_seam.py, tests/unit/test_evidence_seam.py).
    pieces: list[Rows] = [[]]
    size = 0
    for row in rows:
        digest.update(len(row).to_bytes(8, "big") + row)
        if len(pieces) == 1 or (pieces[-1] and size + len(row) > PIECE_BYTES):
            pieces.append([])
            size = 0
        pieces[-1].append(row)
        size += len(row)
    total = digest.digest()
    return [
        ImportFacts(
            seal.generation, seal.log_id, seal.partition, seal.seq, seal.root, at, len(pieces), total, piece
        )
        for at, piece in enumerate(pieces)
    ]  # fmt: skip
