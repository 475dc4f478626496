"""The cache's part of the fold: entries move by `cache_entries.step`, and calls whose turn has come get a deadline.

A call is woken by its deadline: the next tick takes it, one input and one decision for each. Reads facts only.
Next: `cache_entries.py`, `state.py` (who calls this).
"""

from __future__ import annotations

import heapq

from sluicegate.processors.cache_entries import WAKE_AT
from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.homes import STAGES
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


STAGES[CACHE] = moved
