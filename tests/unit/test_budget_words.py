"""What `explain` says of reservations."""

from __future__ import annotations

from sluicegate.processors.budget.words import in_words
from sluicegate.schemas.records import BudgetFacts

from tests.unit.test_budgets import MONEY, PURSE, driver, finish


def test_in_words() -> None:
    d = driver(MONEY)
    asked = d.call("cost.pay")
    ended = finish(d, asked, 140)
    said = [in_words(o.facts) for o in (*asked.outcomes, *ended.outcomes) if isinstance(o.facts, BudgetFacts)]
    assert said == [
        f"reserved 100 of {PURSE} (cap 250)",
        f"spent 100 of 100 reserved of {PURSE}, overran by 40, which is frozen",
    ]
