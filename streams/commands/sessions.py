"""`sluicegate sessions resume`: let a halted session go on."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.resume import VERDICT
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Review
from sluicegate.streams import reviewing
from sluicegate.streams.attach import attach
from sluicegate.streams.commands.output import console
from sluicegate.streams.settings import Settings

sessions = typer.Typer(help="Sessions that were halted.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(sessions, name="sessions")


@sessions.command("resume")
def sessions_resume(
    session: Annotated[str, typer.Argument(help="as the refusal names it: `sluicegate tail --agent AGENT`")],
    agent: Annotated[str, typer.Option("--agent", help="whose session it is")],
    person: Annotated[str, typer.Option("--as", help="you, as `sluicegate people register` knows you")],
    why: Annotated[str, typer.Option(help="for the record")] = "",
    key: Annotated[Path | None, typer.Option("--key", help="signed environments: your key file")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent only")] = False,
) -> None:
    """Let a halted session go on, e.g. `sluicegate sessions resume s-1 --agent banking-agent --as ana`.

    The refused calls stay refused: the agent asks again. Exit code 1 and the reason when nothing was resumed.
    """
    if dry_run:
        console().print(f"would resume session `{session}` of `{agent}` as `{person}`", markup=False)
        return
    review = Review(uuid.uuid4().hex, agent, session, VERDICT, b"", person, time.time_ns() // 1000, why)
    settings = attach(Settings.from_env())
    [event, *_] = asyncio.run(reviewing.send(settings, review, key=key))
    if event.header.status == "resumed":
        console().print(f"resumed session `{session}`, recorded as seq {event.header.seq}", markup=False)
        return
    reason = event.header.reason
    remedy = REASONS[reason].remedy if reason in REASONS else ""
    console().print(f"not resumed: {reason}. {remedy}", markup=False)
    raise typer.Exit(1)
