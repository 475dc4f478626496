"""`sluicegate feedback`: a person says how good a session was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.scores import QUALITY
from sluicegate.streams.commands.output import console
from sluicegate.streams.control.operators import operator
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.feedback import agent_of, give, score_of
from sluicegate.streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("feedback")(feedback)


def feedback(
    session: Annotated[str, typer.Argument(help="the session, open or ended within 3 days")],
    score: Annotated[
        float, typer.Option("--score", min=0.0, max=1.0, help="from 0, the worst, to 1, the best")
    ],
    why: Annotated[
        str, typer.Option("--why", help="in words; kept sealed, with what was said in the session")
    ] = "",
    agent: Annotated[str, typer.Option("--agent", help="whose session it is; else ClickHouse is asked")] = "",
    intent: Annotated[str, typer.Option("--intent", help="only this intent of the session")] = "",
    metric: Annotated[str, typer.Option("--metric", help="what you judge")] = QUALITY,
    person: Annotated[
        str, typer.Option("--as", help="you, as `sluicegate people register` knows you; else the login name")
    ] = "",
    key: Annotated[Path | None, typer.Option("--key", help="signed environments: your key file")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent only")] = False,
) -> None:
    """Score a session, e.g. `sluicegate feedback s-1 --score 0.2 --why "did not answer the question" --as ana`.

    Recorded on the ledger, where it counts for the release the session stood on. Exit code 1 and the reason when it does not.
    """
    settings = attach(Settings.from_env())
    whose = agent or agent_of(settings, session)
    said = score_of(whose, session, score, person or operator(), intent_id=intent, metric=metric, comment=why)
    if dry_run:
        console().print(
            f"would score session `{session}` of `{whose}` with {score} for {metric}", markup=False
        )
        return
    event = asyncio.run(give(settings, said, key=key))
    if event.header.status == "scored":
        console().print(
            f"scored session `{session}` of `{whose}`, recorded as seq {event.header.seq}", markup=False
        )
        return
    reason = event.header.reason
    remedy = REASONS[reason].remedy if reason in REASONS else ""
    console().print(f"not scored: {reason}. {remedy}", markup=False)
    raise typer.Exit(1)
