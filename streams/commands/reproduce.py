"""`sluicegate reproduce`: decide an intent again, or a sample of a period, with the engine that decided it."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.replay.reproduce import DIFFERENT, MAX_SAMPLE, SAME, SKIPPED, Remade, Result
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.cli_words import micros_of
from sluicegate.streams.commands.output import Format, OutputOption, bars, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect import named
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.repartition.generation import part_name
from sluicegate.streams.replay import engines
from sluicegate.streams.replay.reproduce import Period, Targets, drawn, here, reproduced
from sluicegate.streams.scan import OnStart
from sluicegate.streams.settings import Settings

EXIT_DIFFERENT, EXIT_NOT_AT_HAND = 1, 4
COLUMNS = ("partition", "seq", "intent", "stage", "status", "verdict", "field", "recorded", "remade", "cause")
SHOWN = 50
"""Inputs printed; `-o json` and `csv` have all."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("reproduce")
    def reproduce(
        name: Annotated[
            str, typer.Argument(help="an intent, event, trace or session; empty with --sample")
        ] = "",
        agent: Annotated[str, typer.Option("--agent", help="when several agents used the id")] = "",
        sample: Annotated[
            int, typer.Option("--sample", help="draw so many intents of the period", min=0, max=MAX_SAMPLE)
        ] = 0,
        seed: Annotated[
            str, typer.Option("--seed", help="whoever has it draws the same sample; made when empty")
        ] = "",
        from_time: Annotated[
            str | None, typer.Option("--from-time", help="ISO 8601; UTC unless it says otherwise")
        ] = None,
        to_time: Annotated[str | None, typer.Option("--to-time", help="ISO 8601, inclusive")] = None,
        partition: Annotated[
            list[int] | None, typer.Option("--partition", help="of a sample: only this one; may be repeated")
        ] = None,
        engines_folder: Annotated[
            Path | None, typer.Option("--engines", help="where other versions' wheels are")
        ] = None,
        any_engine: Annotated[
            bool, typer.Option("--any-engine", help="decide by this version what another one decided")
        ] = False,
        stdin: Annotated[bool, typer.Option("--stdin", hidden=True)] = False,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Decide it again and compare every byte, e.g. `sluicegate reproduce i-7`, or `reproduce --sample 100 --seed q3`.

        By the engine, release and control head that are on the record. Verdicts: SAME; DIFFERENT with the first field and
        its cause; ERASED; EXPIRED; ENGINE_MISSING; ENGINE_FAILED; SKIPPED. Exit code 0: all SAME (or SKIPPED); 1: something is
        DIFFERENT; 4: something could not be decided again. Nothing is executed or published.
        """
        if sum((bool(name), bool(sample), stdin)) != 1:
            raise WrongUsage("say what to reproduce: the name of an intent, or `--sample 100`, not both")
        settings = attach(Settings.from_env())
        period = None
        if sample:
            since, until = (micros_of(t) if t else None for t in (from_time, to_time))
            period = Period(sample, seed or secrets.token_hex(4), since, until, tuple(partition or ()))
        result = _run(settings, name, agent, period, stdin, any_engine, engines_folder)
        if output in (Format.JSON, Format.JSONL):
            print(
                json.dumps(result.as_json(), indent=2 if output is Format.JSON else None, ensure_ascii=False)
            )
        else:
            _print(result, output)
        if code := exit_code(result):
            raise typer.Exit(code)


def exit_code(result: Result) -> int:
    """0, 1 or 4, as the help says."""
    verdicts = set(result.intents.values())
    if DIFFERENT in verdicts:
        return EXIT_DIFFERENT
    return 0 if verdicts <= {SAME, SKIPPED} else EXIT_NOT_AT_HAND


def _run(
    settings: Settings, name: str, agent: str, period: Period | None, stdin: bool, any_engine: bool, where: Path | None
) -> Result:  # fmt: skip
    keys = Keys(settings.home)

    async def work(on_start: OnStart) -> Result:
        if stdin:
            return Result(rows=await here(settings, engines.unpacked(sys.stdin.buffer.read()), keys.open))
        by_generation: dict[int | None, Targets] = {}
        if period is not None:
            by_generation[settings.generation] = await drawn(settings, period, on_start)
        else:
            for event in (await named.find(settings, name, keys.open, agent=agent)).events:
                by_generation.setdefault(event.generation, Targets()).add([event])
        result = Result(seed=period.seed if period is not None else "")
        for number, targets in by_generation.items():
            there = replace(settings, generation=number) if settings.generation is not None else settings
            part = await reproduced(
                there, targets, keys.open, any_engine=any_engine, where=where, on_start=on_start
            )
            result.rows += part.rows
            result.seconds += part.seconds
        return result

    try:
        with bars("deciding again (offsets)") as on_start:
            return asyncio.run(work(on_start))
    finally:
        keys.close()


def _row(row: Remade) -> tuple[object, ...]:
    return (
        part_name(row.generation, row.partition), row.seq, row.intent_id, row.stage, row.status, row.verdict, row.field, row.recorded, row.remade,
        row.cause,
    )  # fmt: skip


def _print(result: Result, output: Format) -> None:
    rows = result.rows
    if output is not Format.CSV and len(rows) > SHOWN:  # what is the same is no news
        rows = [row for row in rows if row.verdict != SAME][:SHOWN]
    show(COLUMNS, [_row(row) for row in rows], output, "reproduce")
    if output is Format.CSV:
        return
    out = console()
    for why in sorted({f"{row.verdict}: {row.why}" for row in rows if row.why}):
        out.print(why, markup=False)
    seed = f", seed `{result.seed}`" if result.seed else ""
    out.print(f"{result.said}{seed}, by engine {result.engine} in {result.seconds:.1f} s", markup=False)
