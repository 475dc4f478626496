"""`sluicegate traces`: intents as OpenTelemetry spans, to a collector or on the terminal."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer
from sluicegate.processors.replay.reproduce import MAX_SAMPLE
from sluicegate.processors.replay.spans import Span
from sluicegate.streams.cli_words import micros_of
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect import named, otel
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.reproduce import Period, drawn, events_of
from sluicegate.streams.settings import Settings

COLUMNS = ("trace", "span", "parent", "name", "ms", "error")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("traces")
    def traces(
        name: Annotated[
            str, typer.Argument(help="an intent, session, trace or event; empty for a period")
        ] = "",
        agent: Annotated[str, typer.Option("--agent", help="when several agents used the id")] = "",
        from_time: Annotated[
            str | None, typer.Option("--from-time", help="ISO 8601; UTC unless it says otherwise")
        ] = None,
        to_time: Annotated[str | None, typer.Option("--to-time", help="ISO 8601, inclusive")] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="print them, send nothing")] = False,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Export intents as spans by OTLP, e.g. `sluicegate traces --from-time 2026-05-01T12:00:00`.

        To the collector of OTEL_EXPORTER_OTLP_ENDPOINT. One trace a session, or the agent's own by its traceparent. No
        arguments, results or texts. At most 10,000 intents of a period at once.
        """
        since, until = (micros_of(t) if t else None for t in (from_time, to_time))
        settings = attach(Settings.from_env())
        keys = Keys(settings.home)

        async def work() -> list[Span]:
            if name:
                intents = (await named.find(settings, name, keys.open, agent=agent)).intents()
            else:
                intents = await events_of(
                    settings, await drawn(settings, Period(MAX_SAMPLE, "", since, until))
                )
            return [span for events in intents.values() for span in otel.spans_of(events, keys.open)]

        try:
            to = None if dry_run else otel.exporter()
            found = asyncio.run(work())
        finally:
            keys.close()
        if to is not None:
            try:
                otel.export(to, found, settings.env)
            finally:
                to.shutdown()
        if output is Format.JSON:
            print(json.dumps([asdict(span) for span in found], indent=2))
            return
        rows = [
            (s.trace_id, s.span_id, s.parent_id, s.name, (s.end - s.start) / 1000, s.error) for s in found
        ]
        show(COLUMNS, rows, output, "printed, not sent" if dry_run else "sent")
