"""`sluicegate mode set | list`: what is only observed."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from sluicegate.processors.modes import MODES, SCOPES
from sluicegate.streams.cli_words import one_of
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import identities
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

mode = typer.Typer(help="Observe or enforce, by agent, tool, environment or policy.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(mode, name="mode")


@mode.command("set")
def mode_set(
    scope: Annotated[str, typer.Argument(help=", ".join(SCOPES))],
    value: Annotated[str, typer.Argument(help="its id")],
    to: Annotated[str, typer.Argument(help=", ".join(MODES), metavar="MODE")],
    why: Annotated[str, typer.Option(help="for the record")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the permission only")] = False,
) -> None:
    """Set a mode, e.g. `sluicegate mode set agent support-7 observe --why "first week"`.

    Observed: policies decide and are recorded, and the call goes on. `default` takes a setting back. An explicit
    `enforce` for the agent or the tool beats any `observe`. Switching to observe needs the release's `control.cedar`
    to permit it, or without one the role `operator`.
    """
    one_of("scope", scope, SCOPES)
    one_of("mode", to, MODES)
    settings = attach(Settings.from_env())
    head = asyncio.run(
        identities.set_mode(settings, Keys(settings.home), scope, value, to, why, dry_run=dry_run)
    )
    text = (
        f"{scope} `{value}` would be set to {to}"
        if dry_run
        else f"{scope} `{value}`: {to}, control event {head}"
    )
    console().print(text, markup=False)


@mode.command("list")
def mode_list(output: OutputOption = Format.TABLE) -> None:
    """List what is set; everything else is enforced, e.g. `sluicegate mode list -o json`."""
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    rows = [(scope, value, set_to) for (scope, value), set_to in control.modes.items()]
    show(("scope", "id", "mode"), sorted(rows), output)
