"""Lineage: which calls followed from one call, told from the ledger's headers and facts alone.

    data        a value of its result was found in a later call's arguments (`grounded_events` of that call)
    memory      a memory cell was written by it, and read
    handed on   after its result was there, its session handed work to another agent: all that session does
    saw         a later call of a session that had its result, and whose arguments were not traced: nobody can tell

The first three are followed; `saw` only when asked for, else such calls are listed. A call whose arguments were traced,
and to elsewhere, does not follow. What has no result in a session (refused, failed, withheld) leads to nothing.
Never reads content, and never says how a call is taken back. Pure. Next: `jobs/compensate.py`, `streams/undo/rollback.py`.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field

import orjson
from sluicegate.processors import lifecycle
from sluicegate.processors.memory.cells import SHARED
from sluicegate.schemas.records import (
    CacheFacts,
    CellFacts,
    Header,
    HoldFacts,
    IntentFacts,
    MemoryFacts,
    PlanFacts,
    RestoreFacts,
    ReviewFacts,
    SessionFacts,
    StageFacts,
)

DATA, MEMORY, HANDED_ON, SAW = "data", "memory", "handed on", "saw"

MAX_CALLS = 500_000
"""Calls of one tenant since the call that is taken back, about 700 bytes each: 350 MB."""
MAX_CASCADE = 200
"""Calls that one saga takes back. Each is an intent, and one control event lists them all, about 200 bytes each."""

HANDOFF = "handoff"
WRITES = ("write", "append")
"""Memory operations that a later read follows from."""
Key = tuple[str, str]
"""(agent, intent)."""
Place = tuple[int, int]
"""(ledger partition, offset)."""


@dataclass(slots=True)
class Call:
    """One intent on the ledger, or one hand-off.

    Attributes:
        at, end: the ledger partition's `seq` of its first record, and of its result (-1 without one).
        decided_at: of the first record, microseconds.
        first, last, edited: where the records with its arguments, its end and a person's edit stand.
        event: the id of the outcome that released its result, or handed on.
        sources: events that its arguments come from; `traced`: whether anybody looked.
        cell: (memory cell, version) it wrote or read; `op` says which. base: of a read, the version of the first piece.
        shared: the cell is of a scope that agents share.
        to: (agent, session) it handed on to.
        digest: of the call as it was offered: part of the key that the tool was sent.
        proof: of `in_doubt` that a person settled: what they said.
    """

    agent_id: str
    intent_id: str
    session_id: str
    tenant: str
    partition: int
    at: int
    decided_at: int
    tool: str = ""
    tool_class: str = ""
    state: str = ""
    proof: str = ""
    first: Place = (-1, -1)
    last: Place | None = None
    edited: Place | None = None
    end: int = -1
    event: bytes = b""
    traced: bool = False
    sources: set[bytes] = field(default_factory=set)
    op: str = ""
    cell: tuple[bytes, int] = (b"", 0)
    base: int = 0
    shared: bool = False
    to: Key | None = None
    digest: bytes = b""

    @property
    def key(self) -> Key:
        """Its identity."""
        return self.agent_id, self.intent_id


@dataclass(frozen=True, slots=True)
class Link:
    """Why a call is in a cascade: what it followed from."""

    parent: Key
    how: str


class TooWide(Exception):
    """The cascade, or what has to be read for it, passes its bound."""


class Lineage:
    """The calls of one tenant, taken record by record, partition by partition in ledger order."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self.calls: dict[Key, Call] = {}
        self._back: dict[tuple[bytes, int], int] = {}
        """(cell, version) that a rollback made -> the version whose value it has."""
        self.opened: dict[Key, int] = {}
        """(agent, session) that was handed on -> `seq` of its opening."""

    def take(self, partition: int, offset: int, header: Header, facts: object) -> None:
        """One ledger record. Raises `TooWide` past `MAX_CALLS`."""
        h = header
        if h.tenant != self._tenant:
            return
        if isinstance(facts, SessionFacts):
            self._session(partition, offset, h, facts)
            return
        if isinstance(facts, RestoreFacts):
            self._restored(facts)
            return
        if not h.intent_id or h.status == lifecycle.ATTACHED:
            return
        call = self.calls.get((h.agent_id, h.intent_id))
        if isinstance(facts, IntentFacts) and call is None and facts.remembered:
            call = self._add(
                Call(h.agent_id, h.intent_id, h.session_id, h.tenant, partition, h.seq, h.decided_at)
            )
            call.tool, call.first = facts.tool, (partition, offset)
        if call is None:
            return
        following = lifecycle.follow(call.state, h.status)
        if following is None:
            return
        call.state = following
        if isinstance(facts, StageFacts | HoldFacts):
            call.traced = call.traced or bool(facts.grounded_arguments)
            call.sources.update(event for event in facts.grounded_events if event)
        if isinstance(facts, PlanFacts | HoldFacts):
            call.tool_class, call.digest = facts.tool_class, facts.action_digest
        elif isinstance(facts, CacheFacts):
            call.tool_class = "read_only"  # of others nothing is kept
        elif isinstance(facts, ReviewFacts) and facts.edited:
            call.edited = (partition, offset)
        elif isinstance(facts, MemoryFacts):
            call.op, call.cell, call.base = facts.op, (facts.cell, facts.version), facts.version
        elif isinstance(facts, CellFacts):
            call.op, call.cell, call.base = facts.op, (facts.cell, facts.version), facts.base_version
            call.shared = facts.scope.startswith(SHARED)
        if call.op == "read" and call.cell in self._back:
            # INVARIANT: what reads a restored value followed from its write (tests/unit/test_agent_rollback.py).
            of = self._back[call.cell]
            call.cell, call.base = (call.cell[0], of), min(call.base, of)
        if h.status in lifecycle.EXECUTED_TERMINAL:
            call.last, call.proof = (partition, offset), h.reason if h.status == "resolved" else ""
            if h.status == "released" or (h.status == "resolved" and h.labels):
                call.end, call.event = h.seq, h.event_id

    def _restored(self, facts: RestoreFacts) -> None:
        """An agent was rolled back: its cells have versions of their own, and values of earlier ones."""
        for raw in facts.cells:
            given = orjson.loads(raw)
            self._back[bytes.fromhex(given["key"]), given["version"]] = given["of_version"]

    def _session(self, partition: int, offset: int, h: Header, facts: SessionFacts) -> None:
        if h.status == "delegated":
            call = Call(
                h.agent_id, h.intent_id, h.session_id, h.tenant, partition, h.seq, h.decided_at, HANDOFF
            )
            call.state, call.first, call.event, call.end = h.status, (partition, offset), h.event_id, h.seq
            call.to = (facts.to_agent, facts.to_session)
            self._add(call)
        elif h.status == "opened" and facts.origin == HANDOFF:
            self.opened[h.agent_id, h.session_id] = h.seq

    def _add(self, call: Call) -> Call:
        if len(self.calls) >= MAX_CALLS:
            raise TooWide(f"more than {MAX_CALLS:,} calls were asked since, take back a later one")
        self.calls[call.key] = call
        return call


