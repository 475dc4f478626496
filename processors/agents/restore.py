"""Rollback of an agent: its sessions, memory and labels go back to what they were at an earlier position.

    control `agent.rolled_back` ▸ nothing new of the agent is permitted ▸ the owner folds its own ledger up to the cut
    ▸ one tick, stage `rollback`: outcomes that carry every value that changes ▸ what was open is withdrawn

What does not go back: what was spent (budgets, counts and sums that policies read), the ids that tell duplicates, which
sessions were closed from outside, and what happened at a tool. A call in flight ends with its result withheld; one that
waits is voided. The values are on the ledger, so `apply` needs nothing else; `ledger verify` and replay make them again
from the records before. Pure. Next: `agents/orders.py` (the order), `agents/values.py`, `agents/fold.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import orjson
from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.agents.orders import AgentOrder, waiting_order
from sluicegate.processors.agents.restore_fold import RESTORED, STAGE
from sluicegate.processors.agents.values import AgentValues, Plain
from sluicegate.processors.entries import PartitionState
from sluicegate.processors.memory.cells import Cell
from sluicegate.processors.outcomes import event_id
from sluicegate.processors.sessions.session import Session
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import RestoreFacts

REASON = "rolled_back"
PLACE = "rollback"
"""In `Decision.needs`: (`PLACE`, order) asks for the agent's values at the cut."""

PIECE_BYTES = 400_000
"""Of values in one outcome, under Kafka's 1 MB with all the rest."""
MAX_PIECES = 100
"""Of one rollback, in one transaction: 40 MB, some 5,000 sessions with all their sources."""

SPENT = ("last_at", "calls", "dispatched", "counts", "last_used", "sums", "calls_given", "held")
"""Fields of a session that do not go back: what policies count, and what it may still hand on."""


@dataclass(slots=True)
class Changes:
    """What is otherwise once an agent's values are those of the cut.

    Attributes:
        withdrawn: ids of sessions that were opened after the cut.
        sessions: as they stand then; `cells`, too, with the version each had at the cut.
    """

    mark: int
    withdrawn: list[str] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    forgotten: list[bytes] = field(default_factory=list)
    cells: dict[bytes, tuple[Cell, int]] = field(default_factory=dict)


def changes(state: PartitionState, agent_id: str, then: AgentValues, now: int) -> Changes:
    """What taking an agent back to `then` changes in this state."""
    have = agent_values.values_of(state, agent_id)
    found = Changes(then.mark)
    kept_cells: set[bytes] = set()
    for name in sorted(then.sessions.keys() | have.sessions.keys()):
        was, is_ = then.sessions.get(name), have.sessions.get(name)
        if was is None or (is_ is not None and is_.opened_by != was.opened_by):
            found.withdrawn.append(name)
            continue
        if is_ is None and state.withdrawn.get(f"{agent_id}\0{name}", (b"", 0))[0] != was.opened_by:
            continue  # INVARIANT: what was closed from outside stays closed (tests/unit/test_agent_rollback.py)
        kept_cells.update(was.cells)
        new = _as_it_was(state, agent_id, name, was, is_, now)
        if new != is_:
            found.sessions[name] = new
    of_sessions = {key for one in then.sessions.values() for key in one.cells}
    wanted = {k: c for k, c in then.cells.items() if k not in of_sessions or k in kept_cells}
    found.forgotten = sorted(have.cells.keys() - wanted.keys())
    for key in sorted(wanted):
        cell, is_cell = wanted[key], have.cells.get(key)
        if is_cell is None:
            found.cells[key] = (cell, cell.version)
        elif is_cell != cell:
            # INVARIANT: no version ever names two values (tests/unit/test_agent_rollback.py).
            found.cells[key] = (replace(cell, version=is_cell.version + 1), cell.version)
    return found


def _as_it_was(
    state: PartitionState, agent_id: str, name: str, was: Session, is_: Session | None, now: int
) -> Session:
    if is_ is not None:
        # INVARIANT: what was spent is not given back (tests/unit/test_agent_rollback.py).
        return replace(was, **{spent: getattr(is_, spent) for spent in SPENT})
    parked = state.parked.get(f"{agent_id}\0{name}")
    return replace(was, last_at=now, held=parked.held if parked is not None else 0)


