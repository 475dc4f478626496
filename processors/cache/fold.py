"""The cache's part of the fold: entries move by `cache_entries.step`, and calls whose turn has come get a deadline.

A call is woken by its deadline: the next tick takes it, one input and one decision for each. Reads facts only.
Next: `cache/entries.py`, `state.py` (who calls this).
"""

from __future__ import annotations

import heapq

from sluicegate.processors.cache.entries import (
    ASKING,
    AWAY,
    IDLE,
    READY,
    RUNNING,
    WAKE_AT,
    CacheEntry,
)
from sluicegate.processors.crossing.homes import STAGES
from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.outcomes import Outcome, key_of
from sluicegate.schemas.records import CacheFacts

CACHE = "cache"
"""What a waiting call awaits, and the stage of outcomes about entries: they are `noted`."""


def moved(state: PartitionState, outcome: Outcome) -> None:
    """`CacheFacts` of a call or between partitions."""
    facts, key = outcome.facts, key_of(outcome.origin)
    assert isinstance(facts, CacheFacts)
    call = state.intents.get(key)
    if isinstance(call, OpenIntent) and facts.op in ("ask", "wait", "run"):
        call.cached, call.action_digest = facts.entry, facts.action_digest
        if facts.op != "run":
            call.awaits, call.due_at = CACHE, facts.until
            heapq.heappush(state.timers, (call.due_at, key))
    _fold(state, key, facts.entry, outcome)


def ended(state: PartitionState, key: bytes, entry: bytes, outcome: Outcome) -> None:
    """The end of a call that ran or waited for an entry."""
    _fold(state, key, entry, outcome)


def _fold(state: PartitionState, key: bytes, entry: bytes, outcome: Outcome) -> None:
    for waiter in state.cache.fold(state.partition, entry, key, outcome):
        call = state.intents.get(waiter)
        if isinstance(call, OpenIntent) and call.state == "waiting" and call.awaits == CACHE:
            call.due_at = WAKE_AT
            heapq.heappush(state.timers, (WAKE_AT, waiter))


def sweep(state: PartitionState) -> None:
    """Once an hour of decided time: entries that nobody will end any more.

    After a long outage an answer of the home is late and dropped, or the partition that ran a call never tells: who waited
    went at their deadlines, and the entry would stay. INVARIANT: an entry without a waiter ends within an hour of its lease
    or its result (tests/unit/test_cache_ends.py). Whoever asks or tells of it later finds none, which every step allows.
    """
    table, now = state.cache, state.now
    for key in list(table.entries):
        entry = table.entries[key]
        entry.waiters = [one for one in entry.waiters if _waits(state, one, key)]
        entry.queue = [(partition, until) for partition, until in entry.queue if until > now]
        if entry.state == RUNNING and type(state.intents.get(entry.runner)) is not OpenIntent:
            entry.state, entry.runner = IDLE, b""
        if not entry.waiters and _over(entry, now):
            del table.entries[key]


def _waits(state: PartitionState, intent: bytes, entry: bytes) -> bool:
    call = state.intents.get(intent)
    return isinstance(call, OpenIntent) and call.state == "waiting" and call.cached == entry


def _over(entry: CacheEntry, now: int) -> bool:
    if entry.state == READY:
        return entry.expires_at <= now
    return entry.state == IDLE or (
        entry.state in (ASKING, AWAY) and entry.lease_until <= now and not entry.queue
    )


STAGES[CACHE] = moved
