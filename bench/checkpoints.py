"""What trees and checkpoints cost, and how long a proof takes: `python -m bench checkpoints`.

Cost: one ledger process decides preloaded recorded calls, with and without the role `checkpointer` beside it, turn by turn on
the same broker and two cores; each intent leaves four leaves, heads are signed every 5 s as by default. Proof: a log of 10,000,000
events in tiles in a folder, made here without a ledger; each proof opens the tiles anew, as `sluicegate prove` does, and is
verified. Results: `bench/results/checkpoints.json`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.tiles import TileNodes, TileWriter
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import tile_store
from sluicegate.streams.transparency.checkpointer import Checkpointer
from sluicegate.streams.transparency.tile_store import FolderStore

from bench import common
from bench.common import Result, Worker
from bench.ledger import POLL_S, SESSIONS_PER_AGENT

COUNT = int(os.environ.get("BENCH_COUNT", "20000"))
RUNS = int(os.environ.get("BENCH_RUNS", "5"))
LEAVES = int(os.environ.get("BENCH_EVENTS", "10000000"))
PROOFS = 1_000
FLUSH = 1_000_000
"""Leaves between writes of tiles, as between checkpoints: memory stays at 32 MB."""
BAR_MS = 50.0
SIZE = "sluicegate_checkpoint_size"


@dataclass(frozen=True)
class Turn:
    """One run: intents a second, events on the ledger then, and the checkpointer's memory."""

    rate: float
    events: int
    rss_mb: float = 0.0


@dataclass(frozen=True)
class CatchUp:
    """A checkpointer that reads what is there as fast as it can: events a second, and microseconds of CPU for each."""

    rate: float
    cpu_us: float


def turn(base: Settings, name: str, count: int, *, tree: bool) -> Turn:
    """`count` intents through one ledger process, from its first to its last."""
    settings = common.environment(base, name)
    sessions = common.sessions_by_role(SESSIONS_PER_AGENT, name)
    opened = common.opens([s for group in sessions.values() for s in group])
    asyncio.run(common.publish(settings, "messages", opened))
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_inputs_total", len(opened))
    asyncio.run(common.publish(settings, "intents", common.intents(count, sessions, name)))
    if not tree:
        return Turn(*_decide(settings, count))
    with Worker(settings, "checkpointer") as beside:
        beside.wait(SIZE, 1)
        rate, events = _decide(settings, count)
        beside.wait(SIZE, events, poll_s=0.2)  # all of it is signed
        return Turn(rate, events, psutil.Process(beside.role.process.pid).memory_info().rss / 1e6)


async def catch_up(base: Settings, name: str, leaves: int) -> CatchUp:
    """In this process, on an environment whose ledger has so many events, with tiles of its own."""
    settings = replace(base, env=name, home=base.home / name)
    running = Checkpointer(settings, environ={"SLUICEGATE_TILES": str(settings.home / "again")})
    await running.start()
    started, busy = time.perf_counter(), time.process_time()
    while sum(t.size for t in running.trees) < leaves:
        await asyncio.sleep(0.01)
    took, busy = time.perf_counter() - started, time.process_time() - busy
    await running.stop()
    return CatchUp(leaves / took, busy / leaves * 1e6)


def _decide(settings: Settings, count: int) -> tuple[float, int]:
    """Intents a second, and how many events the ledger had then."""
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_inputs_total", 1)
        started, first = time.perf_counter(), worker.metric("sluicegate_ledger_inputs_total")
        worker.wait("sluicegate_ledger_inputs_total", count, poll_s=POLL_S)
        rate = (count - first) / (time.perf_counter() - started)
        return rate, int(worker.metric("sluicegate_ledger_seq"))


def cost() -> list[Result]:
    """The tree on and off."""
    off: list[Turn] = []
    on: list[Turn] = []
    again: list[CatchUp] = []
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as settings:
        turn(settings, "warm", COUNT // 4, tree=True)
        for run in range(RUNS):
            order = (False, True) if run % 2 == 0 else (True, False)
            for tree in order:
                (on if tree else off).append(
                    turn(settings, f"r{run}{'on' if tree else 'off'}", COUNT, tree=tree)
                )
            again.append(asyncio.run(catch_up(settings, f"r{run}off", off[-1].events)))
            print(
                f"run {run}: off {off[-1].rate:,.0f}/s, on {on[-1].rate:,.0f}/s, catching up {again[-1].rate:,.0f} events/s with "
                f"{again[-1].cpu_us:.1f} us of CPU each",
                flush=True,
            )
    with_tree, without = (common.median([t.rate for t in turns]) for turns in (on, off))
    conditions = f"{COUNT:,} recorded calls, medians of {RUNS} interleaved runs, load {os.getloadavg()[1]:.0f}, {common.machine()}"
    return [
        Result(
            "checkpoint.ledger_with_tree_per_s",
            with_tree,
            "intents/s",
            conditions,
            "without",
            with_tree / without,
        ),
        Result("checkpoint.cost_pct", 100 * (1 - with_tree / without), "%", f"bar 10; {conditions}"),
        Result(
            "checkpoint.catch_up_per_s",
            common.median([c.rate for c in again]),
            "events/s",
            f"from Kafka, {conditions}",
        ),
        Result(
            "checkpoint.cpu_us_per_event",
            common.median([c.cpu_us for c in again]),
            "us",
            f"catching up, {conditions}",
        ),
        Result("checkpoint.rss_mb", max(t.rss_mb for t in on), "MB", conditions),
    ]


def leaf(index: int) -> bytes:
    """A header's hash stands in for the header."""
    return hashlib.sha256(b"%d" % index).digest()


def proof() -> list[Result]:
    """Proofs from a log of ten million."""
    origin = checkpoints.origin_of("bench", bytes(16), 0)
    with tempfile.TemporaryDirectory() as folder:
        store, writer = FolderStore(Path(folder)), TileWriter()
        prefix = tile_store.folder_of(origin)
        started = time.perf_counter()
        for index in range(LEAVES):
            writer.append(leaf(index))
            if writer.size % FLUSH == 0 or writer.size == LEAVES:
                store.put((f"{prefix}/{tile.path}", data) for tile, data in writer.changed())
                writer.settled()
        built_s, root = time.perf_counter() - started, writer.root()
        rng, took = random.Random(1), []
        for index in (rng.randrange(LEAVES) for _ in range(PROOFS)):
            began = time.perf_counter()
            nodes = TileNodes(LEAVES, tile_store.reader(store, origin))
            path = merkle.inclusion_proof(index, LEAVES, nodes)
            took.append((time.perf_counter() - began) * 1e3)
            assert merkle.verify_inclusion(leaf(index), index, LEAVES, path, root)
        size_mb = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6
    conditions = (
        f"{LEAVES:,} events in {size_mb:,.0f} MB of tiles, {PROOFS} random ones, {len(path)} hashes, files in the page cache, "
        f"load {os.getloadavg()[1]:.0f}, {common.machine()}"
    )
    return [
        Result("checkpoint.proof_p50_ms", common.quantile(took, 0.5), "ms", conditions),
        Result("checkpoint.proof_max_ms", max(took), "ms", f"bar {BAR_MS:.0f}; {conditions}"),
        Result(
            "checkpoint.tiles_per_s",
            LEAVES / built_s,
            "leaves/s",
            f"one process, durable tiles, {conditions}",
        ),
    ]


def main() -> None:
    """Run and write the results."""
    common.write("checkpoints", proof() + cost())


if __name__ == "__main__":
    main()
