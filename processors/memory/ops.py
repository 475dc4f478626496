"""What a memory operation does, wherever it is done: beside the agent's own state, or at the home of a shared scope.

    write, append, forget   one value, compared with `if_version` first
    read                    one value, and which version was seen
    search                  keys by their beginning and by words of the values: bytes are loaded, within a bound

An operation answers with what the agent is told and the facts that the fold needs; it changes nothing itself. The state
knows neither keys nor values, so looking at them means loading them (docs/decisions/0022). A version of a shared value is
the place of its write in the home's ledger: it never comes again, whatever is forgotten meanwhile.
Next: `memory/memory.py` (who asks here), `memory/homes.py` (between partitions).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import orjson
from sluicegate.processors.erasure import is_erased
from sluicegate.processors.memory.cells import (
    MAX_CELLS,
    MAX_PIECES,
    MAX_SHELF_CELLS,
    SESSION,
    SHARED,
    Cell,
    Piece,
    cell_key,
    shelf_of,
)
from sluicegate.processors.payload import record_in
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.sessions.session import MAX_SESSION_CELLS, Session
from sluicegate.processors.work import Work
from sluicegate.schemas.records import CellFacts, Exchange, Intent, Review

MAX_VALUE_BYTES = 16 * 1024
"""A remembered value as JSON; larger things are artifacts."""

MAX_EXAMINED, MAX_PLACES = 100, 200
"""Values, and records, that one search looks at: what is not at hand takes a few milliseconds each to load."""

MAX_FOUND, FOUND = 50, 10
"""Hits of one search at most, and when nothing is said."""

_WORD = re.compile(r"\w+")

Json = object


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, by whom. `value`: canonical JSON. `key`: of a search, how keys begin. `if_version`: -1, any."""

    op: str
    scope: str
    tenant: str
    agent_id: str
    session_id: str
    intent_id: str
    key: str = ""
    value: bytes = b""
    if_version: int = -1
    integrity: int = 0
    confidentiality: int = 0
    form: str = "list"
    words: str = ""
    limit: int = FOUND
    before: int = 0

    @property
    def shared(self) -> bool:
        """Whether it has a home."""
        return self.scope.startswith(SHARED)

    @property
    def cell(self) -> bytes:
        """The cell it is about."""
        return cell_key(self.scope, self.agent_id, self.session_id, self.key, self.tenant)


@dataclass(frozen=True, slots=True)
class Done:
    """What an operation led to: the agent's answer, or a reason that it failed. With `work.decision.needs`, nothing."""

    facts: CellFacts
    answer: dict[str, Json] | None = None
    reason: str = ""


def do(work: Work, ask: Request, session: Session | None) -> Done:
    """Do it as far as deciding goes. `session`: of a session's own memory."""
    facts = CellFacts(
        ask.op, ask.scope, ask.cell if ask.op != "search" else b"", work.state.partition, writer=ask.agent_id,
        made_by=ask.intent_id,
    )  # fmt: skip
    if ask.op == "search":
        return _search(work, ask, session, facts)
    cell = work.state.memory.get(ask.cell)
    if ask.op == "read":
        return _read(work, cell, facts)
    if ask.if_version not in (-1, cell.version if cell is not None else 0):
        return Done(facts, reason="version_conflict")
    if ask.op == "forget":
        facts.version = cell.version if cell is not None else 0
        return Done(facts, {"forgotten": cell is not None})
    return _write(work, ask, session, cell, facts)


def too_large(ask: Request) -> bool:
    """Whether a value is refused before anybody is asked."""
    return len(ask.value) > MAX_VALUE_BYTES


def _write(work: Work, ask: Request, session: Session | None, cell: Cell | None, facts: CellFacts) -> Done:
    facts.value_bytes, facts.value_digest = len(ask.value), hashlib.sha256(ask.value).digest()
    facts.integrity, facts.confidentiality = ask.integrity, ask.confidentiality
    if too_large(ask):
        return Done(facts, reason="value_too_large")
    if ask.op == "append":
        problem = _append(work, ask, cell, facts)
        if problem or work.decision.needs:
            return Done(facts, reason=problem)
    if (cell is None or ask.op == "append") and _full(work, ask, session, new=cell is None):
        return Done(facts, reason="memory_full")
    known = cell.version if cell is not None else 0
    facts.version = work.state.earlier + work.first_seq if ask.shared else known + 1
    facts.base_version = cell.base_version if cell is not None and ask.op == "append" else facts.version
    return Done(facts, {"version": facts.version})


def _full(work: Work, ask: Request, session: Session | None, *, new: bool) -> bool:
    state = work.state
    if len(state.memory) + state.pieces >= MAX_CELLS:
        return True
    if not new:
        return False
    if ask.scope == SESSION:
        return session is None or len(session.cells) >= MAX_SESSION_CELLS
    return (
        ask.shared
        and len(state.shelves.get(shelf_of(ask.scope, ask.agent_id, ask.tenant), ())) >= MAX_SHELF_CELLS
    )


def _append(work: Work, ask: Request, cell: Cell | None, facts: CellFacts) -> str:
    """Fill the facts of an appended piece; a reason when it cannot be."""
    text = ask.value.startswith(b'"')
    if cell is None:
        facts.form = "text" if ask.form == "text" else "items"
        return "not_appendable" if facts.form == "text" and not text else ""
    form, size = cell.form, cell.size
    if not form:
        whole = assembled(work, cell)
        if work.decision.needs:
            return ""
        if whole is None:
            return "value_gone"
        form = {b"[": "list", b'"': "text"}.get(whole[:1], "")
        size = len(whole)
    if not form or (form == "text" and not text):
        return "not_appendable"
    facts.form, facts.value_bytes = form, size + 1 + len(ask.value)
    # INVARIANT: a value has the labels of all its pieces (tests/unit/test_shared_memory.py).
    facts.integrity |= cell.integrity
    facts.confidentiality = max(facts.confidentiality, cell.confidentiality)
    over = facts.value_bytes > MAX_VALUE_BYTES or len(cell.pieces) + 1 >= MAX_PIECES
    return "value_too_large" if over else ""


