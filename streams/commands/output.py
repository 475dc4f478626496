"""How commands print: tables on a terminal, plain lines elsewhere, and `-o json|jsonl|csv` everywhere.

Colours and progress bars appear on a terminal only. Next: any command beside this file.
"""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
TENTHS_FROM = 100.0
"""From here on a number is told to the tenth, below it to four digits."""
Row = Sequence[object]


class Format(StrEnum):
    """Output formats of listings."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


OutputOption = Annotated[Format, typer.Option("-o", "--output", help="table, json, jsonl or csv")]


def console() -> Console:
    """Rich on stdout: colours only on a terminal, and no wrapping of lines elsewhere."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


def progress(description: str, total: int | None) -> tuple[Progress, Callable[[int], None]]:
    """A progress bar on stderr, silent where stderr is no terminal, and a function that advances it."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    task = bar.add_task(description, total=total)
    return bar, lambda count: bar.advance(task, count)


@contextmanager
def bars(*texts: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """`on_start(total)` for work that finds out itself how much there is: each time it is called, the next bar.

    The nth one is described by the nth text, further ones by the last.
    """
    shown: list[Progress] = []

    def on_start(total: int) -> Callable[[int], None]:
        bar, advance = progress(texts[min(len(shown), len(texts) - 1)], total)
        for before in shown:
            before.stop()
        shown.append(bar)
        bar.start()
        return advance

    try:
        yield on_start
    finally:
        for bar in shown:
            bar.stop()


def show(columns: Sequence[str], rows: Sequence[Row], output: Format, title: str = "") -> None:
    """Print a listing in the format asked for."""
    if output is Format.JSON:
        found = [dict(zip(columns, r, strict=True)) for r in rows]
        print(json.dumps(found, indent=2, default=str, ensure_ascii=False))
    elif output is Format.JSONL:
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str, ensure_ascii=False))
    elif output is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        _table([printable(name) for name in columns], rows, printable(title))


def _table(columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    if not sys.stdout.isatty():
        _plain(columns, rows, title)
        return
    # `Text`: what stands in a ledger is no markup of ours, nor an end of it.
    table = Table(title=Text(title) if title else None, title_justify="left", header_style="bold")
    for name in columns:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*[Text(_cell(v)) for v in row])
    console().print(table)
    if not rows:
        console().print("none", style="dim")


def _plain(columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    cells = [[_cell(v) for v in row] for row in rows]
    widths = [max([len(c), *(len(r[i]) for r in cells)]) for i, c in enumerate(columns)]
    if title:
        print(title)
    print("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    for row in cells:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= TENTHS_FROM else f"{value:.4g}"  # a share of 0.04 is not 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    # INVARIANT: no cell moves the cursor or hides a letter (tests/unit/test_output.py).
    return "" if value is None else printable(str(value), keep="\n\t")


MIN_RATED = 100_000
"""Events from which a rate is printed: below it is mostly the start of processes and the first reads."""


def took(events: int, seconds: float) -> str:
    """How long it took, and how many a second where that says something."""
    return f"{seconds:.1f} s" + (f", {events / seconds:,.0f}/s" if events >= MIN_RATED and seconds else "")


def printable(text: str, keep: str = "") -> str:
    """Every letter that does not show itself, as its code."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else f"\\u{ord(c):04x}" for c in text)


def run(work: Awaitable[T]) -> T:
    """Run a command's coroutine."""

    async def wrapped() -> T:
        return await work

    return asyncio.run(wrapped())
