"""`sluicegate sessions list | resume`: which sessions are open or halted, and letting a halted one go on."""

from __future__ import annotations

import asyncio
import heapq
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.approval.resume import VERDICT
from sluicegate.processors.labels import INTEGRITY, worst
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Review
from sluicegate.schemas.times import iso
from sluicegate.streams import reviewing
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect.open_intents import open_sessions
from sluicegate.streams.settings import Settings

sessions = typer.Typer(help="Sessions that are open, and those that were halted.", no_args_is_help=True)
COLUMNS = (
    "session_id", "agent_id", "on_behalf_of", "halted", "calls", "without_result", "integrity", "opened_at", "last_at"
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(sessions, name="sessions")


@sessions.command("list")
def sessions_list(
    halted: Annotated[bool, typer.Option("--halted", help="only those that were halted, and why")] = False,
    agent: Annotated[str, typer.Option("--agent", help="only this agent's")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="those last used, so many")] = 50,
    output: OutputOption = Format.TABLE,
) -> None:
    """List open sessions, e.g. `sluicegate sessions list --halted -o json`, then `sluicegate sessions resume`.

    Read from the ledger itself, those last used first. `halted` is the limit that was reached: `loop`, `no_progress` or `step_cap`.
    """
    found = asyncio.run(open_sessions(attach(Settings.from_env()), halted=halted))
    mine = [s for s in found if agent in ("", s.agent_id)]
    rows = [
        (
            s.session_id, s.agent_id, s.on_behalf_of, s.halted, s.calls, s.idle, INTEGRITY[worst(s.integrity)],
            iso(s.opened_at), iso(s.last_at),
        )
        for s in heapq.nlargest(limit, mine, key=lambda s: s.last_at)
    ]  # fmt: skip
    show(COLUMNS, rows, output)
    if output is Format.TABLE and len(rows) < len(mine):
        console().print(f"{len(mine) - len(rows):,} more that were used before: -n {len(mine)}")


@sessions.command("resume")
def sessions_resume(
    session: Annotated[str, typer.Argument(help="as `sessions list --halted` has it")],
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
