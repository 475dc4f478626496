"""`sluicegate ledger verify`: the fsck."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from sluicegate.processors.verify.invariants import INVARIANTS
from sluicegate.streams.commands.output import Format, OutputOption, bars, console, show, took
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings
from sluicegate.streams.verify.ledger import PartitionReport, Report, verify

EXIT_BROKEN = 1


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Check the ledger.", no_args_is_help=True)
    app.add_typer(group, name="ledger")

    @group.command("verify")
    def verify_ledger(
        output: OutputOption = Format.TABLE,
        partition: Annotated[
            list[int] | None, typer.Option("--partition", help="only this one; may be repeated")
        ] = None,
        inputs: Annotated[
            bool, typer.Option("--inputs/--no-inputs", help="count the input topics against the ledger")
        ] = True,
        clickhouse: Annotated[
            bool, typer.Option("--clickhouse/--no-clickhouse", help="compare with ClickHouse")
        ] = True,
        contents: Annotated[
            bool,
            typer.Option(
                "--contents", help="open what is sealed with this machine's keys, check who signed it"
            ),
        ] = False,
        since: Annotated[
            list[Path] | None,
            typer.Option(
                "--since", help="a checkpoint you kept, one a partition: told is what comes after it"
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="the same as -o json")] = False,
    ) -> None:
        """Check every rule of the ledger, e.g. `sluicegate ledger verify -o json`.

        Exit code 0: intact (ClickHouse may lag: then it says PENDING). 1: broken, with the position. See docs/verify.md.
        """
        settings = attach(Settings.from_env())
        output = Format.JSON if as_json else output
        report = _verify(
            settings,
            partitions=partition,
            inputs=inputs,
            clickhouse=clickhouse,
            contents=contents,
            since=since or (),
        )
        if output in (Format.JSON, Format.JSONL):
            print(json.dumps(report.as_json(), indent=2 if output is Format.JSON else None))
        else:
            _print(report, output)
        if not report.ok:
            raise typer.Exit(EXIT_BROKEN)

    @group.command("invariants")
    def invariants(output: OutputOption = Format.TABLE) -> None:
        """List the rules by name, e.g. `sluicegate ledger invariants`."""
        rows = [(name, one.says, one.proof, one.asks) for name, one in INVARIANTS.items()]
        show(("invariant", "what it says", "proven by", "asks for"), rows, output)


def _verify(settings: Settings, **scope: Any) -> Report:
    with bars("verifying (offsets)") as on_start:
        return asyncio.run(verify(settings, **scope, on_start=on_start))


def _print(report: Report, output: Format) -> None:
    rows = [_row(p) for p in (report.control, *report.partitions)]
    columns = (
        "partition",
        "events",
        "head",
        "decided until",
        "intents",
        "open",
        "inputs",
        "checkpoints",
        "clickhouse",
        "verdict",
    )
    if output is Format.CSV:
        show(columns, rows, output)
        return
    out = console()
    show(columns, rows, output, f"ledger {report.log_id} of `{report.env}`")
    for part in (report.control, *report.partitions):
        for name, first in part.violations.items():
            out.print(
                f"[red]{name}[/red] ({INVARIANTS[name].says}): {place_of(part.partition, first)}: "
                f"{first['sentence']}" + (f" ({first['count']} in all)" if first["count"] != 1 else ""),
                markup=True,
            )
    colour = "green" if report.ok else "red"
    out.print(
        f"[{colour}]{report.verdict}[/{colour}]: {report.events:,} events in {took(report.events, report.seconds)}"
    )


def place_of(partition: int, first: Mapping[str, object]) -> str:
    """Where a violation stands. What was found in a file or in ClickHouse has no offset, -1 in `-o json`."""
    where = "control" if partition < 0 else f"partition {partition}"
    offset = "" if first["offset"] == -1 else f", offset {first['offset']}"
    return f"{where}, seq {first['seq']}{offset}"


def _row(part: PartitionReport) -> tuple[object, ...]:
    still = part.intents.get("open")
    decided = [i["decided"] for i in part.inputs.values()]
    until = (
        datetime.datetime.fromtimestamp(part.decided_until / 1e6, datetime.UTC)
        if part.decided_until
        else None
    )
    return (
        "control" if part.partition < 0 else str(part.partition),
        part.events,
        part.head[:12],
        until.isoformat(timespec="seconds") if until else "",
        part.intents.get("in", ""),
        sum(still.values()) if isinstance(still, dict) else "",
        sum(d for d in decided if isinstance(d, int)) if decided else "",
        part.checkpoints.get("verdict", ""),
        part.clickhouse.get("verdict", ""),
        "ok" if part.ok else "BROKEN",
    )
