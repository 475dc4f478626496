"""Settling: what a call had reserved becomes spent, or free again, in the decision that ends it or its attempt.

    the receipt of an attempt            what it says was used; the rest is free again
    ... that says nothing was sent       all of it is free again
    other attempts of the same call      spent in full: they may have happened, and nobody told
    expired unclaimed, refused           free: nothing was sent. A read needs no claim, so its offer may have been taken
    in doubt                             stays reserved, until somebody finds out
    a lookup that found nothing          free: it did not happen
    resolved                             `did_not_happen` frees it, `happened` and `compensated` spend it in full

Called once at the end of every decision; free where nothing is reserved. Next: `budget/fold.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.processors import lifecycle
from sluicegate.processors.budget.budgets import STAGE
from sluicegate.processors.budget.costs import actual
from sluicegate.processors.budget.rules import NO_BUDGETS
from sluicegate.processors.budget.state import Account, Reservation, budget_of, shared
from sluicegate.processors.crossing.sending import home_partition, send
from sluicegate.processors.jobs.resolve import DID_NOT_HAPPEN
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import BudgetFacts, Receipt

STEPS = lifecycle.TERMINAL | {"in_doubt", "claimed", "dispatched", "waiting"}
"""Statuses with which a decision moves its call."""


def settle(work: Work) -> None:
    """Settle what this decision settles. Emits nothing where nothing was reserved."""
    outcomes, state = work.decision.outcomes, work.state
    if not state.reservations and not work.reserved:
        return
    key = key_of(work.origin)
    held = list(state.reservations.get(key, ()))
    last = next((o for o in reversed(outcomes) if o.status in STEPS), None)
    for outcome in outcomes:
        held += _reserved(outcome.facts)
    if not held or last is None or last.status == "in_doubt":
        return
    entry = state.intents.get(key)
    receipt = work.receipt if work.receipt is not None and work.receipt.kind != "claimed" else None
    if type(entry) is OpenIntent and entry.state == "waiting":
        # INVARIANT: what a plug-in says of itself settles nothing of the call it was asked about (tests/unit/test_seams.py).
        receipt = None
    if last.status in lifecycle.TERMINAL:
        tool_class = entry.tool_class if type(entry) is OpenIntent else ""
        unsent = last.status in ("refused", "voided") or last.reason in (DID_NOT_HAPPEN, "not_found")
        unsent |= last.status == "expired" and tool_class != "read_only"
        _settle(work, held, 0, receipt, unsent)
    elif type(entry) is OpenIntent and (
        last.status == "dispatched" or entry.state in ("dispatched", "claimed")
    ):
        before = [r for r in held if r.attempt <= entry.attempt]
        if receipt is not None:  # it failed, and another attempt follows
            mine = [r for r in before if r.attempt == receipt.attempt]
            _settle(work, mine, receipt.attempt, receipt, False)
        elif entry.state == "claimed":  # nobody told what came of it
            for attempt in sorted({r.attempt for r in before}):
                _settle(work, [r for r in before if r.attempt == attempt], attempt, None, False)


def _reserved(facts: object) -> Iterable[Reservation]:
    if not isinstance(facts, BudgetFacts) or facts.what != "reserved":
        return
    for account, window, amount in zip(facts.accounts, facts.windows, facts.reserved, strict=True):
        yield Reservation(facts.attempt, account, window, amount)


def _settle(work: Work, held: list[Reservation], attempt: int, receipt: Receipt | None, unsent: bool) -> None:
    if not held:
        return
    release = work.environment
    budgets = release.budgets if release is not None else NO_BUDGETS
    newest = max(r.attempt for r in held)
    answered = 0
    if receipt is not None:
        answered = receipt.attempt if any(r.attempt == receipt.attempt for r in held) else newest
    spent, overran, caps, freezes = [], [], [], []
    for one in held:
        rule = budgets.rules.get(budget_of(one.account))
        used = one.amount
        if (
            unsent
            or (receipt is not None and one.attempt == answered and not receipt.sent)
            or (rule is not None and rule.unit == "fan_out")
        ):
            used = 0
        elif receipt is not None and one.attempt == answered and rule is not None:
            used = actual(rule.unit, _tool(work), receipt, one.amount, budgets)
        over = max(0, used - one.amount)
        spent.append(used - over)
        overran.append(over)
        caps.append(rule.cap if rule is not None else 0)
        freezes.append(int(over > 0 and rule is not None and not rule.limit))
    facts = BudgetFacts(
        "settled", attempt, [r.account for r in held], [r.window for r in held], [-r.amount for r in held], spent,
        overran, caps, freezes, [0] * len(held), 0, False,
    )  # fmt: skip
    outcome = emit(work, STAGE, "noted", facts, "overrun" if any(overran) else "")
    for at, one in enumerate(held):
        if freezes[at] and shared(one.account):
            _tell(work, outcome, one, spent[at], overran[at], caps[at])


def _tell(work: Work, outcome: Outcome, one: Reservation, spent: int, overran: int, cap: int) -> None:
    """An overrun of a shared budget: its home has to know at once."""
    known = work.state.accounts.get(one.account) or Account(one.window)
    same = known.window == one.window
    amounts = {
        "window": known.window, "returned": known.returned, "spent": known.spent + (spent if same else 0),
        "overran": known.overran + (overran if same else 0), "granted": known.granted,
        "frozen_at": work.control.head, "frozen_cap": cap,
    }  # fmt: skip
    send(work, outcome, "budget.return", one.account, home_partition(work, one.account), amounts)


def _tool(work: Work) -> CompiledTool | None:
    release, entry = work.control.release, work.state.intents.get(key_of(work.origin))
    if release is None or type(entry) is not OpenIntent:
        return None
    return release.tools.get(entry.candidate or entry.tool)
