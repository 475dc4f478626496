"""Cache entries in the state: who runs a call, who waits for it, where its result stands, and how that moves.

`step` is the only place where an entry changes. The fold applies it (`state.py`), and deciding asks it on a copy what
must be told to other partitions (`cache/cache.py`), so what is folded and what is sent cannot part. An entry holds no value
and no argument: it is found by a hash, and says where bytes stand.

    idle ▸ running ▸ ready        a call of this partition runs; its result answers all who wait
    asking ▸ idle | ready         this partition asked the home: may I run it, or is it there?
    away ▸ idle | ready           at the home: a call of another partition runs

Next: `cache/cache.py` (who decides), `cache/rules.py` (what is the same call).
"""

from __future__ import annotations

import heapq
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from sluicegate.processors import lifecycle
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.records import CacheFacts

MAX_ENTRIES = 20_000
"""Of one partition, about 600 bytes each: 12 MB. Then the result that ends first leaves; entries somebody waits for
stay, and what finds no room runs uncached."""

MAX_WAITERS = 1_000
"""Calls of one partition that wait for one entry, 16 bytes each; more are refused `overloaded`."""

WAKE_AT = 1
"""The deadline of a waiting call whose turn has come: before every real one, so that the next tick takes it."""

IDLE, RUNNING, ASKING, AWAY, READY = "idle", "running", "asking", "away", "ready"


OVER = lifecycle.TERMINAL | {"in_doubt"}
"""Statuses that end a run, or a wait, for an entry. A call in doubt may stay so until a person looks at it."""


class Send(NamedTuple):
    """What another partition must be told: `ask`, `run`, `hit`, `done` or `failed`. `until` in microseconds."""

    kind: str
    partition: int
    until: int


@dataclass(slots=True)
class CacheEntry:
    """One call that may be answered for many.

    Attributes:
        home: the partition that decides who runs it; this one, where the scope is an agent.
        runner: key of the intent that runs here.
        waiters: keys of intents that wait here, first come first.
        away, lease_until: at the home the partition that runs it, and until when; elsewhere until when it may run here.
        queue: at the home, partitions that asked and wait, and until when each wants to run.
        topic, offset: where the result stands. subject: whose key seals it. made_by: the intent that made it.
    """

    tool: str
    home: int
    ttl_us: int
    state: str = IDLE
    runner: bytes = b""
    waiters: list[bytes] = field(default_factory=list)
    away: int = -1
    lease_until: int = 0
    queue: list[tuple[int, int]] = field(default_factory=list)
    topic: str = ""
    offset: int = -1
    expires_at: int = 0
    made_by: str = ""
    subject: str = ""

    def copied(self) -> CacheEntry:
        """Another one that changes by itself."""
        other = copy(self)
        other.waiters, other.queue = list(self.waiters), list(self.queue)
        return other

    def answers(self, now: int) -> bool:
        """Whether its result may be given out. A value somebody still waits for answers a moment longer."""
        return self.state == READY and (now < self.expires_at or bool(self.waiters))


class Moved(NamedTuple):
    """After a step: the entry, or None when it is gone; waiting calls whose turn has come; what is to be told."""

    entry: CacheEntry | None
    wakes: list[bytes]
    sends: list[Send]


def step(entry: CacheEntry | None, me: int, intent: bytes, outcome: Outcome, room: bool) -> Moved:
    """One outcome about an entry: `CacheFacts`, or the end of an intent that ran or waited.

    `me`: this partition. `intent`: key of the outcome's intent. `room`: whether an entry may be added.
    """
    facts, now = outcome.facts, outcome.origin.decided_at
    if type(facts) is CacheFacts and facts.op != "hit":
        if facts.op in _OF_A_CALL:
            return _call(entry, me, intent, facts, now, room)
        return _told(entry, me, outcome, facts, now, room)
    if entry is None or outcome.status not in OVER:
        return Moved(entry, [], [])
    return _ended(entry, me, intent, outcome)


