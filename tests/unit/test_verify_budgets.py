"""`ledger verify` on budgets: it adds up again, and every way a sum could be wrong is found at its position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sluicegate.schemas import records as r

from tests.driver import Driver, Event
from tests.forging import forge
from tests.unit.test_budget_leases import ACCOUNT, PARTITIONS, call, world
from tests.unit.test_budgets import MONEY, driver, finish
from tests.unit.test_verify import verify

Change = Callable[[r.BudgetFacts], r.BudgetFacts]


def local() -> Driver:
    """One reserved and settled, one reserved."""
    d = driver(MONEY)
    finish(d, d.call("cost.pay"), 30)
    d.call("cost.pay")
    return d


def budget_facts(change: Change, what: str) -> Callable[[list[Event]], list[Event]]:
    """Change the first such facts."""

    def changed(events: list[Event]) -> list[Event]:
        found, done = [], False
        for event in events:
            facts = event.facts
            if isinstance(facts, r.BudgetFacts) and facts.what == what and not done:
                event, done = replace(event, facts=change(facts)), True
            found.append(event)
        assert done
        return found

    return changed


def exchanges(kind: str, **amounts: int) -> Callable[[list[Event]], list[Event]]:
    """Change the amounts of every exchange of a kind."""

    def changed(events: list[Event]) -> list[Event]:
        found = []
        for event in events:
            facts = event.facts
            if isinstance(facts, r.ExchangeFacts) and facts.kind == kind:
                new = [amounts.get(n, a) for n, a in zip(facts.names, facts.amounts, strict=True)]
                event = replace(event, facts=replace(facts, amounts=new))
            found.append(event)
        return found

    return changed


def test_an_intact_ledger() -> None:
    found = verify(local())
    assert found.names == set() and found.checker.budgets.positions == 3


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("reserved", lambda f: replace(f, caps=[99]), "exceed the cap 99"),
        ("reserved", lambda f: replace(f, reserved=[90]), "settles 100, which its call had not reserved"),
        ("settled", lambda f: replace(f, spent=[101]), "spends 101 of 100 reserved"),
        ("settled", lambda f: replace(f, overran=[-1]), "less than nothing"),
        ("settled", lambda f: replace(f, reserved=[-40]), "settles 40, which its call had not reserved"),
    ],
)
def test_sums_that_do_not_fit(what: str, change: Change, said: str) -> None:
    d = local()
    found = verify(d, forge(d, budget_facts(change, what)))
    assert "budget" in found.names
    assert said in found.checker.findings.first["budget"].sentence


def test_an_ended_call_leaves_nothing_reserved() -> None:
    d = local()

    def without(events: list[Event]) -> list[Event]:
        return [e for e in events if not (isinstance(e.facts, r.BudgetFacts) and e.facts.what == "settled")]

    found = verify(d, forge(d, without))
    assert "still reserved" in found.checker.findings.first["budget"].sentence


def leased() -> tuple[Driver, Driver]:
    """The home of a shared budget, and a partition that leases of it."""
    w = world()
    for index in range(PARTITIONS):
        call(w, index)
    w.settle()
    for d in w.drivers:
        assert verify(d).names == set()
    home = w.at(ACCOUNT)
    return w.drivers[home], w.drivers[(home + 1) % PARTITIONS]


def test_a_home_that_leases_more_than_its_cap() -> None:
    home, _ = leased()
    found = verify(home, forge(home, exchanges("budget.request", cap=2_999)))
    assert "leased 3000 of 2999 in all" in found.checker.findings.first["budget"].sentence


def test_a_partition_that_reserves_more_than_its_lease() -> None:
    _, other = leased()
    found = verify(other, forge(other, exchanges("budget.grant", granted=99)))
    assert "exceed the lease of 99" in found.checker.findings.first["budget"].sentence


def test_a_partition_that_tells_of_more_than_its_lease() -> None:
    home, _ = leased()
    found = verify(home, forge(home, exchanges("budget.request", spent=1_001)))
    assert "spent 1001 of a lease of 1000" in found.checker.findings.first["budget"].sentence
