"""`sluicegate access`: who touched a piece of data."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from typing import Annotated

import typer
from sluicegate.processors.replay.access import Access
from sluicegate.schemas.times import iso
from sluicegate.streams.cli_words import micros_of
from sluicegate.streams.commands.output import Format, OutputOption, bars, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect.access import access
from sluicegate.streams.settings import Settings

COLUMNS = ("at", "agent", "on behalf of", "session", "intent", "how", "about", "state")


class Source(StrEnum):
    """Where to look."""

    KAFKA = "kafka"
    CLICKHOUSE = "clickhouse"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("access")
    def who_touched(
        asset: Annotated[
            str,
            typer.Option(
                "--asset", help="tool:NAME, prompt:NAME, memory:SCOPE, cell:HEX, sha256:HEX or event:HEX"
            ),
        ],
        source: Annotated[Source, typer.Option("--source", help="both say the same")] = Source.CLICKHOUSE,
        from_time: Annotated[
            str | None, typer.Option("--from-time", help="ISO 8601; UTC unless it says otherwise")
        ] = None,
        to_time: Annotated[str | None, typer.Option("--to-time", help="ISO 8601, inclusive")] = None,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """List who touched this data, e.g. `sluicegate access --asset tool:banking.send_money --from-time 2026-05-01`.

        By the ledger's headers and facts: tools as they were asked for, memory, prompts, documents and results by their
        sha256, and the results that arguments were taken from. `explain` lists the assets of an intent.
        """
        settings = attach(Settings.from_env())
        since, until = (micros_of(t) if t else None for t in (from_time, to_time))
        with bars("reading the ledger (offsets)") as on_start:
            found = asyncio.run(
                access(settings, asset, source=source.value, since=since, until=until, on_start=on_start)
            )
        if output is Format.JSON:
            print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
            return
        show(COLUMNS, [_row(row) for row in found.rows], output, f"who touched {found.asset}")
        if output is Format.TABLE:
            agents = len({row.agent_id for row in found.rows})
            console().print(f"{len(found.rows):,} times by {agents} agents, from {found.source}")
        if not found.rows and output is Format.TABLE:
            hint = f"nobody touched `{found.asset}`, or it is written otherwise: sluicegate explain INTENT lists the assets of an intent"
            console().print(hint, markup=False)


def _row(row: Access) -> tuple[object, ...]:
    at = iso(row.at, "milliseconds")
    return (at, row.agent_id, row.on_behalf_of, row.session_id, row.intent_id, row.how, row.about, row.state)
