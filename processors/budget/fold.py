"""The fold of budgets: reservations, settlements and waits of calls, and what partitions tell each other of leases.

Only differences and totals that stand in facts are added or taken over; nothing is computed from a release or a clock.
Totals between partitions only grow within a window, so a record that comes twice or late changes nothing.
Who reserves is `budget/budgets.py`; who leases is `budget/home.py`. Next: `verify/budgets.py`, which adds again on its own.
"""

from __future__ import annotations

import heapq

from sluicegate.processors.budget.state import (
    GRANT_LIMIT_US,
    Account,
    Home,
    Lease,
    Reservation,
    Waiter,
    alarm_of,
    name_of,
    shared,
)
from sluicegate.processors.cache.entries import WAKE_AT
from sluicegate.processors.crossing.alarms import set_alarm
from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.records import BudgetFacts, ExchangeFacts

IDLE_US = 5_000_000
"""A lease nobody used for this long goes back to its home."""


def fold_call(state: PartitionState, outcome: Outcome) -> None:
    """What one call reserved, settled or waits for. The origin's key is the intent's."""
    facts, key = outcome.facts, outcome.origin.key
    if type(facts) is not BudgetFacts:
        return
    if facts.what == "asked":
        _fold_asked(state, key, facts)
        return
    if facts.what == "reserved":
        _leave(state, key)
    now = outcome.origin.decided_at
    for at, name in enumerate(facts.accounts):
        one = state.accounts.get(name)
        if one is None:
            one = state.accounts[name] = Account(facts.windows[at])
        one.roll(facts.windows[at])
        if facts.windows[at] == one.window:  # else it was of a window that is over
            one.reserved += facts.reserved[at]
            one.spent += facts.spent[at]
            one.overran += facts.overran[at]
        one.used_at = now
        if facts.freezes[at]:
            one.frozen_at, one.frozen_cap = outcome.origin.control_head, facts.caps[at]
        if facts.sent and facts.what == "reserved" and facts.needs[at] >= 0:
            one.asked_until = facts.until
        if shared(name) and alarm_of(name) not in state.alarms:
            set_alarm(state, alarm_of(name), now + IDLE_US)
    if facts.what == "reserved":
        new = tuple(
            Reservation(facts.attempt, *row)
            for row in zip(facts.accounts, facts.windows, facts.reserved, strict=True)
        )
        state.reservations[key] = state.reservations.get(key, ()) + new
    else:
        _release(state, key, facts.attempt)
    for name in facts.accounts:
        if name in state.queues:
            wake(state, name)


def _release(state: PartitionState, key: bytes, attempt: int) -> None:
    """Reservations of one attempt, or of all, are settled."""
    left = tuple(r for r in state.reservations.get(key, ()) if attempt and r.attempt != attempt)
    if left:
        state.reservations[key] = left
    else:
        state.reservations.pop(key, None)


def _fold_asked(state: PartitionState, key: bytes, facts: BudgetFacts) -> None:
    """A call waits for its account; with `sent`, the home was asked."""
    name, until = facts.accounts[0], facts.until
    one = state.accounts.setdefault(name, Account(facts.windows[0]))
    one.roll(facts.windows[0])
    if facts.sent:
        # INVARIANT: a request that was lost keeps nobody from asking again (tests/unit/test_seams.py).
        one.asked_until = min(until, state.now + GRANT_LIMIT_US)
    waiter = state.waiters.get(key)
    if waiter is None or waiter.account != name:
        _leave(state, key)
        join(state, key, Waiter(name, facts.needs[0], waiter.until if waiter is not None else until))
    entry = state.intents.get(key)
    if type(entry) is OpenIntent:
        entry.due_at = state.waiters[key].until
        heapq.heappush(state.timers, (entry.due_at, key))


def join(state: PartitionState, key: bytes, waiter: Waiter) -> None:
    """A call waits at the end of its account's queue."""
    state.waiters[key] = waiter
    state.queues.setdefault(waiter.account, {})[key] = None


def _leave(state: PartitionState, key: bytes) -> None:
    waiter = state.waiters.pop(key, None)
    if waiter is not None:
        queue = state.queues[waiter.account]
        del queue[key]
        if not queue:
            del state.queues[waiter.account]


