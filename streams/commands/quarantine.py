"""`sluicegate quarantine add | lift | list`: the kill switch."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer
from sluicegate.processors.control.quarantine import SCOPES
from sluicegate.schemas.times import iso
from sluicegate.streams.cli_words import an_id, one_of
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import quarantines
from sluicegate.streams.control.changes import came_of
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

quarantine = typer.Typer(help="Stop an agent, a tool, a session or a release at once.", no_args_is_help=True)

Scope = Annotated[str, typer.Argument(help=", ".join(SCOPES))]
Value = Annotated[
    str, typer.Argument(help="its id; of a release the digest, or its name and version", metavar="ID")
]
Why = Annotated[str, typer.Option(help="for the record; the agent's developer is told")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would stop only")]
COLUMNS = ("intent_id", "agent_id", "session_id", "tool", "class", "state", "attempt", "claimed_at")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(quarantine, name="quarantine")


@quarantine.command("add")
def quarantine_add(
    scope: Scope, value: Value, why: Why = "", dry_run: DryRun = False, output: OutputOption = Format.TABLE
) -> None:
    """Stop it, e.g. `sluicegate quarantine add tool send_money --why "paid twice"`.

    Within 5 s there is no new permit and no new claim anywhere. Calls that were begun are listed: they are not cut, and
    their results still arrive. It asks nobody: what stops is never refused. Of a name that nothing here has, it warns on stderr
    with the nearest, and stops it all the same.
    """
    one_of("scope", scope, SCOPES)
    an_id(value)
    settings = attach(Settings.from_env())
    stopped = asyncio.run(quarantines.add(settings, Keys(settings.home), scope, value, why, dry_run=dry_run))
    begun = stopped.in_flight
    if output is Format.TABLE:
        done = "would be quarantined" if dry_run else f"is quarantined as of control event {stopped.head}"
        console().print(f"{scope} `{stopped.value}` {done}; {len(begun)} call(s) in flight", markup=False)
    if stopped.unknown:
        anyway = "it would be" if dry_run else "it is"
        undo = f", undo it with `sluicegate quarantine lift {scope} {value}`"
        print(
            f"warning: {stopped.unknown} ({anyway} stopped all the same, should it appear{'' if dry_run else undo})",
            file=sys.stderr,
        )
    if begun or output is not Format.TABLE:
        _show(begun, output)


@quarantine.command("lift")
def quarantine_lift(scope: Scope, value: Value, why: Why = "", dry_run: DryRun = False) -> None:
    """Let it go on, e.g. `sluicegate quarantine lift tool send_money --why "fixed in 1.3"`.

    What was refused meanwhile stays refused: the agent has to ask again.
    """
    one_of("scope", scope, SCOPES)
    settings = attach(Settings.from_env())
    head, waits = asyncio.run(
        quarantines.lift(settings, Keys(settings.home), scope, value, why, dry_run=dry_run)
    )
    text = "would be lifted" if dry_run else came_of("lifted", head, waits)
    console().print(f"quarantine of {scope} `{value}`: {text}", markup=False)


@quarantine.command("list")
def quarantine_list(
    calls: Annotated[bool, typer.Option("--calls", help="the calls in flight that it is about")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List what is stopped, e.g. `sluicegate quarantine list`, or with `--calls` what was begun before it was."""
    settings = attach(Settings.from_env())
    found = asyncio.run(quarantines.look(settings))
    if calls:
        _show([entry for row in found for entry in row.in_flight], output)
        return
    rows = [(row.scope, row.value, row.why, len(row.in_flight)) for row in found]
    show(("scope", "id", "why", "in_flight"), rows, output)


def _show(entries: list[quarantines.OpenIntent], output: Format) -> None:
    rows = [
        (e.intent_id, e.agent_id, e.session_id, e.tool, e.tool_class, e.state, e.attempt, iso(e.claimed_at))
        for e in entries
    ]
    show(COLUMNS, rows, output)