@dataclass(slots=True)
class Cascade:
    """What followed from one call.

    Attributes:
        calls: the root first, then in the order they were found.
        links: call -> what it followed from; the root has none.
        unsure: calls with effects that may have followed: nobody traced their arguments.
        hands: agents that were handed work, whose partitions have to be known.
    everywhere: a shared value was written, which any agent of the tenant may have read.
    """

    root: Key
    calls: list[Key]
    links: dict[Key, list[Link]]
    unsure: dict[Key, Link]
    hands: set[str]
    everywhere: bool = False

    @property
    def children(self) -> dict[Key, list[Key]]:
        """Call -> the calls that followed from it by themselves."""
        found: dict[Key, list[Key]] = defaultdict(list)
        for child, links in self.links.items():
            for parent in {link.parent for link in links}:
                found[parent].append(child)
        return found

    def backwards(self, lineage: Lineage) -> list[Call]:
        """Every call after all that followed from it: the order in which they are taken back. The latest first."""
        waits: dict[Key, int] = dict.fromkeys(self.calls, 0)
        for links in self.links.values():
            for parent in {link.parent for link in links}:
                waits[parent] += 1
        ready = [(_age(lineage.calls[k]), k) for k in self.calls if not waits[k]]
        heapq.heapify(ready)
        order: list[Call] = []
        while ready:
            _, key = heapq.heappop(ready)
            order.append(lineage.calls[key])
            for parent in {link.parent for link in self.links.get(key, [])}:
                waits[parent] -= 1
                if not waits[parent]:
                    heapq.heappush(ready, (_age(lineage.calls[parent]), parent))
        return order


