"""`sluicegate topics repartition`: another number of partitions, as a new generation of the log.

Says what would be moved and what stands in the way, then does it. Next: `streams/repartition/repartition.py`, docs/repartition.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import Format, OutputOption, console, progress, show
from sluicegate.streams.commands.topics import topics
from sluicegate.streams.control import operators
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.repartition import repartition as work
from sluicegate.streams.repartition.repartition import Asked, Told
from sluicegate.streams.settings import Settings

COLUMNS = ("partition", "agents", "sessions", "ids", "cells", "homes")
EXIT_UNSETTLED = 1


@topics.command("repartition")
def repartition(
    to: Annotated[int, typer.Option("--to", help="how many partitions the log shall have")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be moved, and what is open still")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    call_off: Annotated[
        bool, typer.Option("--call-off", help="take one back that has sealed nothing")
    ] = False,
    drain_s: Annotated[
        float, typer.Option("--drain", help="seconds to wait until nothing is open", min=0)
    ] = 60.0,
    why: Annotated[
        str, typer.Option(help="recorded with the control events")
    ] = "another number of partitions",
    output: OutputOption = Format.TABLE,
) -> None:
    """Go on with another number of partitions, e.g. `sluicegate topics repartition --to 24 --dry-run`.

    From the first step on nothing new is permitted (`repartitioning`); what is open comes to its end under the workers that run.
    Then every partition is sealed, its state imported by the new ones, and every process has to be started again. Killed, it goes
    on where it was. With --dry-run exit code 1 while something is open.
    """
    settings = attach(Settings.from_env())
    keys = Keys(settings.home)
    try:
        if call_off:
            head = asyncio.run(work.call_off(settings, keys, why, operators.operator()))
            console().print(f"called off by control event {head}: the log goes on as it was", markup=False)
            return
        bar, advance = progress("folding the ledger (events)", None)
        asked = Asked(to, why, drain_s, lambda text: console_said(text, output), advance)
        with bar:
            if dry_run:
                told = asyncio.run(work.look(settings, asked))
            else:
                told = asyncio.run(_do(settings, keys, asked, yes))
    finally:
        keys.close()
    _print(told, dry_run, output)
    if dry_run and told.unsettled:
        raise typer.Exit(EXIT_UNSETTLED)


async def _do(settings: Settings, keys: Keys, asked: Asked, yes: bool) -> Told:
    done = await work.finish(settings, keys, asked)
    if done is not None:
        return done
    if not yes and not typer.confirm(
        f"stop all new calls of `{settings.env}` and go on with {asked.to} partitions?"
    ):
        raise Terminal("nothing was done: give --yes, or --dry-run to look first")
    return await work.repartition(settings, keys, asked)


def console_said(text: str, output: Format) -> None:
    """A step, on a terminal or in a log; listings for machines stay clean."""
    if output is Format.TABLE:
        console().print(f"· {text}", markup=False)


def _print(told: Told, dry_run: bool, output: Format) -> None:
    rows = [(at, *asdict(one).values()) for at, one in enumerate(told.census)]
    show(COLUMNS, rows, output, f"generation {told.generation}, {told.partitions} partitions")
    if output is not Format.TABLE:
        return
    out = console()
    for partition, left in sorted(told.unsettled.items()):
        out.print(f"open: partition {partition}: {left}", markup=False)
    if dry_run:
        out.print("nothing was done: --dry-run", markup=False)
        return
    out.print(
        f"generation {told.generation} decides; {told.carried} record(s) that came too late were handed on. Start every process "
        f"again with SLUICEGATE_GENERATION={told.generation} (this state directory knows it by itself)",
        markup=False,
    )