def decide_restore(work: Work, event: int) -> None:
    """Take in the order of this control event. Asks for the agent's values at the cut."""
    order = _about(work, event)
    if order is None:
        return  # another owner took it in
    late = (order.cut is not None and order.cut >= work.state.seq) or (order.at or 0) >= work.now
    # INVARIANT: what an agent had before a seam is never taken for nothing (tests/unit/test_seam.py).
    begun = work.state.imported > 0
    early = begun and (
        order.cut < work.state.imported if order.cut is not None else (order.at or 0) < work.state.began
    )
    if late or early:
        refuse(work, event, "bad_cut")
        return
    place = (PLACE, event)
    if place not in work.source.contents:
        work.decision.needs.append(place)
        return
    raw = work.source.contents[place]
    if raw is None:
        refuse(work, event, "bad_cut")
        return
    pieces = restore_facts(work.state, order, *at_cut_of(raw), work.now)
    if len(pieces) > MAX_PIECES:
        refuse(work, event, "rollback_too_large")
        return
    for facts in pieces:
        emit(work, STAGE, RESTORED, facts, caused_by=_cause(work, event))


def _about(work: Work, event: int) -> AgentOrder | None:
    """The order of this control event, while it waits; the outcomes are about its agent."""
    agent = next((a for a, one in work.control.agent_orders.items() if one.event == event), "")
    order = waiting_order(work.state, work.control, agent)
    if order is not None:
        known = work.control.agents.get(agent)
        work.origin.agent_id, work.origin.tenant = agent, known.tenant if known is not None else ""
    return order


def at_cut(cut: int, then: AgentValues) -> bytes:
    """An agent's values at a cut, as a decision is given them."""
    return agent_values.dump({"cut": cut, **agent_values.as_plain(then)})


def at_cut_of(raw: bytes) -> tuple[int, AgentValues]:
    """(the cut, the values) in such bytes."""
    return int(orjson.loads(raw)["cut"]), agent_values.decode(raw)


def releases_in(raw: bytes) -> set[str]:
    """The releases that sessions in such bytes stand on: who restores them needs those at hand."""
    return {session.release for session in at_cut_of(raw)[1].sessions.values() if session.release}


def restore_facts(
    state: PartitionState, order: AgentOrder, cut: int, then: AgentValues, now: int
) -> list[RestoreFacts]:
    """What the ledger says of a rollback that is taken in at `now`."""
    pieces = list(_pieces(changes(state, order.agent_id, then, now)))
    digest = agent_values.digest(then)
    return [
        RestoreFacts(
            order.event, cut, at, len(pieces), digest, then.mark, piece.withdrawn, piece.sessions, piece.forgotten,
            piece.cells,
        )
        for at, piece in enumerate(pieces)
    ]  # fmt: skip


def _cause(work: Work, event: int) -> bytes:
    return event_id(work.control.own_log, 0, event, "control", 0)


def refuse(work: Work, event: int, reason: str) -> None:
    """Record that an order changes nothing."""
    if _about(work, event) is None:
        return
    facts = RestoreFacts(event, -1, 0, 1, b"", 0, [], [], [], [])
    emit(work, STAGE, RESTORED, facts, reason, caused_by=_cause(work, event))


@dataclass(slots=True)
class _Piece:
    withdrawn: list[str] = field(default_factory=list)
    sessions: list[bytes] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    cells: list[bytes] = field(default_factory=list)


def _pieces(found: Changes) -> Iterator[_Piece]:
    """The changes in outcomes of a bounded size; one at least."""
    rows: list[tuple[str, str | bytes]] = [("withdrawn", name) for name in found.withdrawn]
    rows += [("sessions", agent_values.dump(agent_values.plain(one))) for one in found.sessions.values()]
    rows += [("forgotten", key) for key in found.forgotten]
    for key, (cell, of) in found.cells.items():
        row: Plain = {**agent_values.plain(cell), "key": key.hex(), "of_version": of}
        rows.append(("cells", agent_values.dump(row)))
    piece, size = _Piece(), 0
    for kind, row_bytes in rows:
        if size + len(row_bytes) > PIECE_BYTES and size:
            yield piece
            piece, size = _Piece(), 0
        getattr(piece, kind).append(row_bytes)
        size += len(row_bytes)
    yield piece
