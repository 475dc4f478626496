"""Budgets: what a call may cost is reserved before each attempt, and settled by what came of it.

    reserve   the upper bound of one attempt, in every budget and limit the call falls under: all of them, or none
              ▸ it goes on; or `refused` with the numbers; or `waiting`, since a lease has to grow first
    settle    the receipt says what was used; released only where nothing was sent; in doubt it stays reserved

INVARIANT: reserved + spent never exceed a cap, or a lease, by what is decided here (tests/properties/test_budgets.py).
What a tool uses above its own bound is an `overrun`: it counts, and freezes the budget until a person lifts that or the cap
is raised. Never estimates. Next: `budget/costs.py`, `budget/settle.py`, `budget/home.py`, docs/budgets.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.processors.budget.costs import bound
from sluicegate.processors.budget.rules import Rule
from sluicegate.processors.budget.state import GRANT_LIMIT_US as GRANT_LIMIT_US
from sluicegate.processors.budget.state import MAX_ACCOUNTS, Account, frozen, name_of, scope_of, shared
from sluicegate.processors.crossing.sending import home_partition, send
from sluicegate.processors.handoff import delegation
from sluicegate.processors.models.aims import arguments_of, asked, facts_of
from sluicegate.processors.models.room import account_for
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.plan import deadline_of
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.work import Refusal, Work, emit, reply
from sluicegate.schemas.records import BudgetFacts, PlanFacts

STAGE = "budget"
"""The stage of outcomes with `BudgetFacts`; they are `noted`."""

GRANT = "grant"
"""What a call awaits, and the executor kind of its plan meanwhile."""

SLICES = 4
"""A lease grows by at most cap / (SLICES x partitions), so that what is idle never holds up more than a quarter of the
cap; a call that needs more than that at once gets just what it needs."""

_NOBODY = Account()


@dataclass(frozen=True, slots=True)
class Item:
    """One budget's part of an attempt."""

    rule: Rule
    account: str
    window: int
    amount: int


@dataclass(slots=True)
class Ask:
    """What an attempt needs. At most one of `refusal` and `lacking` counts; with neither it may be reserved."""

    items: list[Item] = field(default_factory=list)
    refusal: Refusal | None = None
    lacking: Item | None = None


def reserve(work: Work) -> bool:
    """Reserve the attempt that is offered next. False: the call was answered, or waits."""
    assert work.environment is not None and work.tool is not None
    if not work.environment.budgets.rules_of(asked(work).name):
        return True
    ask, entry = asked_for(work), open_entry(work)
    if ask.refusal is not None:
        _refuse(work, ask.refusal, entry)
        return False
    if ask.lacking is not None:
        _wait(work, ask.lacking, entry)
        return False
    note_reserved(work, ask.items, work.attempt)
    if waits(entry):
        assert entry is not None
        work.decision.outcomes[0].caused_by = [entry.last_event]
    return True


def reserve_again(work: Work, entry: OpenIntent) -> str | None:
    """Before a tick offers a call once more: empty to go on, the reason to end it, or None when it has to wait.

    What nobody claimed, or a lookup did not find, was not sent, and its reservation goes with the next offer. A read
    needs no claim.
    """
    assert work.environment is not None and work.tool is not None
    unsent = entry.state in ("dispatched", "parked") and entry.tool_class != "read_only"
    if not work.environment.budgets.rules_of(asked(work).name) or unsent:
        return ""
    ask = asked_for(work)
    if ask.refusal is not None:
        return ask.refusal.reason
    if ask.lacking is not None:
        account = work.state.accounts.get(ask.lacking.account) or _NOBODY
        note_asked(work, ask.lacking, deadline_of(entry), sent=account.asked_until <= work.now)
        return None
    note_reserved(work, ask.items, entry.attempt + 1)
    return ""


def open_entry(work: Work) -> OpenIntent | None:
    """The call as the ledger has it, when it is open already."""
    entry = work.state.intents.get(key_of(work.origin))
    return entry if type(entry) is OpenIntent else None


def waits(entry: OpenIntent | None) -> bool:
    """Whether it waits for a grant already."""
    return entry is not None and entry.state == "waiting" and entry.awaits == GRANT


# -- what it takes -------------------------------------------------------------------------------------------------