_OF_A_CALL = ("ask", "wait", "run", "lost", "turned", "leave")


def _call(entry: CacheEntry | None, me: int, intent: bytes, facts: CacheFacts, now: int, room: bool) -> Moved:
    """A call of this partition asks, waits, runs, turned to another candidate, leaves, or found a result's bytes gone."""
    if facts.op == "leave":
        return Moved(None, [], []) if entry is None else _left(entry, me, intent)
    if entry is None:
        if facts.op == "turned":
            return Moved(None, [], [])
        if not room or facts.op == "lost":
            sends = [Send("ask", facts.home, facts.until)] if facts.op == "ask" else []
            return Moved(None, [], sends)
        entry = CacheEntry(facts.tool, facts.home, facts.ttl_us)
    if facts.op == "lost":
        entry.state, entry.topic, entry.offset, entry.expires_at = IDLE, "", -1, 0
        return Moved(entry, [], [])
    if facts.op == "turned":
        if entry.state == RUNNING and entry.runner == intent:
            entry.ttl_us = 0
        return Moved(entry, [], [])
    if facts.op == "run":
        entry.state, entry.runner, entry.ttl_us = RUNNING, intent, facts.ttl_us
        entry.away = -1
        entry.waiters = [key for key in entry.waiters if key != intent]
        return Moved(entry, [], [])
    if intent not in entry.waiters:
        entry.waiters.append(intent)
    if facts.op == "ask":
        entry.state, entry.lease_until, entry.ttl_us = ASKING, now + ASK_AGAIN_US, facts.ttl_us
        return Moved(entry, [], [Send("ask", facts.home, facts.until)])
    return Moved(entry, [], [])


ASK_AGAIN_US = 30_000_000
"""Nothing between partitions is lost, but a partition may be without an owner for long: a call that waits for another
one asks again so often, and a run whose lease is over is then given to who asks."""


def _told(
    entry: CacheEntry | None, me: int, outcome: Outcome, facts: CacheFacts, now: int, room: bool
) -> Moved:
    """Another partition asked, granted, or told how a run ended."""
    other = facts.partition
    if facts.op == "asked":
        if entry is None or (entry.state == READY and not entry.answers(now)):
            grant = [Send("run", other, facts.until)]
            if not room and entry is None:
                return Moved(None, [], grant)
            fresh = CacheEntry(facts.tool, me, facts.ttl_us, AWAY, away=other, lease_until=facts.until)
            return Moved(fresh, [], grant)
        if entry.state == READY:
            return Moved(entry, [], [Send("hit", other, entry.expires_at)])
        nobody = entry.state == IDLE and not entry.waiters  # its result was lost
        if nobody or (entry.state == AWAY and (entry.away == other or now >= entry.lease_until)):
            entry.state, entry.away, entry.lease_until, entry.ttl_us = AWAY, other, facts.until, facts.ttl_us
            entry.queue = [(p, until) for p, until in entry.queue if p != other]
            return Moved(entry, [], [Send("run", other, facts.until)])
        entry.queue = [(p, until) for p, until in entry.queue if p != other] + [(other, facts.until)]
        return Moved(entry, [], [])
    if facts.op == "granted":
        if entry is None:
            return Moved(None, [], [Send("failed", other, 0)])
        if entry.state != ASKING:
            return Moved(entry, [], [])
        entry.state, entry.lease_until = IDLE, facts.until
        return _advance(entry, me)
    mine = entry is not None and (
        (entry.state == AWAY and entry.away == other) if facts.home == me else entry.state == ASKING
    )
    if entry is None or not mine:
        return Moved(entry, [], [])  # the run was given to another one since
    if facts.op == "failed":
        entry.state, entry.away = IDLE, -1
        return _advance(entry, me)
    o = outcome.origin
    return _keep(entry, me, facts.topic, facts.offset, facts.until, facts.made_by, o.subject)


