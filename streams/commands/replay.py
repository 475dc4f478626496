"""`sluicegate replay`: decide the ledger again, compare, execute nothing. `--mode diff` is in `backtest.py`."""

from __future__ import annotations

import asyncio
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sluicegate.processors.replay.selection import Selection
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.cli_words import one_of
from sluicegate.streams.commands import backtest
from sluicegate.streams.commands.copying import Asked, run_copy
from sluicegate.streams.commands.output import Format, OutputOption, bars, console, show, took
from sluicegate.streams.commands.resinking import run_resink
from sluicegate.streams.commands.window import window_of
from sluicegate.streams.commands.without import without
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.replay import TOPICS, How, Replayed, check
from sluicegate.streams.replay.window import Window, check_times
from sluicegate.streams.settings import Settings

EXIT_DIFFERENT = 1
SHOWN = 20
"""Differences printed; `-o json` has a hundred of each partition."""


class Mode(StrEnum):
    """What to do with what is read again."""

    CHECK = "check"
    DIFF = "diff"
    COPY = "copy"
    RESINK = "resink"


def register(app: typer.Typer) -> None:
    """Add the command, and `replay without`."""
    group = typer.Typer(invoke_without_command=True)
    app.add_typer(group, name="replay")
    group.command("without")(without)

    @group.callback()
    def replay(
        ctx: typer.Context,
        mode: Annotated[
            Mode,
            typer.Option(
                "--mode",
                help="check: compare every byte; diff: with another release; copy: into another topic; "
                "resink: fill ClickHouse anew",
            ),
        ] = Mode.CHECK,
        topic: Annotated[
            str,
            typer.Option("--topic", help="whose offsets count: outcomes, or an input topic such as intents"),
        ] = "outcomes",
        from_offset: Annotated[
            list[str] | None, typer.Option("--from-offset", help="PARTITION:OFFSET; may be repeated")
        ] = None,
        from_time: Annotated[
            str | None, typer.Option("--from-time", help="ISO 8601; UTC unless it says otherwise")
        ] = None,
        to: Annotated[
            list[str] | None, typer.Option("--to", help="PARTITION:OFFSET or ISO 8601, inclusive")
        ] = None,
        release: Annotated[
            str | None,
            typer.Option(
                "--release", help="diff: the candidate, a release folder; else only what this digest decided"
            ),
        ] = None,
        agent: Annotated[str, typer.Option("--agent", help="only this agent")] = "",
        tool: Annotated[str, typer.Option("--tool", help="only intents that asked for this tool")] = "",
        session: Annotated[str, typer.Option("--session", help="only this session")] = "",
        reason: Annotated[str, typer.Option("--reason", help="only what was answered with this reason")] = "",
        rate: Annotated[
            float, typer.Option("--rate", help="records a second at most; 0 is no limit", min=0.0)
        ] = 0.0,
        resume: Annotated[
            Path | None,
            typer.Option("--resume", help="check, copy: a position file; it is made, and gone on from"),
        ] = None,
        into: Annotated[
            str, typer.Option("--into", help="copy: the topic, without its environment [default: the same]")
        ] = "",
        into_env: Annotated[
            str, typer.Option("--into-env", help="copy: its environment, of the same kafka")
        ] = "",
        named: Annotated[
            str, typer.Option("--as", help="copy: what new ids are made from [default: the source]")
        ] = "",
        create: Annotated[
            bool, typer.Option("--create", help="copy: make the topic where there is none")
        ] = False,
        max_changes: Annotated[
            str, typer.Option("--max-changes", help="diff: exit code 0 up to so many, or so many percent")
        ] = "0",
        expect_changes: Annotated[
            bool, typer.Option("--expect-changes", help="diff: exit code 0 whatever changes")
        ] = False,
        junit_file: Annotated[Path | None, typer.Option("--junit", help="diff: write JUnit XML here")] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="resink: say how much it would read")
        ] = False,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Decide every input again from the ledger alone, e.g. `sluicegate replay --topic intents --from-offset 2:100`.

        Nothing is executed: replay has no executor, and but for `copy` no producer. State is folded from the genesis,
        and the window says which inputs are compared. Exit code 1: something came out different. What another release
        would have decided: `sluicegate replay --mode diff --release ./candidate --from-time 2026-05-01`. Into another topic:
        `sluicegate replay --mode copy --topic intents --agent a --into my-copy --create --resume copy.json`.
        ClickHouse anew, while no projector runs: `sluicegate replay --mode resink`; with `--dry-run` it runs beside one.
        """
        if ctx.invoked_subcommand is not None:
            return
        if mode is not Mode.COPY:
            one_of("topic to replay", topic, TOPICS)
        window = window_of(topic, from_offset or [], from_time, to or [])
        check_times(window, time.time_ns() // 1000)
        if mode is Mode.DIFF and release is None:
            raise WrongUsage("`--mode diff` compares with another release, name it by `--release FOLDER`")
        if mode is Mode.DIFF and resume is not None:
            raise WrongUsage(
                "`--mode diff` cannot `--resume`: a first divergence needs all before it, leave it out"
            )
        by = "" if mode is Mode.DIFF else release or ""
        only = Selection(agent, tool, session, by, reason)
        if dry_run and mode is not Mode.RESINK:
            raise WrongUsage("`--dry-run` belongs to `--mode resink`: nothing else here changes anything")
        if mode is Mode.RESINK:
            if from_offset or from_time or to or only != Selection() or rate or resume:
                raise WrongUsage(
                    "`--mode resink` fills all of ClickHouse anew, leave out where it begins and ends, the filters, "
                    "`--rate` and `--resume`"
                )
            run_resink(dry_run, output)
            return
        if mode is Mode.DIFF:
            assert release is not None
            most = "100%" if expect_changes else max_changes
            backtest.run(Path(release), window, output, junit_file, max_changes=most, how=How(only, rate))
            return
        if mode is Mode.COPY:
            run_copy(window, Asked(into, into_env, named, create), How(only, rate, resume), output)
            return
        if into or into_env or named or create:
            raise WrongUsage("`--into`, `--into-env`, `--as` and `--create` belong to `--mode copy`")
        settings = attach(Settings.from_env())
        result = _replay(settings, window, How(only, rate, resume))
        if output in (Format.JSON, Format.JSONL):
            print(json.dumps(result.as_json(), indent=2 if output is Format.JSON else None))
        else:
            _print(result, output)
        if not result.ok:
            raise typer.Exit(EXIT_DIFFERENT)


def _replay(settings: Settings, window: Window, how: How) -> Replayed:
    keys = Keys(settings.home)
    try:
        with bars("replaying (offsets)") as on_start:
            return asyncio.run(check(settings, window, keys.open, how=how, on_start=on_start))
    finally:
        keys.close()


def _print(result: Replayed, output: Format) -> None:
    columns = ("partition", "inputs", "outcomes", "same", "different", "erased", "skipped", "not compared")
    rows = [
        (str(p), t.inputs, t.outcomes, t.same, t.different, t.erased, sum(t.skipped.values()), t.outside)
        for p, t in result.partitions.items()
    ]
    show(columns, rows, output, "replay --mode check")
    if output is Format.CSV:
        return
    out = console()
    for different in [d for t in result.partitions.values() for d in t.differences][:SHOWN]:
        out.print(
            f"[red]different[/red]: partition {different.partition}, seq {different.seq}, offset {different.offset}, "
            f"input {different.input}, intent `{different.intent_id}`: {different.field} is `{different.recorded}` "
            f"on the ledger, now `{different.remade}`"
        )
    skipped = {k for t in result.partitions.values() for k in t.skipped} - {"genesis"}
    for name in sorted(skipped):
        out.print(f"skipped: {sum(t.skipped[name] for t in result.partitions.values()):,} {name}")
    engines = {k for t in result.partitions.values() for k in t.other_engine}
    if engines:
        out.print(f"decided by engine {', '.join(sorted(engines))}, decided again by {result.engine}")
    colour = "red" if not result.ok else "yellow" if result.verdict == result.nothing else "green"
    outcomes = result.total("outcomes")
    out.print(
        f"[{colour}]{escape(result.verdict)}[/{colour}]: {outcomes:,} outcomes read in {took(outcomes, result.seconds)}"
    )
