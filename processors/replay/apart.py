"""What would be otherwise had one event never come: what is left out, and what is told of it.

Plain records, filled by `replay/counterfactual.py`, which says what they mean. Never decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sluicegate.processors.replay.diff import Answer
from sluicegate.processors.replay.recorded import Event

MAX_CHANGES = 10_000
"""Kept of a run, about 700 bytes each: 7 MB. All are counted."""

Session = tuple[str, str]
"""(agent, session)."""


@dataclass(frozen=True, slots=True)
class Drop:
    """What is left out: the input of one event, or every input of one call. `agent_id`: whose call, or anybody's."""

    event: bytes = b""
    intent_id: str = ""
    agent_id: str = ""

    def holds(self, group: Sequence[Event]) -> bool:
        """Whether this input is left out."""
        if self.event:
            return any(e.header.event_id == self.event for e in group)
        h = group[0].header
        return h.intent_id == self.intent_id and self.agent_id in ("", h.agent_id)


@dataclass(frozen=True, slots=True)
class Change:
    """One input that comes out otherwise.

    Attributes:
        what: `decision`, `approval`, `memory` (another value was read or written), or `deadline`.
        speculative: its agent would have asked otherwise by then, so nobody can know.
    """

    partition: int
    seq: int
    event: str
    decided_at: int
    agent_id: str
    session_id: str
    intent_id: str
    tool: str
    what: str
    was: Answer
    now: Answer
    speculative: bool


@dataclass(slots=True)
class Course:
    """What became of one session.

    Attributes:
        partition: whose seqs these are.
        first: seq of the first input that certainly comes out otherwise, -1 when none.
        unknown_from: seq from which nobody can know, and `why`; -1 when never.
        unknown: what it asked after that.
    """

    first: int = -1
    unknown_from: int = -1
    why: str = ""
    unknown: int = 0
    partition: int = 0


class NotMade(NamedTuple):
    """An intent that was executed, and would not have been.

    Attributes:
        back: what takes it back: `call`, `agent` (what it remembers), `shared` (only writing anew), or empty: it changed nothing.
        partition, seq: where the record begins that has it executed.
    """

    agent_id: str
    intent_id: str
    speculative: bool
    back: str = "call"
    partition: int = 0
    seq: int = 0


@dataclass(slots=True)
class Apart:
    """What the partitions that were looked at would hold.

    Attributes:
        dropped: seqs of the records left out.
        decided: inputs decided again; `changed`, `speculative` of them.
        touched: partitions that hold something else, besides that of the event.
        crossed: exchanges and hand-offs between partitions that came otherwise, not at all, or only without the event.
        spends: account -> (spent on the record, spent without).
        memory: cell -> (version and digest on the record, without).
        not_made: intents that were executed, and would not have been.
        leads_to: sessions that were handed on by such as nobody knows about.
    """

    dropped: list[int] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    crossed: int = 0
    decided: int = 0
    changed: int = 0
    speculative: int = 0
    unknown: int = 0
    erased: int = 0
    changes: list[Change] = field(default_factory=list)
    sessions: dict[Session, Course] = field(default_factory=dict)
    spends: dict[str, tuple[int, int]] = field(default_factory=dict)
    memory: dict[str, tuple[str, str]] = field(default_factory=dict)
    not_made: list[NotMade] = field(default_factory=list)
    leads_to: list[Session] = field(default_factory=list)
