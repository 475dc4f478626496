"""`sluicegate budgets list | show | lift`: what is reserved and spent of what, and a freeze lifted."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import budgets as look_at
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

budgets = typer.Typer(help="What is reserved and spent of budgets and limits.", no_args_is_help=True)

Account = Annotated[str, typer.Argument(help="as `budgets list` names it, e.g. team:support/monthly")]
COLUMNS = ("account", "unit", "per", "cap", "spent", "overran", "reserved", "leased", "waiting", "state")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(budgets, name="budgets")


@budgets.command("list")
def budgets_list(
    scope: Annotated[str, typer.Option(help="agent, session, team, tenant or tool")] = "",
    only_frozen: Annotated[bool, typer.Option("--frozen", help="only those an overrun stopped")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List every account, e.g. `sluicegate budgets list --scope team`; money is in micro-units of the currency.

    `per` is the window; amounts are of the newest one. `leased` is what the home gave to partitions, spent or not.
    """
    found = asyncio.run(look_at.look(attach(Settings.from_env())))
    rows = [
        (r.account, r.unit, r.per, r.cap, r.spent, r.overran, r.reserved, r.leased, r.waiting, r.state)
        for r in found
        if (not scope or r.scope == scope) and (r.state == "frozen" or not only_frozen)
    ]
    show(COLUMNS, rows, output)


@budgets.command("show")
def budgets_show(account: Account, output: OutputOption = Format.TABLE) -> None:
    """One account and its leases by partition, e.g. `sluicegate budgets show team:support/monthly`."""
    found = {r.account: r for r in asyncio.run(look_at.look(attach(Settings.from_env())))}
    row = found.get(account)
    if row is None:
        raise Terminal(f"nothing was ever reserved in `{account[:80]}`, see `sluicegate budgets list`")
    if output is Format.TABLE:
        used = row.spent + row.overran
        console().print(
            f"{account} is {row.state}: {used} spent and {row.reserved} reserved of {row.cap} {row.unit}",
            markup=False,
        )
    columns = ("partition", "granted", "returned", "reserved", "spent", "overran", "waiting")
    parts = [
        (p.partition, p.granted, p.returned, p.reserved, p.spent, p.overran, p.waiting) for p in row.parts
    ]
    if parts or output is not Format.TABLE:
        show(columns, parts, output)


@budgets.command("lift")
def budgets_lift(
    account: Account,
    why: Annotated[str, typer.Option(help="for the record")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing")] = False,
) -> None:
    """Let a frozen budget go on, e.g. `sluicegate budgets lift team:support/monthly --why "max_cost corrected"`.

    What the call used above its bound stays spent. The next overrun freezes it again; so correct the bound first.
    """
    settings = attach(Settings.from_env())
    head = asyncio.run(look_at.lift(settings, Keys(settings.home), account, why, dry_run=dry_run))
    done = "would be lifted" if dry_run else f"is lifted as of control event {head}"
    console().print(f"`{account}` {done}", markup=False)
