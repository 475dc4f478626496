"""Alarms and remembered exchanges: what is due in a partition that belongs to no intent, and what came already.

An alarm is a name and a time; a tick is made of it when no intent is due before (`crossing/exchanges.py` decides it). Both are
part of the state: changed by the fold only. Next: `crossing/homes.py`.
"""

from __future__ import annotations

import heapq

from sluicegate.processors.entries import PartitionState

MAX_SEEN = 500_000
"""Exchanges remembered in one partition: about 200 bytes each, 100 MB; more are refused `overloaded`."""


def remember(state: PartitionState, exchange_id: bytes, until: int) -> None:
    """An exchange was taken."""
    state.seen[exchange_id] = until
    heapq.heappush(state.seen_timers, (until, exchange_id))


def forget(state: PartitionState) -> None:
    """Forget the exchanges whose time is over."""
    while state.seen_timers and state.seen_timers[0][0] < state.now:
        _, old = heapq.heappop(state.seen_timers)
        del state.seen[old]


def set_alarm(state: PartitionState, name: str, due: int) -> None:
    """Something is due about a home at `due`, in microseconds; 0 takes it back. One alarm a name."""
    if not due:
        state.alarms.pop(name, None)
    elif state.alarms.get(name) != due:
        state.alarms[name] = due
        heapq.heappush(state.alarm_timers, (due, name))


def next_alarm(state: PartitionState) -> int | None:
    """When the next alarm is due, or None."""
    timers = state.alarm_timers
    while timers:
        due, name = timers[0]
        if state.alarms.get(name) == due:
            return due
        heapq.heappop(timers)  # it was moved or taken back
    return None


def due_alarm(state: PartitionState, now: int) -> str | None:
    """The alarm that has been due longest, or None."""
    due = next_alarm(state)
    return None if due is None or due > now else state.alarm_timers[0][1]


def alarm_first(state: PartitionState, due: int) -> bool:
    """Whether an alarm is due before an intent that is due at `due`. What is due longest comes first, always: a replay
    knows when a tick was decided, not up to when the loop had looked."""
    alarm = next_alarm(state)
    return alarm is not None and alarm < due
