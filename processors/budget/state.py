"""What is kept of budgets: accounts, leases, homes, reservations. Plain numbers, changed by the fold alone.

An account is one budget of one agent, session, team, tenant or tool in one partition; its name is `scope:name/budget`.
Those of agents and sessions are local and whole. Those of teams, tenants and tools have a home, which leases parts of
the cap to partitions: there an account holds what was `granted` in this window and not `returned`.
All amounts are whole numbers of the budget's unit; money is micro-units of the currency. Next: `budget/fold.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

SHARED = ("team", "tenant", "tool")
"""Scopes whose budgets have a home."""

MAX_ACCOUNTS = 500_000
"""Accounts in one partition: about 400 bytes each, 200 MB; a call that needs one more is refused `overloaded`."""


GRANT_LIMIT_US = 20_000_000
"""How long a call waits for a grant, and a request is on its way: the home's partition may need 7 s to find another owner."""


@dataclass(slots=True)
class Account:
    """One budget in one partition, in its newest window.

    Attributes:
        spent: settled, at most what was reserved for it. overran: settled above that.
        granted, returned: by and to the home, all of this window together; 0 for a local one.
        reported: `spent + overran + returned` when the home was told last.
        asked_until: a request is on its way to the home; after this it counts as lost. 0: none.
        denied_until: the home had nothing left; until then nobody asks again.
        home_cap: under which the lease is good: what is leased in all was within it. home_used: as the home said last.
        frozen_at, frozen_cap: the control event and the cap under which an overrun froze it; -1: never.
    """

    window: int = 0
    reserved: int = 0
    spent: int = 0
    overran: int = 0
    granted: int = 0
    returned: int = 0
    reported: int = 0
    asked_until: int = 0
    denied_until: int = 0
    home_cap: int = 0
    home_used: int = 0
    used_at: int = 0
    frozen_at: int = -1
    frozen_cap: int = 0

    def roll(self, window: int) -> None:
        """Begin a newer window: everything but a freeze is over."""
        if window > self.window:
            self.window = window
            self.reserved = self.spent = self.overran = 0
            self.granted = self.returned = self.reported = 0
            self.asked_until = self.denied_until = 0

    def used(self, window: int) -> int:
        """What counts against the cap in a window."""
        return self.reserved + self.spent + self.overran if window <= self.window else 0

    def free(self, window: int) -> int:
        """What is left of a lease in a window."""
        return self.granted - self.returned - self.used(window) if window <= self.window else 0


@dataclass(slots=True)
class Lease:
    """What a home gave to one partition in this window, and what that told about it. Each number only grows."""

    granted: int = 0
    returned: int = 0
    spent: int = 0
    overran: int = 0

    def out(self) -> int:
        """What counts against the cap."""
        return max(self.granted - self.returned, self.spent + self.overran)


@dataclass(slots=True)
class Home:
    """A shared budget where it lives: its leases in this window."""

    window: int = 0
    cap: int = 0
    frozen_at: int = -1
    frozen_cap: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)

    def out(self) -> int:
        """Leased and not returned: at least what is reserved and spent anywhere."""
        return sum(lease.out() for lease in self.leases.values())

    def spent(self) -> int:
        """As far as partitions told."""
        return sum(lease.spent + lease.overran for lease in self.leases.values())


@dataclass(frozen=True, slots=True)
class Reservation:
    """The upper bound of one attempt, in one account."""

    attempt: int
    account: str
    window: int
    amount: int


@dataclass(frozen=True, slots=True)
class Waiter:
    """A call that waits for its account's home."""

    account: str
    need: int
    until: int


def scope_of(account: str) -> str:
    """`team` of `team:support/monthly`."""
    return account.partition(":")[0]


def name_of(account: str) -> str:
    """`support` of `team:support/monthly`."""
    return account.partition(":")[2].rpartition("/")[0]


def budget_of(account: str) -> str:
    """`monthly` of `team:support/monthly`."""
    return account.rpartition("/")[2]


def shared(account: str) -> bool:
    """Whether it has a home."""
    return scope_of(account) in SHARED


def alarm_of(account: str) -> str:
    """The name of the alarm that looks whether a lease is idle."""
    return f"lease:{account}"


def frozen(one: Account | Home, account: str, cap: int, control: Control) -> bool:
    """Whether an overrun froze it, and neither a person lifted that nor the cap was raised since."""
    return one.frozen_at >= max(0, control.lifted.get(account, -1)) and cap <= one.frozen_cap
