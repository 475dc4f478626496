"""`sluicegate archive run | list | verify | trim`: old records of the ledger in files, and Kafka without them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from sluicegate.streams.archive.archiving import KEEP_US, Archiving, Cut, Part
from sluicegate.streams.commands.output import Format, OutputOption, console, progress, show
from sluicegate.streams.commands.spans import span_us
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings

archive = typer.Typer(help="Old records of the ledger, kept outside of Kafka.", no_args_is_help=True)
EXIT_BAD = 1

DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done only")]
LISTED = ("partition", "archived", "kafka begins at")
COPIED = ("partition", "copied", "archived")
CHECKED = ("partition", "events", "checkpoint", "verdict")
CUTS = (
    "partition",
    "forgets",
    "before offset",
    "archived",
    "in clickhouse",
    "snapshot",
    "old enough",
    "bound by",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(archive, name="archive")


@archive.command("run")
def archive_run(dry_run: DryRun = False, output: OutputOption = Format.TABLE) -> None:
    """Copy what Kafka has beyond the archive, e.g. `sluicegate archive run`; run it every hour, by cron.

    Whole bundles of 256 events. Nothing is deleted; killed, it goes on where it was.
    """
    parts = asyncio.run(_run(attach(Settings.from_env()), dry_run))
    show(COPIED, [(p.partition, p.copied, p.archived) for p in parts], output)


async def _run(settings: Settings, dry_run: bool) -> list[Part]:
    bar, advance = progress("archiving (events)", None)
    with bar:
        async with await _open(settings) as made:
            return await made.copy(advance, dry_run=dry_run)


@archive.command("list")
def archive_list(output: OutputOption = Format.TABLE) -> None:
    """How far each partition is archived, and where Kafka begins, e.g. `sluicegate archive list`."""
    parts = asyncio.run(_list(attach(Settings.from_env())))
    show(LISTED, [(p.partition, p.archived, p.kafka_begin) for p in parts], output)


async def _list(settings: Settings) -> list[Part]:
    async with await _open(settings) as made:
        return await made.state()


@archive.command("verify")
def archive_verify(output: OutputOption = Format.TABLE) -> None:
    """Read the archive back, e.g. `sluicegate archive verify`: every record against its header, every header against the tree, the
    tree against the signed checkpoint, and its end against Kafka.

    Exit code 1 when something is wrong. `ledger verify` reads the archive, too, where Kafka has let go.
    """
    parts = asyncio.run(_verify(attach(Settings.from_env())))
    rows = [
        (
            p.partition,
            p.archived,
            p.checkpoint if p.checkpoint >= 0 else "none",
            "; ".join(p.problems) or "intact",
        )
        for p in parts
    ]
    show(CHECKED, rows, output)
    if any(p.problems for p in parts):
        raise typer.Exit(EXIT_BAD)


async def _verify(settings: Settings) -> list[Part]:
    bar, advance = progress("reading the archive (events)", None)
    with bar:
        async with await _open(settings) as made:
            return await made.check(advance)


@archive.command("trim")
def archive_trim(
    keep: Annotated[str, typer.Option("--keep", help="what Kafka keeps anyway: 7d, 12h")] = "7d",
    dry_run: DryRun = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let Kafka forget old records of the ledger, e.g. `sluicegate archive trim --keep 30d --dry-run`.

    Only what is archived and read back just now, in ClickHouse, below a snapshot, and older than `--keep`. Who reads the ledger
    reads what is gone from the archive. `in clickhouse` is counted only as far as the other three reach.
    """
    keep_us = span_us(keep) if keep else KEEP_US
    cuts = asyncio.run(_trim(attach(Settings.from_env()), keep_us, dry_run))
    rows = [(*_row(cut), cut.bound_by) for cut in cuts]
    show(CUTS, rows, output)
    if output is Format.TABLE and dry_run:
        console().print("nothing was done: --dry-run", markup=False)


def _row(cut: Cut) -> tuple[object, ...]:
    told = asdict(cut)
    names = ("partition", "events", "before_offset", "archived", "in_clickhouse", "snapshot", "old")
    return tuple(told[name] for name in names)


async def _trim(settings: Settings, keep_us: int, dry_run: bool) -> list[Cut]:
    bar, advance = progress("checking what goes (events)", None)
    with bar:
        async with await _open(settings) as made:
            cuts = await made.cuts(keep_us)
            if not dry_run:
                await made.trim(cuts, advance)
            return cuts


async def _open(settings: Settings) -> Archiving:
    return Archiving(settings, (await control_log.read(settings)).control)
