"""`sluicegate status`: where everything stands, on one screen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import typer
from rich.markup import escape
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect.status import ELSEWHERE_UNKNOWN, GROUPED, PartitionStatus
from sluicegate.streams.inspect.status import status as ask
from sluicegate.streams.roles import DEFAULT_ROLES
from sluicegate.streams.settings import Settings

SHOWN_ALARMS = 5
COLUMNS = ("partition", "head seq", "last decided", "control", "input lag", "sink lag")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def status(output: OutputOption = Format.TABLE) -> None:
        """Show heads, lags, release, agents, open intents and who works, e.g. `sluicegate status -o json`."""
        found = asyncio.run(ask(attach(Settings.from_env())))
        if output in (Format.JSON, Format.JSONL):
            print(json.dumps(found.as_json(), indent=2 if output is Format.JSON else None))
            return
        show(COLUMNS, [_row(p) for p in found.partitions], output, f"ledger {found.log_id} of `{found.env}`")
        if output is Format.CSV:
            return
        out = console()
        release = f"{found.release_name} {found.release[:19]}" if found.release else "none, deploy one"
        out.print(f"control    event {found.control_head}, {found.signing} mode, {found.agents} agents")
        out.print(f"release    {release}")
        out.print(f"processes  {processes(found.members)}")
        if found.open_intents is None:
            out.print(f"[yellow]clickhouse {found.clickhouse}[/yellow]")
        else:
            still = ", ".join(f"{n:,} {state}" for state, n in found.open_intents.items())
            out.print(f"open       {still or 'no intents'}")
        for alarm in found.open_alarms[:SHOWN_ALARMS]:
            out.print(f"[red]alarm[/red]      {escape(alarm)}")
        more = len(found.open_alarms) - SHOWN_ALARMS
        if more > 0:
            out.print(f"           and {more} more: sluicegate alarms list")
        if found.reviews:
            out.print(f"review     {escape(', '.join(found.reviews))}")
        out.print(
            f"[red]blind[/red]      {escape(found.blind)}"
            if found.blind
            else "watched    drift: sluicegate alarms list"
        )


def processes(members: Mapping[str, int]) -> str:
    """How many there are of each role; one that nothing works without is red at none. After `here` those of this machine only."""
    said = {
        role: f"[red]{role} 0[/red]" if not count and role in DEFAULT_ROLES else f"{role} {count}"
        for role, count in members.items()
    }
    return f"{', '.join(said[r] for r in GROUPED)}; here {', '.join(said[r] for r in ELSEWHERE_UNKNOWN)}"


def _row(part: PartitionStatus) -> tuple[object, ...]:
    return (
        str(part.partition),
        part.seq,
        iso(part.decided_at),
        part.control_head,
        part.input_lag,
        part.sink_lag,
    )