def account_of(work: Work, rule: Rule) -> str:
    """The account of a rule for this call; empty when the call does not fall under it."""
    return account_for(work, rule, asked(work).name)


def asked_for(work: Work) -> Ask:
    """What one attempt needs, and whether it is there."""
    release, tool, state = work.environment, asked(work), work.state
    assert release is not None
    ask = Ask()
    for rule in release.budgets.rules_of(tool.name):
        account = account_of(work, rule)
        if not account:
            continue
        if rule.unit == "depth":
            depth = delegation.depth(work.session) if work.session is not None else 0
            if depth > rule.cap:
                said = f"budget `{rule.rule_id}`: the session was handed on {depth} times, {rule.cap} may act"
                ask.refusal = Refusal("budget_exceeded", said, (rule.rule_id,))
            continue
        amount = bound(rule.unit, asked(work), arguments_of(work), release.budgets)
        if amount is None:
            said = f"`{tool.name}` has neither a price nor a max_cost, and budget `{rule.rule_id}` counts {rule.unit}"
            ask.refusal = Refusal("no_price", said, (rule.rule_id,))
        elif amount:
            one = state.accounts.get(account)
            window = rule.window_at(work.now)
            item = Item(rule, account, window if one is None else max(window, one.window), amount)
            ask.items.append(item)
            _check(work, ask, item, one)
        if ask.refusal is not None:
            return ask
    return ask


def _check(work: Work, ask: Ask, item: Item, known: Account | None) -> None:
    """Whether one budget has room; sets `refusal` or `lacking`."""
    rule, one = item.rule, known or _NOBODY
    if known is None and len(work.state.accounts) >= MAX_ACCOUNTS:
        ask.refusal = Refusal("overloaded", "the partition has no place for another budget account")
    elif not rule.limit and frozen(one, item.account, rule.cap, work.control):
        said = f"budget `{rule.rule_id}` of {_whose(item.account)} is frozen: a call cost more than it was said to cost at most"
        ask.refusal = Refusal("budget_frozen", said, (rule.rule_id,))
    elif not shared(item.account):
        if one.used(item.window) + item.amount > rule.ceiling:
            spent, reserved = (one.spent + one.overran, one.reserved) if item.window <= one.window else (0, 0)
            ask.refusal = exceeded(item, spent, reserved, rule.ceiling)
    elif one.free(item.window) < item.amount or _lowered(one, item):
        over = item.amount > rule.ceiling
        denied = one.denied_until > work.now and item.window <= one.window
        if over or denied:
            used = one.home_used if denied else 0
            ask.refusal = exceeded(item, used, 0, rule.ceiling)
        elif ask.lacking is None:
            ask.lacking = item


def _lowered(one: Account, item: Item) -> bool:
    """Whether the cap was lowered since the home leased: then what is left of the lease may be too much by now."""
    return item.window <= one.window and one.home_cap > item.rule.ceiling


def exceeded(item: Item, spent: int, reserved: int, cap: int) -> Refusal:
    """A refusal that says the numbers."""
    rule = item.rule
    window = "" if rule.window == "none" else f" of this {rule.window}"
    figures = (
        f"{spent} spent and {reserved} reserved" if not shared(item.account) else f"{spent} spent or reserved"
    )
    said = (
        f"{'limit' if rule.limit else 'budget'} `{rule.rule_id}` of {_whose(item.account)}: {item.amount} {rule.unit} "
        f"needed, {figures} of {cap}{window}"
    )
    return Refusal("rate_limited" if rule.limit else "budget_exceeded", said, (rule.rule_id,))


def _whose(account: str) -> str:
    return f"{scope_of(account)} `{name_of(account)}`".replace("\t", " ")


# -- what is said ---------------------------------------------------------------------------------------------------


def note_reserved(work: Work, items: list[Item], attempt: int) -> None:
    """Emit the reservation. A lease that runs low, or that others wait for, is made to grow in the same breath."""
    more = [_more(work, item) for item in items]
    sent = any(need >= 0 for need in more)
    facts = BudgetFacts(
        "reserved", attempt, [i.account for i in items], [i.window for i in items], [i.amount for i in items],
        [0] * len(items), [0] * len(items), [i.rule.cap for i in items], [0] * len(items), more,
        work.now + GRANT_LIMIT_US if sent else 0, sent,
    )  # fmt: skip
    outcome = emit(work, STAGE, "noted", facts)
    work.reserved = True
    for item, need in zip(items, more, strict=True):
        if need >= 0:
            request(work, outcome, item, need)


