"""A session in the state: what it heard, used and saw, as counts, labels and places; never content.

Changed by the fold only (`state.py`), a record at a time. Every list and table in it has a bound.
Next: `state.py` (who folds), `sessions/history.py` (what policies read of it), `guardrails/derail.py` (what halts it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluicegate.processors import labels
from sluicegate.schemas.records import OpeningFacts, PlanFacts, SessionFacts

MAX_SOURCES = 200
"""Events of one session that values may come from, about 250 bytes each: the oldest is dropped, and what only it said
grounds nothing any more."""

MAX_HISTORY_TOOLS = 500
"""Tools told apart in one session's history; the recorded sessions use at most 20."""

MAX_SESSION_CELLS = 200
"""Values one session remembers for itself; 16 bytes each here, and a cell in the state."""

MAX_SUM = 2**63 - 1
"""Sums stop here: Cedar's decimal has 64 bits."""

NO_COUNTS: Mapping[str, int] = {}
"""What every session begins with: tables are replaced, never changed in place, so that idle sessions share this one."""


@dataclass(slots=True)
class Source:
    """An event of a session that an argument's value may come from; its words stand at (topic, offset).

    Attributes:
        origin: `user` for what a channel reported, `result` for what a tool returned.
        tool: whose contract labels it by path; empty where everything has the one label of its origin.
        redacted: recipes that were applied to the result, separated by spaces; usually none. Here, because an intent's id is
            forgotten after 24 h, and `history` tells of a session for as long as it is used.
    """

    event_id: bytes
    origin: str
    topic: str
    offset: int
    tool: str
    redacted: str = ""


@dataclass(slots=True)
class Session:
    """An open session.

    Attributes:
        integrity: labels of everything released into it, as bits (`labels.py`).
        confidentiality: the narrowest rank released into it.
        sources: the last `MAX_SOURCES` events that may ground a value, oldest first.
        counts, last_used: tool -> its dispatches so far, and the number of the last one among all.
        sums: `tool.argument` -> sum in 1/10,000.
        cells: keys of what it remembers for itself.
        recent, halted, idle, calls_before, sure, falls: see `guardrails/derail.py`.
        verified: 1 when a token of an issuer that control knows said `on_behalf_of`.
        chain, roles_cap, calls_cap, calls_given: what it may not exceed when it was handed on, see `handoff/delegation.py`.
        release, opened_head: what it began under, and the control event it opened under, see `control/deployments.py`.
        opened_offset: where the input stands that opened it, where its release declared a task (`sessions/task.py`); else -1.
        held: its calls that people hold: closed meanwhile, it is parked until they are settled.
    """

    agent_id: str
    session_id: str
    subject: str
    on_behalf_of: str
    origin: str
    opened_at: int
    last_at: int
    calls: int = 0
    user_messages: int = 0
    opened_by: bytes = b""
    dispatched: int = 0
    integrity: int = 0
    confidentiality: int = 0
    recent: bytes = b""
    halted: str = ""
    idle: int = 0
    calls_before: int = 0
    verified: int = 0
    chain: str = ""
    roles_cap: str = ""
    calls_cap: int = -1
    calls_given: int = 0
    held: int = 0
    sure: int = -1
    falls: int = 0
    release: str = ""
    opened_head: int = -1
    opened_offset: int = -1
    cells: tuple[bytes, ...] = ()
    sources: tuple[Source, ...] = ()
    counts: Mapping[str, int] = field(default_factory=lambda: NO_COUNTS)
    last_used: Mapping[str, int] = field(default_factory=lambda: NO_COUNTS)
    sums: Mapping[str, int] = field(default_factory=lambda: NO_COUNTS)


def use(session: Session | None, tool: str, facts: PlanFacts) -> None:
    """A tool was dispatched for the first time for an intent: the session's history grows."""
    if session is None:
        return
    session.dispatched += 1
    if tool in session.counts or len(session.counts) < MAX_HISTORY_TOOLS:
        session.counts = {**session.counts, tool: session.counts.get(tool, 0) + 1}
        session.last_used = {**session.last_used, tool: session.dispatched}
        for name, amount in zip(facts.measured, facts.amounts, strict=True):
            total = session.sums.get(name, 0) + amount
            session.sums = {**session.sums, name: max(-MAX_SUM, min(MAX_SUM, total))}


def opening(facts: SessionFacts, offset: int) -> int:
    """Where the opening input of a session is read again; -1 where its release declared no task."""
    # INVARIANT: a session of an older ledger is as it was, in a rollback's facts too (tests/unit/test_task.py).
    return offset if isinstance(facts, OpeningFacts) else -1


def learn(session: Session, source: Source) -> None:
    """Remember where words stand; the oldest place is dropped."""
    session.sources = (*session.sources[1 - MAX_SOURCES :], source)


def see(marks: dict[str, int], agent_id: str, session: Session | None, words: list[str]) -> None:
    """Labels reached an agent: its session's join them, and it remembers them (`marks`)."""
    bits, confidentiality = labels.read_header(words)
    marks[agent_id] = marks.get(agent_id, 0) | mark_of(bits, confidentiality)
    if session is not None:
        session.integrity |= bits
        session.confidentiality = max(session.confidentiality, confidentiality)


_SECRECY = 8
"""Bits of a mark below this are integrity, the others are confidentiality."""


def mark_of(integrity: int, confidentiality: int) -> int:
    """Labels as one set of bits, which join with `|`: what an agent ever saw."""
    return integrity | (1 << (_SECRECY + confidentiality - 1) if confidentiality else 0)


def from_mark(mark: int) -> tuple[int, int]:
    """(integrity bits, the narrowest confidentiality rank) of a mark."""
    return mark & ((1 << _SECRECY) - 1), (mark >> _SECRECY).bit_length()
