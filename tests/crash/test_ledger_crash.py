"""Ledger workers killed or stopped at every step of the commit protocol, under traffic."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest
from sluicegate.streams import demo
from sluicegate.streams.failpoints import LEDGER_POINTS

from tests.crash.harness import World, until, world

SESSIONS = 24
"""Of one case, from all four suites."""


@pytest.fixture(scope="module")
def running(kafka: str, clickhouse: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two ledger workers and an executor; each case adds the worker that will not survive it."""
    release = demo.examples() / "release"
    home = tmp_path_factory.mktemp("ledger-crash")
    with world(kafka, clickhouse, home, release, {"ledger": 2, "executor": 1}, each=1) as made:
        yield made


@pytest.mark.parametrize("point", LEDGER_POINTS)
def test_killed(running: World, point: str) -> None:
    """The others take over, everything gets an answer, and nothing happened twice."""
    victim = running.add("ledger", f"{point}:{2 if point == 'ledger.2.loaded' else 6}")
    asyncio.run(running.play(some_scripts()))
    running.died(victim)
    running.judge()
    running.wait_members("ledger", 2)


def test_stopped_in_a_transaction(running: World) -> None:
    """A worker that stands still past its session, in the middle of a transaction, is fenced when it goes on."""
    victim = running.add("ledger", "ledger.4.appended:6:stop")
    try:
        traffic = Traffic(running)
        running.stopped(victim)
        running.wait_members("ledger", 2)  # the others have its partition now
        traffic.join()  # and answer for it, while it holds a transaction that is already aborted
    finally:
        victim.process.send_signal(signal.SIGCONT)
    # Fenced by its successor; on a slow machine it slept past its own commit limit (20 s) and gives up first.
    fenced = ("tainted by ProducerFenced", "tainted by TimeoutError")
    until(lambda: any(f in victim.log.read_text() for f in fenced), "the stopped worker was fenced")
    running.wait_members("ledger", 3)
    asyncio.run(running.play(some_scripts(6)))  # it has a partition again, and takes part
    assert victim.process.poll() is None
    running.judge()
    victim.process.terminate()
    victim.process.wait(30)
    running.wait_members("ledger", 2)


def test_projector_killed(running: World) -> None:
    """Its rows are in ClickHouse and its manifest is not: the other one finds them, and writes none a second time."""
    victim = running.add("projector", "sink.3.inserted:2")

    async def play() -> None:
        while victim.process.poll() is None:
            await running.play(some_scripts(6))

    asyncio.run(play())
    running.died(victim)
    asyncio.run(running.play(some_scripts(6)))
    running.judge()
    running.wait_members("projector", 1)


def some_scripts(count: int = SESSIONS) -> list[demo.Script]:
    return demo.scripts(demo.examples(), demo.new_run())[:count]


class Traffic:
    """Recorded sessions, in a thread."""

    def __init__(self, running: World) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(running,))
        self._thread.start()

    def _run(self, running: World) -> None:
        try:
            asyncio.run(running.play(some_scripts()))
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error
