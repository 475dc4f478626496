"""Budgets as the ledger tells them: reserved + spent within the cap at every position, added again from the facts alone.

    a local account    reserved + spent + overran <= cap at every reservation, and nothing else makes reserved + spent grow
    a lease            reserved + spent <= granted - returned at every position
    a home             the sum of what is leased <= cap whenever it grants, and no partition spent more than it leased
    a settlement       settles what its call had reserved, no more; and an ended call leaves nothing reserved

What a tool used above its bound is counted apart (`overran`): it is the tool's, and freezes the budget. Shares no code
with the fold, so that a mistake there does not verify itself. Next: `verify/partition.py` (who feeds this), docs/budgets.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sluicegate.processors.verify.reading import Rest
from sluicegate.schemas import codec
from sluicegate.schemas.records import BudgetFacts, ExchangeFacts

STAGES = ("budget", "transfer")
INVARIANT = "budget"
_SHARED = ("team:", "tenant:", "tool:")


@dataclass(slots=True)
class _Sum:
    window: int = 0
    reserved: int = 0
    spent: int = 0
    overran: int = 0
    granted: int = 0
    returned: int = 0


@dataclass(slots=True)
class _Home:
    window: int = 0
    granted: dict[int, int] = field(default_factory=dict)
    returned: dict[int, int] = field(default_factory=dict)


class BudgetSums:
    """The budgets of one partition. `bad(invariant, sentence)` is told of violations.

    Attributes:
        positions: records at which a sum was checked.
    """

    def __init__(self, bad: Callable[[str, str], None]) -> None:
        self._bad = bad
        self._sums: dict[str, _Sum] = {}
        self._homes: dict[str, _Home] = {}
        self._held: dict[str, list[tuple[int, str, int, int]]] = {}
        self.positions = 0

    def begin(self, name: str, window: int, spent: int, overran: int) -> None:
        """What an account had used before a seam; of a shared one all partitions together, which is leased to it."""
        one = self._sum(name, window)
        if window < one.window:
            return
        one.spent += spent
        one.overran += overran
        if name.startswith(_SHARED):
            one.granted += spent + overran

    def step(self, reason: str, rest: Rest, facts_bytes: bytes) -> None:
        """One outcome of these stages. Raises `Unreadable` for damaged facts."""
        facts = codec.decode(facts_bytes)
        self.positions += 1
        if isinstance(facts, BudgetFacts):
            self._call(f"{rest.tenant}\0{rest.agent_id}\0{rest.intent_id}", facts)
        elif isinstance(facts, ExchangeFacts) and not reason and facts.kind.startswith("budget."):
            self._exchange(facts, dict(zip(facts.names, facts.amounts, strict=False)))

    def _sum(self, name: str, window: int) -> _Sum:
        found = self._sums.get(name)
        if found is None or window > found.window:
            found = self._sums[name] = _Sum(window)
        return found

    def _call(self, key: str, facts: BudgetFacts) -> None:
        rows = list(
            zip(
                facts.accounts,
                facts.windows,
                facts.reserved,
                facts.spent,
                facts.overran,
                facts.caps,
                strict=False,
            )
        )
        if facts.what == "settled":
            self._settled(
                key, facts.attempt, [(name, -reserved, spent) for name, _, reserved, spent, _, _ in rows]
            )
        elif facts.what == "reserved":
            held = self._held.setdefault(key, [])
            held += [(facts.attempt, name, window, amount) for name, window, amount, _, _, _ in rows]
        else:
            return
        for name, window, reserved, spent, overran, cap in rows:
            one = self._sum(name, window)
            if window < one.window:
                continue  # of a window that is over
            one.reserved += reserved
            one.spent += spent
            one.overran += overran
            if min(one.reserved, one.spent, one.overran, overran, spent) < 0:
                self._bad(INVARIANT, f"account `{name}` has less than nothing reserved or spent")
            if reserved + spent > 0 and facts.what == "settled":
                self._bad(INVARIANT, f"account `{name}` spends {spent} of {-reserved} reserved")
            if facts.what == "reserved" and not name.startswith(_SHARED):
                total = one.reserved + one.spent + one.overran
                if total > cap:
                    self._bad(
                        INVARIANT,
                        f"account `{name}`: {one.reserved} reserved and {one.spent + one.overran} spent exceed the cap {cap}",
                    )
            self._lease(name, one)

    def _lease(self, name: str, one: _Sum) -> None:
        if name.startswith(_SHARED) and one.reserved + one.spent > one.granted - one.returned:
            self._bad(
                INVARIANT,
                f"account `{name}`: {one.reserved} reserved and {one.spent} spent exceed the lease of "
                f"{one.granted - one.returned}",
            )

    def _settled(self, key: str, attempt: int, rows: Iterable[tuple[str, int, int]]) -> None:
        held = self._held.get(key, [])
        for name, amount, _ in rows:
            # Another attempt's reservation may go with the one that settled: an offer that nobody took.
            fits = [r for r in held if r[1] == name and r[3] == amount and (not attempt or r[0] == attempt)]
            if not fits:
                self._bad(INVARIANT, f"account `{name}` settles {amount}, which its call had not reserved")
                continue
            held.remove(fits[0])
        if not held:
            self._held.pop(key, None)

    def _exchange(self, facts: ExchangeFacts, amounts: dict[str, int]) -> None:
        window = amounts.get("window", 0)
        if facts.kind in ("budget.request", "budget.return"):
            self._home(facts, amounts, window)
            return
        name = facts.home.partition(":")[2] if facts.kind == "budget.idle" else facts.home
        if "granted" not in amounts and "returned" not in amounts:
            return
        one = self._sum(name, window)
        if window == one.window:
            one.granted = max(one.granted, amounts.get("granted", 0))
            one.returned = max(one.returned, amounts.get("returned", 0))
        self._lease(name, one)

    def _home(self, facts: ExchangeFacts, amounts: dict[str, int], window: int) -> None:
        home = self._homes.setdefault(facts.home, _Home(window))
        if window > home.window:
            home = self._homes[facts.home] = _Home(window)
        elif window < home.window:
            return
        who = facts.from_partition
        before = home.granted.get(who, 0)
        home.granted[who] = max(before, amounts.get("granted", 0))
        home.returned[who] = max(home.returned.get(who, 0), amounts.get("returned", 0))
        leased = sum(home.granted.values()) - sum(home.returned.values())
        if home.granted[who] > before and leased > amounts.get("cap", 0):
            self._bad(INVARIANT, f"home `{facts.home}` leased {leased} of {amounts.get('cap', 0)} in all")
        lease = home.granted[who] - home.returned[who]
        if amounts.get("spent", 0) > lease:
            self._bad(
                INVARIANT,
                f"home `{facts.home}`: partition {who} spent {amounts.get('spent', 0)} of a lease of {lease}",
            )

    def close(self, ended: Callable[[str], bool]) -> None:
        """Nothing stays reserved for a call that ended."""
        for key in self._held:
            if ended(key):
                intent = key.rpartition("\0")[2]
                self._bad(INVARIANT, f"intent `{intent}` ended, and something is still reserved for it")
