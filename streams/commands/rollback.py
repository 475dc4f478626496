"""`sluicegate rollback call | list`: take calls back; `release` is in `rollback_release.py`, `agent` in `rollback_agent.py`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.commands import rollback_release
from sluicegate.streams.commands.output import Format, OutputOption, console, progress, show
from sluicegate.streams.commands.rollback_agent import add_to, listed
from sluicegate.streams.commands.rollback_text import as_json, print_first, print_tree, rows
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.undo import rollback as rollbacks
from sluicegate.streams.undo import saga
from sluicegate.streams.undo.rollback import Plan, Wish

rollback = typer.Typer(help="Take back what was done.", no_args_is_help=True)

COLUMNS = (
    "intent_id", "agent_id", "session_id", "tool", "class", "state", "followed_from", "how", "stands", "why", "undo",
    "undo_tool", "arguments", "undone", "verified",
)  # fmt: skip


SHORT = ("event", "kind", "what", "to", "stands", "who", "why", "at")
LONG = (*SHORT, "saga", "intent_id", "by", "order", "open", "done", "verified")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add_to(rollback)
    rollback_release.add_to(rollback)
    app.add_typer(rollback, name="rollback")


@rollback.command("call")
def rollback_call(
    intent: Annotated[str, typer.Argument(help="the call's intent id")],
    cascade: Annotated[bool, typer.Option("--cascade", help="and all that followed from it")] = False,
    seen: Annotated[bool, typer.Option("--seen", help="with --cascade: also what only saw a result")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="go on although some cannot be taken back")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done only")] = False,
    agent: Annotated[str, typer.Option("--agent", help="whose call it is, if several used the id")] = "",
    by: Annotated[
        str, typer.Option("--by", help="the agent that carries it out [default: rollback-TENANT]")
    ] = "",
    why: Annotated[str, typer.Option(help="for the record")] = "",
    timeout_s: Annotated[float, typer.Option(help="seconds to wait for each call")] = 30.0,
    key: Annotated[Path | None, typer.Option("--key", help="signed environments: its key file")] = None,
    channel_key: Annotated[
        Path | None, typer.Option("--channel-key", help="signed environments: a channel's key file")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take a call back by its contract's `compensate`, e.g. `sluicegate rollback call i-7 --cascade --dry-run`.

    What cannot be taken back is said first. The order is a control event; each compensation is decided and recorded as
    any call of the agent that carries it out, and read back where the contract says how. Run again, it goes on where it
    stopped and undoes nothing twice. Exit code 1 when something is left.
    """
    if seen and not cascade:
        raise WrongUsage("--seen widens a cascade, give --cascade, too")
    settings, out = attach(Settings.from_env()), console()
    keys = Keys(settings.home)
    try:
        plan = _plan(settings, Wish(intent, agent, cascade, seen, by), keys)
        plain = output is Format.TABLE
        if plain:
            print_first(out, plan)
            print_tree(plan, f"before: {plan.saga}, carried out by {plan.by}")
        order = -1
        stopped = bool(plan.cannot) and not partial and any(s.stands == rollbacks.TODO for s in plan.left)
        if not dry_run and not stopped:
            order = _carry_out(settings, keys, plan, saga.How(why, timeout_s, key, channel_key))
            if plain and order >= 0:
                print_tree(plan, f"after: ordered as control event {order}")
    finally:
        keys.close()
    if plain and stopped and not dry_run:
        out.print("nothing was done: some cannot be taken back, go on without them with --partial")
    elif plain:
        left = f"{len(plan.left)} left" if plan.left else "nothing is left"
        out.print(f"{sum(s.stands == rollbacks.DONE for s in plan.steps.values())} taken back, {left}")
        if dry_run and plan.waits_for:
            out.print(f"first: {plan.waits_for}", markup=False)
    elif output is Format.JSON:
        print(json.dumps(as_json(plan, order), indent=2, ensure_ascii=False))
    else:
        show(COLUMNS, [tuple(row.values()) for row in rows(plan)], output)
    if plan.left and not dry_run:
        raise typer.Exit(1)


def _plan(settings: Settings, wish: Wish, keys: Keys) -> Plan:
    bar, advance = progress("reading the ledger", None)
    with bar:
        return asyncio.run(rollbacks.make_plan(settings, wish, keys.open, advance))


def _carry_out(settings: Settings, keys: Keys, plan: Plan, how: saga.How) -> int:
    todo = sum(step.stands == rollbacks.TODO for step in plan.steps.values())
    bar, advance = progress("taking back", todo)
    with bar:
        return asyncio.run(saga.carry_out(settings, keys, plan, how, lambda _: advance(1)))


@rollback.command("list")
def rollback_list(output: OutputOption = Format.TABLE) -> None:
    """List what was rolled back, of every kind, e.g. `sluicegate rollback list`: releases, agents and calls."""
    rows = asyncio.run(listed(attach(Settings.from_env())))
    columns = SHORT if output is Format.TABLE else LONG
    show(columns, [tuple(row[name] for name in columns) for row in rows], output)
