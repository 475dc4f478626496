"""`sluicegate dead-letters list | show | redrive`: what nobody could read."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.markup import escape
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.times import iso
from sluicegate.streams import dead_letters as store
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.dead_letters import Letter
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings

COLUMNS = ("letter", "seen", "from", "reason", "bytes", "redrive", "detail")
EXIT_FOUND = 1
WIDTH = 16
"""Bytes of one line of a hex dump."""

dead = typer.Typer(help="Records nobody could read.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dead, name="dead-letters")


@dead.command("list")
def list_letters(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="the newest so many")] = 50,
    output: OutputOption = Format.TABLE,
) -> None:
    """List dead letters, newest last, e.g. `sluicegate dead-letters list`."""
    letters, strange = asyncio.run(store.read(attach(Settings.from_env()), limit=limit))
    show(COLUMNS, [_row(letter) for letter in letters], output)
    if strange:
        console().print(f"and {strange} records on the topic are no dead letters")


@dead.command("show")
def show_letter(
    letter: Annotated[int, typer.Argument(help="its number in the list")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Show one dead letter with its bytes, e.g. `sluicegate dead-letters show 12`."""
    letters, _ = asyncio.run(store.read(attach(Settings.from_env())))
    [found] = store.pick(letters, [letter])
    row = dict(zip(COLUMNS, _row(found), strict=True))
    if output in (Format.JSON, Format.JSONL):
        row |= {"sha256": found.letter.sha256.hex(), "head": found.letter.head.hex()}
        print(json.dumps(row, indent=2 if output is Format.JSON else None, default=str))
        return
    out = console()
    for name, value in row.items():
        out.print(f"{name:<8} {escape(str(value))}")
    reason = REASONS.get(found.letter.reason)
    if reason is not None:
        out.print(f"{'remedy':<8} {escape(reason.remedy)}")
    for line in hex_dump(found.letter.head):
        out.print(escape(line))


@dead.command("redrive")
def redrive_letters(
    letters: Annotated[list[int], typer.Argument(help="their numbers in the list")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be published only")] = False,
) -> None:
    """Publish complete dead letters again where they came from, e.g. `sluicegate dead-letters redrive 12 --dry-run`.

    The ledger decides them as new inputs: useful after an upgrade that can read them, or after a key was registered.
    """
    settings = attach(Settings.from_env())
    all_letters, _ = asyncio.run(store.read(settings))
    chosen = store.pick(all_letters, letters)
    out = console()
    refused = [letter for letter in chosen if letter.obstacle]
    for letter in refused:
        out.print(
            f"[red]{letter.offset}[/red] from {letter.place} cannot be redriven: {escape(letter.obstacle)}"
        )
    ready = [letter for letter in chosen if not letter.obstacle]
    if not dry_run:
        asyncio.run(store.redrive(settings, ready))
    for letter in ready:
        done = "would go" if dry_run else "went"
        out.print(
            f"{letter.offset} {done} to {letter.letter.topic}/{letter.letter.partition}: {letter.letter.length:,} bytes"
        )
    if refused:
        raise typer.Exit(EXIT_FOUND)


def _row(item: Letter) -> tuple[object, ...]:
    letter = item.letter
    seen = iso(letter.seen_at)
    can = "no" if item.obstacle else "yes"
    return (str(item.offset), seen, item.place, letter.reason, letter.length, can, letter.detail[:200])


def hex_dump(data: bytes) -> list[str]:
    """Lines of offset, hex and text."""
    lines = []
    for at in range(0, len(data), WIDTH):
        part = data[at : at + WIDTH]
        text = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in part)
        lines.append(f"{at:04x}  {part.hex(' '):<{WIDTH * 3}} {text}")
    return lines
