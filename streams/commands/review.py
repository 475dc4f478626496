"""`sluicegate review begin | end`: an agent whose every call needs a person."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import alarms
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.changes import came_of
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

review = typer.Typer(help="Agents whose every call needs a person.", no_args_is_help=True)

Agent = Annotated[str, typer.Argument(help="its id", metavar="AGENT")]
Why = Annotated[str, typer.Option(help="for the record; whoever is asked to agree reads it")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(review, name="review")


@review.command("begin")
def review_begin(agent: Agent, why: Why = "", dry_run: DryRun = False) -> None:
    """From now on every call of it waits for a person, e.g. `sluicegate review begin triage-1 --why "odd refunds"`."""
    _change(agent, why, begin=True, dry_run=dry_run)


@review.command("end")
def review_end(agent: Agent, why: Why = "", dry_run: DryRun = False) -> None:
    """Let it go on by itself, e.g. `sluicegate review end triage-1 --why "looked at 40 calls"`.

    Calls that are held stay held until somebody agrees to them.
    """
    _change(agent, why, begin=False, dry_run=dry_run)


@review.command("list")
def review_list(output: OutputOption = Format.TABLE) -> None:
    """List agents under review and why, e.g. `sluicegate review list`."""
    control = asyncio.run(control_log.read(attach(Settings.from_env()))).control
    show(("agent_id", "why"), sorted(control.reviews.items()), output)


def _change(agent: str, why: str, *, begin: bool, dry_run: bool) -> None:
    settings = attach(Settings.from_env())
    came = asyncio.run(alarms.review(settings, Keys(settings.home), agent, why, begin=begin, dry_run=dry_run))
    verb = "begin" if begin else "end"
    text = f"would {verb}" if dry_run else came_of("begun" if begin else "ended", *came)
    console().print(f"review of agent `{agent}`: {text}", markup=False)
