"""A cell of the crash matrix: a worker of three dies at a point, or stands still there, in the middle of traffic.

    with matrix(bootstrap, home, per_class=200) as m:
        found = m.run(Cell("claim.4.called", "kill"))
        ...
        m.judge_again()

All cells of a matrix share an environment. A worker that stands still is woken when the others have its partition, and
has to find out that it is none of its any more. Never raises for a promise that was broken: that is in `Found`.
Next: `scenario.py` (the traffic), `judge.py` (the promises), `bench/crash.py` (all cells).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.streams.failpoints import CLAIM_POINTS, LEDGER_POINTS, TRANSFER_POINTS
from sluicegate.streams.stack import Role
from sluicegate.streams.verify.ledger import verify

from tests.crash import judge, scenario
from tests.crash.harness import PARTITIONS, World, world
from tests.crash.judge import Journal, Record, Tally
from tests.crash.scenario import Call, Traffic
from tests.servers.tool_server import ToolProcess

SIGNALS = ("kill", "stop")
WORKERS = 3
POINTS = (*CLAIM_POINTS, *LEDGER_POINTS, *TRANSFER_POINTS)
PASSES = {"claim": 3, "ledger": 12, "transfer": 3}
"""Protocol -> the pass at which its points strike: early in the second of five rounds of calls, when much is in flight."""
CALL_PASSES = 60
"""The same for what is passed by every call, not by batches."""
BY_CALL = ("claim.4.called", "claim.5.reported")
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
        passes = CALL_PASSES if self.point in BY_CALL else PASSES[self.point.partition(".")[0]]
        return f"{self.point}:{passes}" + (":stop" if self.how == "stop" else "")


@dataclass
class Found:
    """What came of a cell. `broken`: what concerns no class alone."""

    cell: Cell
    tallies: dict[str, Tally] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    handed: list[str] = field(default_factory=list)
    record: Record = field(default_factory=Record)

    def passed(self, tool_class: str) -> bool:
        """Whether the class kept its promise."""
        tally = self.tallies.get(tool_class)
        return tally is not None and not tally.broken and not self.broken


class Matrix:
    """Cells, one after the other, in one environment."""

    def __init__(self, running: World, per_class: int, teams: list[list[str]]) -> None:
        self._world = running
        self._per_class = per_class
        self._teams = iter(teams)
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
            found.broken += [last_words(r) for r in self._world.running.roles if r.process.poll()]
        found.seconds = time.monotonic() - started
        return found

    def _run(self, cell: Cell, found: Found, on_answer: Callable[[int], None]) -> None:
        running = self._world
        self._crew(cell.role)
        running.agents = next(self._teams)
        since = judge.ends(running.settings)
        victim = running.add(cell.role, cell.failpoint)
        try:
            played = self._strike(cell, victim, on_answer)
            found.calls, found.handed = played.calls, played.handed
            found.broken += [f"no answer to {ident}" for ident in played.unanswered]
            self._settle(found, since)
        finally:
            end(victim)
        running.wait_members(cell.role, WORKERS - 1)
        journal = Journal.read(running.tools.url)
        victims = frozenset((name_of(victim),)) if cell.role == "executor" else frozenset[str]()
        found.tallies = judge.judge(found.calls, found.record.lives, journal, victims)
        found.broken += judge.hand_offs(found.handed, found.record)
        report = asyncio.run(verify(running.settings, clickhouse=False))
        if not report.ok:
            found.broken.append(f"ledger verify: {report.verdict}")

    def _crew(self, role: str) -> None:
        """Three workers of the other role, and of this one as many as go with a victim."""
        for name in ("executor", "ledger"):
            alive = [r for r in self._world.running.roles if r.name == name and r.process.poll() is None]
            wanted = WORKERS - (name == role)
            for worker in alive[wanted:]:
                end(worker)
            for _ in range(wanted - len(alive)):
                self._world.add(name)
            self._world.wait_members(name, wanted)

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
            found.record = judge.read(self._world.settings, since)
            if judge.settled(found.calls, found.record.lives) or time.monotonic() > deadline:
                return  # what is open is found by the judge
            time.sleep(0.5)

    def judge_again(self) -> list[str]:
        """What happened after its cell was judged, and should not have."""
        journal = Journal.read(self._world.tools.url)
        lives = {ident: life for f in self.found for ident, life in f.record.lives.items()}
        late = [f"key {key} was called without a permit" for key in judge.unpermitted(lives, journal)]
        for found in self.found:
            known = {
                ident for t in found.tallies.values() for idents in t.broken.values() for ident in idents
            }
            for call in found.calls:
                if call.intent_id in known:
                    continue
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


def last_words(role: Role) -> str:
    """What a worker that ended said last."""
    lines = role.log.read_text(errors="replace").splitlines() or [""]
    return f"{role.name} {role.process.pid} ended with {role.process.returncode}: {lines[-1][:200]}"


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
def matrix(bootstrap: str, home: Path, per_class: int) -> Iterator[Matrix]:
    """A tool server, two executors and two ledger workers; each cell adds what is missing."""
    release = scenario.write_release(home / "release")
    workers = {"ledger": WORKERS - 1, "executor": WORKERS - 1}
    teams = scenario.agent_rows(PARTITIONS, len(POINTS) * len(SIGNALS))
    rows = [row for team in teams for row in team]
    with world(bootstrap, "", home, release, workers, tools=ToolProcess(), agents=rows) as running:
        yield Matrix(running, per_class, [[str(row["agent_id"]) for row in team] for team in teams])