def _age(call: Call) -> tuple[int, int, int]:
    return -call.decided_at, call.partition, -call.at


def cascade(lineage: Lineage, root: Key, *, seen: bool = False) -> Cascade:
    """Everything that followed from a call, as far as the lineage was read.

    `seen`: take in what only saw a result, too. Raises `TooWide` past `MAX_CASCADE` calls that are more than reading.
    """
    index = _Index(lineage)
    found = Cascade(root, [root], {}, {}, set())
    todo, effects = [root], 0
    members = {root}
    while todo:
        parent = lineage.calls[todo.pop(0)]
        if parent.to is not None:
            found.hands.add(parent.to[0])
        found.everywhere = found.everywhere or (parent.shared and parent.op in WRITES)
        for child, how in index.after(parent):
            link = Link(parent.key, how)
            if how == SAW and not seen:
                if child.tool_class not in ("", "read_only") and child.key not in members:
                    found.unsure.setdefault(child.key, link)
                continue
            links = found.links.setdefault(child.key, [])
            if child.key == root or link in links:
                continue
            links.append(link)
            if child.key not in members:
                members.add(child.key)
                found.calls.append(child.key)
                todo.append(child.key)
                effects += child.tool_class not in ("", "read_only")
                if effects >= MAX_CASCADE:
                    raise TooWide(
                        f"more than {MAX_CASCADE} calls followed from it, take back a later one first"
                    )
    found.unsure = {k: link for k, link in found.unsure.items() if k not in members}
    return found


class _Index:
    """Where to look for what followed."""

    def __init__(self, lineage: Lineage) -> None:
        self._opened = lineage.opened
        self._by_source: dict[bytes, list[Call]] = defaultdict(list)
        self._reads: dict[bytes, list[Call]] = defaultdict(list)
        self._sessions: dict[Key, list[Call]] = defaultdict(list)
        for call in lineage.calls.values():
            for event in sorted(call.sources):
                self._by_source[event].append(call)
            if call.op == "read":
                self._reads[call.cell[0]].append(call)
            self._sessions[call.agent_id, call.session_id].append(call)

    def after(self, call: Call) -> list[tuple[Call, str]]:
        """What followed from this one by itself. Never the call itself, nor anything before it."""
        if call.end < 0:
            return []
        if call.to is not None:
            begin = self._opened.get(call.to)
            return [] if begin is None else [(c, HANDED_ON) for c in self._sessions[call.to] if c.at > begin]
        found = [(c, DATA) for c in self._by_source[call.event] if c.at > call.end]
        if call.op in WRITES:
            cell, version = call.cell
            reads = (c for c in self._reads[cell] if c.base <= version <= c.cell[1])
            found += [(c, MEMORY) for c in reads if c.partition != call.partition or c.at > call.at]
        known = {c.key for c, _ in found}
        for later in self._sessions[call.agent_id, call.session_id]:
            if later.at <= call.end or later.key in known:
                continue
            if later.to is not None:
                found.append((later, HANDED_ON))
            elif not later.traced and later.state not in lifecycle.DECIDED_TERMINAL:
                found.append((later, SAW))
        return found