def fold_end(state: PartitionState, key: bytes) -> None:
    """An intent ended: it waits no more, and the next one may."""
    waiter = state.waiters.get(key)
    if waiter is not None:
        _leave(state, key)
        if waiter.account in state.queues:
            wake(state, waiter.account)


def wake(state: PartitionState, name: str, everybody: bool = False) -> None:
    """Make those due who may go on by now; the first one, too, when nobody has asked the home for it."""
    one = state.accounts[name]
    left = one.free(one.window)
    for place, key in enumerate(state.queues.get(name, ())):
        left -= state.waiters[key].need
        alone = place == 0 and one.asked_until <= state.now
        if left < 0 and not everybody and not alone:
            break
        entry = state.intents.get(key)
        if type(entry) is OpenIntent and entry.due_at > state.now:
            # One that was offered before may have a receipt that was not read yet.
            entry.due_at = WAKE_AT if entry.state == "waiting" else state.now
            heapq.heappush(state.timers, (entry.due_at, key))


# -- between partitions -------------------------------------------------------------------------------------------


def fold_exchange(state: PartitionState, outcome: Outcome) -> None:
    """An exchange or alarm of the kind `budget.*` was taken."""
    facts = outcome.facts
    assert isinstance(facts, ExchangeFacts)
    amounts = dict(zip(facts.names, facts.amounts, strict=True))
    if facts.kind in ("budget.request", "budget.return"):
        _fold_home(state, facts, amounts)
    elif facts.kind in ("budget.grant", "budget.freeze"):
        _fold_grant(state, facts.home, amounts)
    elif facts.kind == "budget.idle":
        _fold_idle(state, facts.home.partition(":")[2], amounts)


def _fold_home(state: PartitionState, facts: ExchangeFacts, amounts: dict[str, int]) -> None:
    """At the home: a partition told its totals, and may have been given more."""
    home = state.homes.setdefault(facts.home, Home(amounts["window"]))
    if amounts["window"] > home.window:
        home.window, home.leases = amounts["window"], {}
    home.cap = amounts["cap"]
    if amounts["frozen_at"] > home.frozen_at:
        home.frozen_at, home.frozen_cap = amounts["frozen_at"], amounts["frozen_cap"]
    if amounts["window"] < home.window:
        return  # it told of a window that is over
    lease = home.leases.setdefault(facts.from_partition, Lease())
    lease.granted = max(lease.granted, amounts["granted"])
    lease.returned = max(lease.returned, amounts["returned"])
    lease.spent = max(lease.spent, amounts["spent"])
    lease.overran = max(lease.overran, amounts["overran"])


def _fold_grant(state: PartitionState, name: str, amounts: dict[str, int]) -> None:
    """At the partition: the home answered, or an overrun elsewhere froze the budget."""
    one = state.accounts.setdefault(name, Account(amounts["window"]))
    stopped = amounts["frozen_at"] > one.frozen_at
    if stopped:
        one.frozen_at, one.frozen_cap = amounts["frozen_at"], amounts["frozen_cap"]
    if "granted" in amounts:
        one.roll(amounts["window"])
        if amounts["window"] == one.window and amounts["granted"] > one.granted:
            one.granted, one.used_at = amounts["granted"], state.now
        one.asked_until, one.denied_until = 0, amounts["denied_until"]
        one.home_used = amounts["used"]
        if amounts["used"] <= amounts["cap"]:  # else the cap was lowered, and what is leased is too much
            one.home_cap = amounts["cap"]
        if alarm_of(name) not in state.alarms:
            set_alarm(state, alarm_of(name), state.now + IDLE_US)
    wake(state, name, everybody=stopped or one.denied_until > state.now)


def _fold_idle(state: PartitionState, name: str, amounts: dict[str, int]) -> None:
    """At the partition: a lease was looked at, and what was idle goes back."""
    set_alarm(state, alarm_of(name), amounts["again_at"])
    one = state.accounts.get(name)
    if one is None:
        return
    if amounts["window"] == one.window:
        one.returned = max(one.returned, amounts["returned"])
        one.reported = amounts["reported"]


def sweep(state: PartitionState) -> None:
    """Accounts of sessions that are over."""
    for name in [n for n in state.accounts if n.startswith("session:")]:
        session = name_of(name).replace("\t", "\0", 1)
        gone = not any(session in known for known in (state.sessions, state.parked, state.withdrawn))
        if gone and not state.accounts[name].reserved:
            del state.accounts[name]
