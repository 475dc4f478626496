"""What a call reserved, spent or waits for of budgets, in words for `explain`. Never decides. Next: `budget/budgets.py`."""

from __future__ import annotations

from sluicegate.schemas.records import BudgetFacts, SpendFacts


def in_words(facts: BudgetFacts) -> str:
    """`reserved 100 of team:desk/purse (cap 4000)`, one part for each account."""
    return "; ".join(_part(facts, at, name.replace("\t", " ")) for at, name in enumerate(facts.accounts))


def _part(facts: BudgetFacts, at: int, name: str) -> str:
    if facts.what == "reserved":
        return f"reserved {facts.reserved[at]} of {name} (cap {facts.caps[at]})"
    if facts.what == "settled":
        over = f", overran by {facts.overran[at]}" if facts.overran[at] else ""
        frozen = ", which is frozen" if facts.freezes[at] else ""
        return f"spent {facts.spent[at]} of {-facts.reserved[at]} reserved of {name}{over}{frozen}"
    asked = ", whose home was asked" if facts.sent else ""
    return f"waits for {facts.needs[at]} of {name}{asked}"


def cost_in_words(facts: SpendFacts) -> str:
    """What a reported attempt cost: `cost 12 micro-units, 3 + 2 tokens`."""
    if facts.money < 0 and facts.input_tokens < 0:
        return "nobody said what it cost"
    money = f"{facts.money} micro-units" if facts.money >= 0 else "an unknown amount"
    known = min(facts.input_tokens, facts.output_tokens) >= 0
    return f"cost {money}" + (f", {facts.input_tokens} + {facts.output_tokens} tokens" if known else "")
