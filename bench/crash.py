"""The crash matrix: every named point of the claim protocol x SIGKILL and SIGSTOP x four classes of tools.

    make crash                                              all of it
    make crash ARGS="--points claim.2 --signal stop"        what is chosen

One cell is a point and a signal: 200 calls of every class, side by side, at a real tool server that journals requests and
effects by key; three workers of the role concerned and one of them dies, or stands still until the others have
its partition and then goes on. Then every call is judged (`tests/crash/judge.py`) and the ledger is verified. At the end
the whole journal is judged again: nothing may have happened late.
Prints the matrix, writes `results/crash.json`, and ends with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.commands.output import Format, console, progress, show
from sluicegate.streams.failpoints import CLAIM_POINTS
from sluicegate.streams.stack import Role
from sluicegate.streams.verify import verify

from bench import common
from bench.common import Result
from tests.crash import judge, scenario
from tests.crash.harness import PARTITIONS, World, world
from tests.crash.judge import Journal, Life, Tally
from tests.crash.scenario import CLASSES, Call, Traffic
from tests.servers.tool_server import ToolProcess

PER_CLASS = 200
SIGNALS = ("kill", "stop")
WORKERS = 3
PASSES = {
    "claim.1.fetched": 3,
    "claim.2.sent": 3,
    "claim.3.committed": 3,
    "claim.4.called": 60,
    "claim.5.reported": 60,
}
"""The pass at which a point strikes: in the second of five rounds of calls, when much is in flight."""
SETTLE_LIMIT_S = 60.0
"""From the last answer until every call has an end: a lookup by key may still be under way."""


@dataclass(frozen=True)
class Cell:
    """A point of a protocol, and what happens there."""

    point: str
    how: str

    @property
    def role(self) -> str:
        """Whose worker it meets."""
        return "executor" if self.point.startswith("claim.") else "ledger"

    @property
    def failpoint(self) -> str:
        """For `SLUICEGATE_FAILPOINT`."""
        return f"{self.point}:{PASSES[self.point]}" + (":stop" if self.how == "stop" else "")


@dataclass
class Found:
    """What came of a cell. `broken`: what concerns no class alone."""

    cell: Cell
    tallies: dict[str, Tally] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    lives: dict[str, Life] = field(default_factory=dict)

    def passed(self, tool_class: str) -> bool:
        """Whether the class kept its promise."""
        tally = self.tallies.get(tool_class)
        return tally is not None and not tally.broken and not self.broken


class Matrix:
    """Cells, one after the other, in one environment."""

    def __init__(self, running: World, per_class: int) -> None:
        self._world = running
        self._per_class = per_class
        self.found: list[Found] = []

    def run(self, cell: Cell, on_answer: Callable[[int], None] = lambda _: None) -> Found:
        """One cell. Never raises for what goes wrong in it."""
        started = time.monotonic()
        found = Found(cell)
        self.found.append(found)
        try:
            self._run(cell, found, on_answer)
        except AssertionError as error:
            found.broken.append(str(error) or traceback.format_exc(limit=-2))
        found.seconds = time.monotonic() - started
        return found

    def _run(self, cell: Cell, found: Found, on_answer: Callable[[int], None]) -> None:
        running = self._world
        since = judge.ends(running.settings)
        victim = running.add(cell.role, cell.failpoint)
        try:
            played = self._strike(cell, victim, on_answer)
            found.calls = played.calls
            found.broken += [f"no answer to {ident}" for ident in played.unanswered]
            self._settle(found, since)
        finally:
            end(victim)
        running.wait_members(cell.role, WORKERS - 1)
        journal = Journal.read(running.tools.url)
        victims = frozenset((name_of(victim),)) if cell.role == "executor" else frozenset[str]()
        found.tallies = judge.judge(found.calls, found.lives, journal, victims)
        report = asyncio.run(verify(running.settings, clickhouse=False))
        if not report.ok:
            found.broken.append(f"ledger verify: {report.verdict}")

    def _strike(self, cell: Cell, victim: Role, on_answer: Callable[[int], None]) -> Traffic:
        """Traffic, and in the middle of it the blow."""
        running = self._world
        others = [r for r in running.running.roles if r is not victim and r.process.poll() is None]
        with playing(running, self._per_class, on_answer) as traffic:
            if cell.how == "kill":
                running.died(victim)
            else:
                running.stopped(victim)
                running.wait_members(cell.role, WORKERS - 1)  # past its session
                victim.process.send_signal(signal.SIGCONT)
        if cell.how == "stop":
            running.wait_members(cell.role, WORKERS)
            assert victim.process.poll() is None, f"the stopped {cell.role} died when it went on"
        died = [r.name for r in others if r.process.poll() is not None]
        assert not died, f"workers nobody killed died: {died}"
        return traffic

    def _settle(self, found: Found, since: dict[int, int]) -> None:
        deadline = time.monotonic() + SETTLE_LIMIT_S
        while True:
            found.lives = judge.lives(self._world.settings, since)
            if judge.settled(found.calls, found.lives) or time.monotonic() > deadline:
                return  # what is open is found by the judge
            time.sleep(0.5)

    def judge_again(self) -> list[str]:
        """What happened after its cell was judged, and should not have."""
        journal = Journal.read(self._world.tools.url)
        lives = {ident: life for f in self.found for ident, life in f.lives.items()}
        late = [f"key {key} was called without a permit" for key in judge.unpermitted(lives, journal)]
        for found in self.found:
            for call in found.calls:
                key = lives[call.intent_id].key if call.intent_id in lives else ""
                requests, effects = journal.requests.get(key, 0), journal.effects.get(key, 0)
                if broken := judge.over(call.tool_class, requests, effects):
                    late.append(f"{call.intent_id}: {broken}")
        return late


@contextmanager
def playing(running: World, per_class: int, on_answer: Callable[[int], None]) -> Iterator[Traffic]:
    """Traffic in a thread; complete when the block is left."""
    traffic = Traffic()
    raised: list[BaseException] = []
    mark = uuid.uuid4().hex[:8]

    def play() -> None:
        try:
            asyncio.run(scenario.play(running.settings, running.agents, mark, per_class, traffic, on_answer))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=play, name="traffic")
    thread.start()
    try:
        yield traffic
    finally:
        thread.join()
    if raised:
        raise raised[0]


def end(role: Role) -> None:
    """End a worker, wherever it stands."""
    if role.process.poll() is None:
        role.process.send_signal(signal.SIGCONT)
        role.process.terminate()
        role.process.wait(30)


def name_of(executor: Role) -> str:
    """What an executor's claims call it."""
    return f"{socket.gethostname()}-{executor.process.pid}"


@contextmanager
def matrix(per_class: int) -> Iterator[Matrix]:
    """A broker, a tool server, two executors and two ledger workers of three; each cell adds the third."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        release = scenario.write_release(home / "release")
        agents = scenario.agent_rows(PARTITIONS)
        with EmbeddedBroker(home / "kafka") as broker:
            workers = {"ledger": 1, "executor": WORKERS - 1}
            with world(
                broker.bootstrap, "", home, release, workers, tools=ToolProcess(), agents=agents
            ) as running:
                yield Matrix(running, per_class)


def chosen(points: list[str], signals: list[str]) -> list[Cell]:
    """The cells whose point begins with one of `points`."""
    cells = [Cell(point, how) for point in CLAIM_POINTS for how in signals]
    found = [cell for cell in cells if any(cell.point.startswith(p) for p in points or [""])]
    if not found:
        sys.exit(f"no point begins with `{' '.join(points)}`, choose from {', '.join(CLAIM_POINTS)}")
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
    with matrix(args.calls) as running:
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
