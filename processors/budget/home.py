"""Shared budgets: a home leases its cap to partitions, and takes back what they do not use.

    partition   request ▸ home     how its lease stands, and what a call needs beyond it
    home        grant   ▸ partition   a larger lease, or no: what it granted in all, never a difference
    partition   return  ▸ home     by an alarm, when the lease was idle; or at once, when a call cost too much
    home        freeze  ▸ partitions   an overrun anywhere stops the budget everywhere

INVARIANT: what is leased and not returned never exceeds the cap by what a home grants, so what is reserved and spent
anywhere does not (tests/properties/test_budgets.py). Totals only grow within a window: a record that comes twice or
late changes nothing. Never asks a partition: a lease is returned, not recalled. Next: `budget/fold.py`, `crossing/exchanges.py`.
"""

from __future__ import annotations

from sluicegate.processors.budget.budgets import slice_of
from sluicegate.processors.budget.fold import IDLE_US
from sluicegate.processors.budget.rules import Rule
from sluicegate.processors.budget.state import Account, Home, Lease, budget_of, frozen
from sluicegate.processors.crossing.sending import alarmed, amounts_of, home_partition, send, taken
from sluicegate.processors.work import Work
from sluicegate.schemas.records import Exchange

DENIED_US = 1_000_000
"""After a no the partition refuses by itself for so long, instead of asking for every call."""

_TOTALS = ("window", "granted", "returned", "spent", "overran", "frozen_at", "frozen_cap")


def _rule(work: Work, account: str) -> Rule | None:
    release = work.environment
    return release.budgets.rules.get(budget_of(account)) if release is not None else None


def decide_request(work: Work, exchange: Exchange) -> None:
    """At the home: a partition needs more."""
    asked, name = amounts_of(exchange), exchange.home
    if not {"need", *_TOTALS} <= asked.keys():
        taken(work, exchange, {}, "malformed_record")
        return
    rule = _rule(work, name)
    ceiling = rule.ceiling if rule is not None else 0
    known = work.state.homes.get(name) or Home()
    window = max(asked["window"], known.window, rule.window_at(work.now) if rule is not None else 0)
    home = _as_told(known, exchange.from_partition, asked, window)
    lease = home.leases[exchange.from_partition]
    on_its_way = lease.granted - (asked["granted"] if asked["window"] == window else 0)
    need = max(0, asked["need"] - on_its_way)
    stopped = rule is None or (not rule.limit and frozen(home, name, rule.cap, work.control))
    free = 0 if stopped else ceiling - home.out()
    more = 0
    if free >= need and not (on_its_way and not need):
        part = slice_of(rule, work.state.partitions) if rule is not None else 0
        # INVARIANT: a lease grows by at most a slice, or by just what a call needs (tests/unit/test_budget_leases.py).
        more = max(need, min(part, free))
    lease.granted += more
    amounts = {
        "window": window, "cap": ceiling, "need": asked["need"], "granted": lease.granted, "returned": lease.returned,
        "spent": lease.spent, "overran": lease.overran, "frozen_at": home.frozen_at, "frozen_cap": home.frozen_cap,
    }  # fmt: skip
    outcome = taken(work, exchange, amounts)
    answer = {
        "window": window, "granted": lease.granted, "cap": ceiling, "used": home.out(),
        "denied_until": work.now + DENIED_US if need and not more else 0,
        "frozen_at": home.frozen_at, "frozen_cap": home.frozen_cap,
    }  # fmt: skip
    send(work, outcome, "budget.grant", name, exchange.from_partition, answer)


def _as_told(known: Home, partition: int, told: dict[str, int], window: int) -> Home:
    """The home as it will stand once a partition's totals are folded, in a window."""
    same = known.window == window
    leases = {p: Lease(one.granted, one.returned, one.spent, one.overran) for p, one in known.leases.items()}
    home = Home(window, known.cap, known.frozen_at, known.frozen_cap, leases if same else {})
    if told["frozen_at"] > home.frozen_at:
        home.frozen_at, home.frozen_cap = told["frozen_at"], told["frozen_cap"]
    lease = home.leases.setdefault(partition, Lease())
    if told["window"] == window:
        lease.returned, lease.spent = max(lease.returned, told["returned"]), max(lease.spent, told["spent"])
        lease.overran = max(lease.overran, told["overran"])
    return home


def decide_return(work: Work, exchange: Exchange) -> None:
    """At the home: a partition tells its totals. An overrun is passed on to every partition that holds a lease."""
    told, name = amounts_of(exchange), exchange.home
    if not told.keys() >= set(_TOTALS):
        taken(work, exchange, {}, "malformed_record")
        return
    rule, known = _rule(work, name), work.state.homes.get(name) or Home()
    window = max(told["window"], known.window)
    home = _as_told(known, exchange.from_partition, told, window)
    lease = home.leases[exchange.from_partition]
    amounts = {
        "window": told["window"], "cap": rule.ceiling if rule is not None else 0, "granted": 0,
        "returned": lease.returned, "spent": lease.spent, "overran": lease.overran, "frozen_at": home.frozen_at,
        "frozen_cap": home.frozen_cap,
    }  # fmt: skip
    outcome = taken(work, exchange, amounts)
    if home.frozen_at > known.frozen_at:
        news = {"window": window, "frozen_at": home.frozen_at, "frozen_cap": home.frozen_cap}
        for partition in sorted(home.leases.keys() - {exchange.from_partition}):
            send(work, outcome, "budget.freeze", name, partition, news)


def decide_news(work: Work, exchange: Exchange) -> None:
    """At the partition: a grant, a no, or a freeze. What waits is woken by the fold and looks again."""
    amounts = amounts_of(exchange)
    needed = {"window", "frozen_at", "frozen_cap"}
    if exchange.kind == "budget.grant":
        needed |= {"granted", "cap", "used", "denied_until"}
    whole = needed <= amounts.keys()
    taken(work, exchange, amounts if whole else {}, "" if whole else "malformed_record")


def decide_idle(work: Work, alarm: str) -> None:
    """At the partition: a lease may be idle. What is left of it goes back, and the home learns what was spent."""
    name = alarm.partition(":")[2]
    one = work.state.accounts.get(name) or Account()
    # Who waits may be served by what is left: it is looked at again later.
    since = work.now if name in work.state.queues else one.used_at
    idle = work.now - since >= IDLE_US
    left = max(0, one.free(one.window)) if idle else 0
    returned = one.returned + left
    told = one.spent + one.overran + returned
    amounts = {
        "window": one.window, "returned": returned, "reported": told if idle else one.reported,
        "again_at": 0 if idle else since + IDLE_US,
    }  # fmt: skip
    outcome = alarmed(work, "budget.idle", alarm, amounts)
    if idle and told != one.reported:
        totals = {
            "window": one.window, "granted": one.granted, "returned": returned, "spent": one.spent,
            "overran": one.overran, "frozen_at": one.frozen_at, "frozen_cap": one.frozen_cap,
        }  # fmt: skip
        send(work, outcome, "budget.return", name, home_partition(work, name), totals)