def _read(work: Work, cell: Cell | None, facts: CellFacts) -> Done:
    if cell is None:
        return Done(facts, {"found": False, "version": 0})
    value = assembled(work, cell)
    facts.version, facts.base_version, facts.value_digest = (
        cell.version,
        cell.base_version,
        cell.value_digest,
    )
    facts.integrity, facts.confidentiality, facts.form = cell.integrity, cell.confidentiality, cell.form
    if value is None:  # erased, or past the input topic's retention
        return Done(facts, {"found": False, "gone": True, "version": cell.version})
    facts.value_bytes, facts.value_digest = len(value), hashlib.sha256(value).digest()
    return Done(facts, {"found": True, "value": orjson.loads(value), "version": cell.version})


# -- search -------------------------------------------------------------------------------------------------------------


def _search(work: Work, ask: Request, session: Session | None, facts: CellFacts) -> Done:
    """Newest first. What may not be told apart by a miss is what every value looked at holds: its confidentiality joins
    the session; integrity comes of hits only."""
    chosen, more = _candidates(work, ask, session)
    found: list[dict[str, Json]] = []
    gone, wanted = 0, _words(ask.words)
    said = [(cell, _said(work, cell)) for cell in chosen]
    if work.decision.needs:
        return Done(facts)
    last = 0
    for cell, one in said:
        if len(found) >= ask.limit:
            more = True
            break
        last = cell.seq
        facts.examined += 1
        facts.confidentiality = max(facts.confidentiality, cell.confidentiality)
        if one is None:
            gone += 1
            continue
        key, value = one
        if key.startswith(ask.key) and wanted <= _words(value.decode()):
            facts.integrity |= cell.integrity
            row = {"key": key, "version": cell.version, "bytes": len(value), "written_at": cell.at}
            found.append(row)
    facts.matched = len(found)
    answer: dict[str, Json] = {"found": found, "examined": facts.examined, "gone": gone}
    if more:
        answer["before"] = last
    return Done(facts, answer)


def _candidates(work: Work, ask: Request, session: Session | None) -> tuple[list[Cell], bool]:
    """Cells a search looks at, and whether there are more."""
    state = work.state
    if ask.scope == SESSION:
        mine = [state.memory[key] for key in (session.cells if session is not None else ())]
        cells = iter(sorted(mine, key=lambda cell: -cell.seq))
    else:
        shelf = state.shelves.get(shelf_of(ask.scope, ask.agent_id, ask.tenant), {})
        cells = (state.memory[key] for key in reversed(shelf))
    chosen: list[Cell] = []
    places = 0
    for cell in cells:
        if ask.before and cell.seq >= ask.before:
            continue
        places += 1 + len(cell.pieces)
        if len(chosen) >= MAX_EXAMINED or (chosen and places > MAX_PLACES):
            return chosen, True
        chosen.append(cell)
    return chosen, False


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


# -- bytes --------------------------------------------------------------------------------------------------------------


def assembled(work: Work, cell: Cell) -> bytes | None:
    """The value of a cell as JSON; None when a piece is gone, or asked for just now (`work.decision.needs`)."""
    said = _said(work, cell)
    return said[1] if said is not None else None


def _said(work: Work, cell: Cell) -> tuple[str, bytes] | None:
    if is_erased(work.control, cell.subject):
        return None  # INVARIANT: as if its bytes were gone, though the input's topic has them (tests/unit/test_erasure.py)
    return put_together(cell, [at_hand(work, (piece.topic, piece.offset)) for piece in pieces_of(cell)])


def pieces_of(cell: Cell) -> tuple[Piece, ...]:
    """All pieces of a value, the first one first."""
    return (Piece(cell.topic, cell.offset, cell.value_digest), *cell.pieces)


def put_together(cell: Cell, raws: list[bytes | None]) -> tuple[str, bytes] | None:
    """(key, value) of a cell whose pieces stand in these inputs. INVARIANT: bytes that are not what was written count as
    gone (tests/unit/test_memory.py)."""
    said = [said_in(raw) for raw in raws]
    for piece, one in zip(pieces_of(cell), said, strict=True):
        if one is None or hashlib.sha256(one[1]).digest() != piece.digest:
            return None
    values = [one[1] for one in said if one is not None]
    assert said[0] is not None
    return said[0][0], joined(cell.form, values)


def joined(form: str, values: list[bytes]) -> bytes:
    """A value made of its pieces, as JSON."""
    if form == "text":
        return orjson.dumps("".join(orjson.loads(v) for v in values))
    if form == "items":
        return b"[" + b",".join(values) + b"]"
    if form == "list" and len(values) > 1:
        head = values[0][:-1]
        return head + (b"," if len(head) > 1 else b"") + b",".join(values[1:]) + b"]"
    return values[0]


def said_in(raw: bytes | None) -> tuple[str, bytes] | None:
    """(key, value) in the bytes of a writing intent, of the review that edited it, or of the exchange that brought it to
    its home; None when they are gone or hold none."""
    record = record_in(raw)
    try:
        if isinstance(record, Exchange):
            head, _, value = record.body.partition(b"\n")
            return str(orjson.loads(head)["key"]), value
        if not isinstance(record, Intent | Review) or record.arguments is None:
            return None
        arguments = orjson.loads(record.arguments)
        value = orjson.dumps(arguments.get("value"), option=orjson.OPT_SORT_KEYS)
        return str(arguments.get("key", "")), value
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
