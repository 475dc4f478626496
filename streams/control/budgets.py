"""What operators see of budgets, and what they do: every account from the ledger itself, and one control event.

Each partition is folded from its snapshot to its committed end. Of a shared budget the home says what is leased, the
partitions say what is reserved and spent; they are read one after the other, so figures of a busy budget are of slightly
different moments. Never decides: `processors/budget/budgets.py` does. Next: `commands/budgets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.processors.budget.rules import NO_BUDGETS, Budgets, Rule
from sluicegate.processors.budget.state import Account, budget_of, frozen, name_of, scope_of, shared
from sluicegate.processors.control.control import Control
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.control.operations import operator
from sluicegate.streams.inspect.open_intents import folded_partitions
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

MAX_ACCOUNT_CHARS = 1_024


@dataclass(slots=True)
class Part:
    """A shared budget's lease in one partition."""

    partition: int
    granted: int
    returned: int
    reserved: int
    spent: int
    overran: int
    waiting: int


@dataclass(slots=True)
class Row:
    """One account, over all partitions, in its newest window.

    Attributes:
        cap: by the deployed release; -1 when it names the budget no more.
        leased: by the home and not returned; 0 of a local one.
        state: `open`, `frozen` or `gone`.
    """

    account: str
    budget: str
    scope: str
    name: str
    unit: str
    per: str
    cap: int
    window: int = 0
    spent: int = 0
    overran: int = 0
    reserved: int = 0
    leased: int = 0
    waiting: int = 0
    state: str = "open"
    parts: list[Part] = field(default_factory=list)


async def look(settings: Settings) -> list[Row]:
    """Every account anything was ever reserved in, sorted by name."""
    control = (await control_log.read(settings)).control
    budgets = await _budgets(settings, control)
    rows: dict[str, Row] = {}
    async for state in folded_partitions(settings):
        for account, one in state.accounts.items():
            row = rows.setdefault(account, _row(account, budgets.rules.get(budget_of(account))))
            _add(row, one, state.partition, len(state.queues.get(account, ())))
            _freeze(row, frozen(one, account, row.cap, control), budgets)
        for account, home in state.homes.items():
            row = rows.setdefault(account, _row(account, budgets.rules.get(budget_of(account))))
            row.leased = home.out()
            _freeze(row, frozen(home, account, row.cap, control), budgets)
    return [rows[account] for account in sorted(rows)]


async def lift(settings: Settings, keys: Keys, account: str, why: str, *, dry_run: bool = False) -> int:
    """Lift a freeze; control's head. Raises `Terminal` for what is no account's name."""
    if "/" not in account or ":" not in account or len(account) > MAX_ACCOUNT_CHARS:
        raise Terminal(f"`{account[:80]}` is no account, see `sluicegate budgets list`")
    if dry_run:
        return (await control_log.read(settings)).control.head
    events: list[tuple[str, dict[str, object]]] = [("budget.lifted", {"account": account})]
    return await control_log.append(settings, keys, events, who=operator(), why=why)


async def _budgets(settings: Settings, control: Control) -> Budgets:
    if not control.deployed:
        return NO_BUDGETS
    return compile_release(await releases.fetch(settings, control.deployed), proven=True).budgets


def _row(account: str, rule: Rule | None) -> Row:
    unit, per, cap = (rule.unit, rule.window, rule.cap) if rule is not None else ("", "", -1)
    name = name_of(account).replace("\t", " ")
    return Row(
        account, budget_of(account), scope_of(account), name, unit, per, cap, state="open" if rule else "gone"
    )


def _add(row: Row, one: Account, partition: int, waiting: int) -> None:
    """Older windows of other partitions are over."""
    row.waiting += waiting
    if one.window < row.window:
        return
    if one.window > row.window:
        row.window, row.spent, row.overran, row.reserved, row.parts = one.window, 0, 0, 0, []
    row.spent += one.spent
    row.overran += one.overran
    row.reserved += one.reserved
    if shared(row.account):
        row.parts.append(
            Part(partition, one.granted, one.returned, one.reserved, one.spent, one.overran, waiting)
        )


def _freeze(row: Row, stopped: bool, budgets: Budgets) -> None:
    rule = budgets.rules.get(row.budget)
    if stopped and rule is not None and not rule.limit:
        row.state = "frozen"
