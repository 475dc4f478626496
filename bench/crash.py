"""The crash matrix: every named point of claims, commits and transfers x SIGKILL and SIGSTOP x four classes of tools.

    make crash                                              all of it: 30 cells of about 20 s
    make crash ARGS="--points claim.2 --signal stop"        what is chosen

One cell is a point and a signal: 200 calls of every class, side by side, at a real tool server that journals requests and
effects by key; three workers of the role concerned and one of them dies, or stands still until the others have
its partition and then goes on. Then every call is judged (`tests/crash/judge.py`) and the ledger is verified. At the end
the whole journal is judged again: nothing may have happened late.
Prints the matrix, writes `results/crash.json`, and ends with 1 when a promise was broken. Next: `tests/crash/matrix.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.commands.output import Format, console, progress, show

from bench import common
from bench.common import Result
from tests.crash import judge
from tests.crash.judge import Tally
from tests.crash.matrix import POINTS, SIGNALS, WORKERS, Cell, Found, matrix
from tests.crash.scenario import CLASSES

PER_CLASS = 200


def chosen(points: list[str], signals: list[str]) -> list[Cell]:
    """The cells whose point begins with one of `points`."""
    cells = [Cell(point, how) for point in POINTS for how in signals]
    found = [cell for cell in cells if any(cell.point.startswith(p) for p in points or [""])]
    if not found:
        sys.exit(f"no point begins with `{' '.join(points)}`, choose from {', '.join(POINTS)}")
    return found


COLUMNS = ("point", "signal", "class", "calls", "requests", "effects", "repeated", "in doubt", "ended otherwise", "promise")  # fmt: skip


def rows(found: Found) -> list[tuple[object, ...]]:
    """A line for each class."""
    lines: list[tuple[object, ...]] = []
    for name in CLASSES:
        tally = found.tallies.get(name, Tally())
        other = ", ".join(f"{count} {status}" for status, count in sorted(tally.statuses.items()) if status != "in_doubt")  # fmt: skip
        lines.append(
            (
                found.cell.point, found.cell.how, name, tally.calls, tally.requests, tally.effects, tally.repeated,
                tally.statuses["in_doubt"], other, "kept" if found.passed(name) else "BROKEN",
            )
        )  # fmt: skip
    return lines


def complaints(found: Found) -> list[str]:
    """One sentence for each broken promise."""
    said = [f"{found.cell.point} {found.cell.how}: {text}" for text in found.broken]
    for name, tally in found.tallies.items():
        for promise, idents in tally.broken.items():
            some = ", ".join(idents[: judge.SHOWN])
            said.append(
                f"{found.cell.point} {found.cell.how}, {name}: not `{promise}` for {len(idents)}: {some}"
            )
    return said


def report(found: list[Found], late: list[str], per_class: int) -> bool:
    """Print the matrix and write the results; whether every promise was kept."""
    show(COLUMNS, [row for f in found for row in rows(f)], Format.TABLE, "Crash matrix")
    said = [line for f in found for line in complaints(f)] + [f"after its cell: {line}" for line in late]
    for line in said:
        console().print(line, markup=False)
    total = len(found) * len(CLASSES)
    passed = 0 if late else sum(f.passed(name) for f in found for name in CLASSES)
    calls = sum(len(f.calls) for f in found)
    conditions = (
        f"{len(found)} points and signals x {len(CLASSES)} classes x {per_class} calls ({calls:,} calls, 3 of 10 at a faulty tool), "
        f"{WORKERS} workers of the role concerned, median {common.median([f.seconds for f in found]):.0f} s a cell, {common.machine()}"
    )
    common.write(
        "crash",
        [
            Result("crash.points_passed", passed, "cells", conditions),
            Result("crash.points_total", total, "cells", conditions),
        ],
    )
    return not said


def main() -> None:
    """Run the chosen cells."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__.splitlines()[0])
    parser.add_argument("--points", nargs="*", default=[], help="beginnings of names, such as claim.2")
    parser.add_argument("--signal", choices=SIGNALS, action="append", help="default: both")
    parser.add_argument("--calls", type=int, default=PER_CLASS, help="of each class in a cell")
    args = parser.parse_args()
    cells = chosen(args.points, args.signal or list(SIGNALS))
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedBroker(Path(folder) / "kafka") as broker,
        matrix(broker.bootstrap, Path(folder), args.calls) as running,
    ):
        for number, cell in enumerate(cells, 1):
            text = f"{number}/{len(cells)} {cell.point} {cell.how}"
            bar, advance = progress(text, args.calls * len(CLASSES))
            with bar:
                found = running.run(cell, advance)
            kept = "kept" if all(found.passed(name) for name in CLASSES) else "BROKEN"
            print(f"{text}: {kept}, {found.seconds:.0f} s", flush=True)
        late = running.judge_again()
    sys.exit(0 if report(running.found, late, args.calls) else 1)


if __name__ == "__main__":
    main()
