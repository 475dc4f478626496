"""`sluicegate canary start | status | pause | resume | promote | abort`: a release tried on some of the new sessions."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from sluicegate.processors.control import Control
from sluicegate.streams import canaries, control_log, deployments
from sluicegate.streams.attach import attach
from sluicegate.streams.commands.control import DryRun, What, Why, change_now, say
from sluicegate.streams.commands.output import Format, OutputOption, Row, console, show
from sluicegate.streams.settings import Settings

canary = typer.Typer(help="Try a release on some of the new sessions.", no_args_is_help=True)

COLUMNS = ("arm", "release", "sessions", "intents", "refused", "failed", "held")
NONE = "no canary is running"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(canary, name="canary")


@canary.command("start")
def canary_start(
    what: What,
    weight: Annotated[str, typer.Option(help="share of new sessions, e.g. 10%")] = "10%",
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Decide some of the new sessions under another release, e.g. `sluicegate canary start ./candidate --weight 10%`."""
    settings = attach(Settings.from_env())
    before, digest = asyncio.run(deployments.known(settings, what, dry_run=dry_run))
    say(change_now(deployments.start_canary(before, digest, weight), why, dry_run, settings), dry_run)


def _ending(kind: str, name: str, text: str) -> None:
    def command(why: Why = "", dry_run: DryRun = False) -> None:
        say(change_now(deployments.end_canary(kind), why, dry_run), dry_run)

    command.__doc__ = text
    canary.command(name)(command)


_ending("paused", "pause", "Draw no new session into the canary, e.g. `sluicegate canary pause`.")
_ending("resumed", "resume", "Draw new sessions into it again, e.g. `sluicegate canary resume`.")
_ending("promoted", "promote", "Make it the environment's release, e.g. `sluicegate canary promote`.")
_ending("aborted", "abort", "End it, for its open sessions too, e.g. `sluicegate canary abort`.")


@canary.command("status")
def canary_status(
    watch: Annotated[bool, typer.Option("--watch", help="look again and again, until it ends")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="with --watch: seconds between looks")
    ] = 2.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """What is running, and what both arms decided so far, e.g. `sluicegate canary status --watch`."""
    settings = attach(Settings.from_env())

    def look() -> tuple[str, list[Row]] | None:
        control = asyncio.run(control_log.read(settings)).control
        return (
            None if control.canary is None else (_headline(control), list(canaries.arms(settings, control)))
        )

    if watch:
        follow(look, output, lambda: time.sleep(every))
        return
    found = look()
    if found is None:
        console().print(NONE)
        return
    if output is Format.TABLE:
        console().print(found[0], markup=False)
    show(COLUMNS, found[1], output)


def follow(
    look: Callable[[], tuple[str, list[Row]] | None], output: Format, wait: Callable[[], None]
) -> None:
    """Show what `look` finds, again after each `wait`, until it finds no canary: on a terminal in place, else one below the other."""
    if output is not Format.TABLE or not sys.stdout.isatty():
        while (found := look()) is not None:
            if output is Format.TABLE:
                console().print(found[0], markup=False)
            show(COLUMNS, found[1], Format.JSONL if output is Format.JSON else output)
            sys.stdout.flush()
            wait()
    else:
        with Live(console=console(), auto_refresh=False) as live:
            while (found := look()) is not None:
                live.update(_screen(*found), refresh=True)
                wait()
    if output is Format.TABLE:
        console().print(NONE)


def _screen(headline: str, rows: list[Row]) -> Group:
    table = Table(*COLUMNS, header_style="bold")
    for row in rows:
        table.add_row(*[f"{v:,}" if isinstance(v, int) else str(v) for v in row])
    return Group(headline, table, f"looked at {time.strftime('%H:%M:%S')}, Ctrl-C ends the looking only")


def _headline(control: Control) -> str:
    found = control.canary
    assert found is not None
    paused = ", paused" if found.paused else ""
    said = f"{deployments.named(control, found.digest)} decides {found.weight_bp / 100:g} % of new sessions{paused}"
    return f"{said}, since control event {found.started}"