def _ended(entry: CacheEntry, me: int, intent: bytes, outcome: Outcome) -> Moved:
    """An intent that ran or waited here has ended."""
    if entry.runner == intent and entry.state == RUNNING:
        o, entry.runner = outcome.origin, b""
        if outcome.status == "released" and o.topic == "receipts":
            until = o.decided_at + entry.ttl_us
            return _keep(entry, me, o.topic, o.offset, until, o.intent_id, o.subject)
        entry.state = IDLE
        return _advance(entry, me)
    return _left(entry, me, intent)


def _left(entry: CacheEntry, me: int, intent: bytes) -> Moved:
    """An intent waits no more."""
    if intent in entry.waiters:
        entry.waiters.remove(intent)
        if entry.state == IDLE:
            return _advance(entry, me)
    return Moved(entry, [], [])


def _keep(
    entry: CacheEntry, me: int, topic: str, offset: int, until: int, made_by: str, subject: str
) -> Moved:
    ran = entry.state == RUNNING
    entry.state, entry.runner, entry.away, entry.lease_until = READY, b"", -1, 0
    entry.topic, entry.offset, entry.expires_at = topic, offset, until
    entry.made_by, entry.subject = made_by, subject
    sends = [Send("hit", partition, until) for partition, _ in entry.queue]
    entry.queue = []
    if ran and entry.home != me:
        sends.append(Send("done", entry.home, until))
    return Moved(entry, list(entry.waiters), sends)


def _advance(entry: CacheEntry, me: int) -> Moved:
    """Nobody runs it: the next one does, here or in another partition."""
    if entry.waiters:
        return Moved(entry, entry.waiters[:1], [])
    if entry.home != me:
        return Moved(None, [], [Send("failed", entry.home, 0)])
    if not entry.queue:
        return Moved(None, [], [])
    partition, until = entry.queue.pop(0)
    entry.state, entry.away, entry.lease_until = AWAY, partition, until
    return Moved(entry, [], [Send("run", partition, until)])


class CacheTable:
    """The entries of one partition. `ends` follows from them: when each result ends, soonest first."""

    __slots__ = ("ends", "entries")

    def __init__(self) -> None:
        self.entries: dict[bytes, CacheEntry] = {}
        self.ends: list[tuple[int, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self.entries)

    def put(self, key: bytes, entry: CacheEntry) -> None:
        """Keep an entry as a snapshot holds it."""
        self.entries[key] = entry
        if entry.state == READY:
            heapq.heappush(self.ends, (entry.expires_at, key))

    def room(self) -> bool:
        """Whether an entry may be added, in place of the result that ends first if need be."""
        return len(self.entries) < MAX_ENTRIES or self._first() is not None

    def fold(self, me: int, key: bytes, intent: bytes, outcome: Outcome) -> list[bytes]:
        """Apply one step, then let go of what has ended. The answer: keys of intents whose turn has come."""
        before = self.entries.get(key)
        was = before.state if before is not None else ""
        entry, wakes, _ = step(before, me, intent, outcome, before is not None or self.room())
        if entry is None:
            self.entries.pop(key, None)
        else:
            if before is None and len(self.entries) >= MAX_ENTRIES:
                first = self._first()
                if first is not None:
                    del self.entries[first]
            self.entries[key] = entry
            if entry.state == READY != was:
                heapq.heappush(self.ends, (entry.expires_at, key))
        now = outcome.origin.decided_at
        while self.ends and self.ends[0][0] <= now and (first := self._first()) is not None:
            if self.ends[0][0] > now:
                break
            del self.entries[first]
        return wakes

    def _first(self) -> bytes | None:
        """The result that ends first, when nobody waits for it."""
        while self.ends:
            until, key = self.ends[0]
            entry = self.entries.get(key)
            if entry is not None and entry.state == READY and entry.expires_at == until:
                return None if entry.waiters else key
            heapq.heappop(self.ends)
        return None