def _more(work: Work, item: Item) -> int:
    """What to ask the home for after this reservation; 0: whatever it gives; -1: nothing now."""
    one = work.state.accounts.get(item.account)
    if one is None or not shared(item.account) or one.asked_until > work.now or one.denied_until > work.now:
        return -1
    me = key_of(work.origin)
    others = [k for k in work.state.queues.get(item.account, ()) if k != me]
    left = one.free(item.window) - item.amount
    need = next((work.state.waiters[k].need for k in others[:1]), 0)
    if others:
        return max(0, need - left) if left < need else -1
    part = slice_of(item.rule, work.state.partitions)
    return 0 if left < part // 4 and item.amount <= part else -1


def slice_of(rule: Rule, partitions: int) -> int:
    """What a lease grows by at most."""
    return rule.ceiling // (SLICES * partitions)


def request(work: Work, outcome: Outcome, item: Item, need: int) -> None:
    """Ask the home, and tell it how the lease stands. `need`: beyond what is left of the lease."""
    one = work.state.accounts.get(item.account) or _NOBODY
    fresh = one.window < item.window
    amounts = {
        "window": item.window, "need": need, "granted": 0 if fresh else one.granted,
        "returned": 0 if fresh else one.returned, "spent": 0 if fresh else one.spent,
        "overran": 0 if fresh else one.overran, "frozen_at": one.frozen_at, "frozen_cap": one.frozen_cap,
    }  # fmt: skip
    home = item.account
    until = work.now + GRANT_LIMIT_US
    send(work, outcome, "budget.request", home, home_partition(work, home), amounts, deadline_at=until)


def _wait(work: Work, item: Item, entry: OpenIntent | None) -> None:
    """Wait for the home's answer; ask it, unless somebody has."""
    one = work.state.accounts.get(item.account) or _NOBODY
    waiter = work.state.waiters.get(key_of(work.origin))
    until = work.now + GRANT_LIMIT_US
    if work.intent is not None and work.intent.deadline_at is not None:
        until = min(until, work.intent.deadline_at)
    if waiter is not None:
        until = waiter.until
        if work.now >= until:
            said = f"the home of budget `{item.rule.rule_id}` did not answer in time"
            _refuse(work, Refusal("grant_timeout", said, (item.rule.rule_id,)), entry)
            return
    again = waits(entry)
    if not again:
        assert work.tool is not None
        facts = PlanFacts(
            work.action_digest, work.tool.tool_class, GRANT, work.attempt, until, work.tool.timeout_ms
        )
        emit(work, "plan", "waiting", facts_of(work, facts), policies=[item.rule.rule_id])
    note_asked(work, item, until, sent=one.asked_until <= work.now)
    if again and entry is not None:
        work.decision.outcomes[0].caused_by = [entry.last_event]


def note_asked(work: Work, item: Item, until: int, *, sent: bool) -> None:
    """Emit that the call waits for an account, and ask its home where nobody did."""
    one = work.state.accounts.get(item.account) or _NOBODY
    facts = BudgetFacts(
        "asked", 0, [item.account], [item.window], [0], [0], [0], [item.rule.cap], [0], [item.amount], until, sent
    )  # fmt: skip
    outcome = emit(work, STAGE, "noted", facts)
    if sent:
        request(
            work,
            outcome,
            item,
            item.amount if _lowered(one, item) else item.amount - max(0, one.free(item.window)),
        )


def _refuse(work: Work, refusal: Refusal, entry: OpenIntent | None) -> None:
    """No. A call that was offered before ends as failed: what was refused is another attempt."""
    offered = entry is not None and entry.state in ("dispatched", "claimed")
    facts, policies = stage_facts(work, "budget"), list(refusal.policies)
    cause = entry.last_event if entry is not None and not work.decision.outcomes else b""
    outcome = emit(
        work, "plan", "failed" if offered else "refused", facts, refusal.reason, policies, refusal.detail.encode(),
        caused_by=cause,
    )  # fmt: skip
    reply(work, outcome, detail=refusal.detail)
