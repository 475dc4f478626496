"""Rebuild: a ledger of 1,000,000 events folded from Kafka and from ClickHouse, by one pinned process.

The events are those of real decisions: recorded calls over sessions, each routed, permitted, validated and offered, then
claimed and finished, made by the functions the ledger itself decides with and published as they are; so the bench does not
wait for agents. One partition is folded, so that one process does it. State bytes from both must be equal, and equal to
what a worker holds that recovered from the same ledger (its page `/state`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
import time
from pathlib import Path

from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.streams import stores
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.control import log as control_log
from sluicegate.streams.rebuild import live_state
from sluicegate.streams.rebuild.agent import fold_agent
from sluicegate.streams.rebuild.rebuild import AsOf, Folded, Task, fold
from sluicegate.streams.settings import Settings

from bench import common, rebuild_traffic
from bench.common import Result, Worker

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
CATCH_UP_S = 900.0


def pinned() -> None:
    """This process on one core: what it folds a second is what a core folds."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


async def _fold(source: str, settings: Settings, log_id: bytes) -> Folded:
    store = stores.make_store(source, settings, log_id)
    await store.open()
    try:
        return (await fold(store, Task(source, 0, log_id)))[0]
    finally:
        await store.close()


async def _agent(settings: Settings, log_id: bytes, until: int, agent: str) -> tuple[float, int]:
    store = stores.ClickHouseStore(settings, log_id)
    started = time.perf_counter()
    await store.open()
    try:
        found = await fold_agent(store, agent, 1, AsOf(until))
        return time.perf_counter() - started, found.state.seq
    finally:
        await store.close()


async def _project(settings: Settings, server: EmbeddedClickHouse, events: int) -> None:
    stop = asyncio.Event()
    projector = Projector(settings, str(settings.kafka), lambda: server.connect("sink"), None)
    task = asyncio.create_task(projector.run(stop))
    async with asyncio.timeout(CATCH_UP_S):
        while projector.rows < events:
            await asyncio.sleep(0.2)
    stop.set()
    await task


def run(base: Settings) -> list[Result]:
    """Make the ledger, then measure."""
    settings = dataclasses.replace(base, env="rebuild", partitions=1, home=base.home / "rebuild")
    made = asyncio.run(rebuild_traffic.publish(settings, EVENTS))
    log_id = asyncio.run(control_log.read(settings)).control.log_id
    print(f"{made.events:,} events published, {made.bytes / made.events:.0f} bytes each", flush=True)
    with EmbeddedClickHouse(settings.home) as server:
        asyncio.run(_project(settings, server, made.events))
        all_cores = os.sched_getaffinity(0)
        pinned()
        found: dict[str, list[Folded]] = {"kafka": [], "clickhouse": []}
        cpu: dict[str, list[float]] = {}
        for _ in range(RUNS):
            for source, runs in found.items():
                busy = time.process_time()
                one = asyncio.run(_fold(source, settings, log_id))
                cpu.setdefault(source, []).append((time.process_time() - busy) / one.events * 1e6)
                runs.append(one)
                print(
                    f"{source}: {one.events / one.seconds:,.0f} events/s, {cpu[source][-1]:.1f} us of CPU each",
                    flush=True,
                )
        middle = made.started_at + (made.ended_at - made.started_at) // 2
        agents = [asyncio.run(_agent(settings, log_id, middle, made.agent)) for _ in range(RUNS)]
        os.sched_setaffinity(0, all_cores)
    digests = {one.digest for runs in found.values() for one in runs}
    assert len(digests) == 1 and not any(one.broken for runs in found.values() for one in runs), found
    _live(settings, digests.pop(), made.events)
    rates = {
        source: common.median([one.events / one.seconds for one in runs]) for source, runs in found.items()
    }
    conditions = (
        f"{made.events:,} events of one partition, {made.sessions:,} sessions of {made.agents} agents, one process pinned to a core, "
        f"digest of the state included, medians of {RUNS} runs turn by turn, {common.machine()}"
    )
    return [
        Result("rebuild.kafka_events_per_s", rates["kafka"], "events/s",
               f"{common.median(cpu['kafka']):.1f} us of CPU each, {conditions}"),
        Result("rebuild.clickhouse_events_per_s", rates["clickhouse"], "events/s",
               f"{common.median(cpu['clickhouse']):.1f} us of CPU each, chDB on the same machine, {conditions}",
               "from Kafka", rates["clickhouse"] / rates["kafka"]),
        Result("rebuild.agent_s", common.median([s for s, _ in agents]), "s",
               f"one agent of {made.agents} as of the middle of that ledger, from ClickHouse, connecting included; {conditions}"),
    ]  # fmt: skip


def _live(settings: Settings, digest: str, events: int) -> None:
    """A worker that recovers from the same ledger holds the same state."""
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_seq", events)
        live = asyncio.run(live_state.ask_workers(settings))
    assert (live[0].seq, live[0].digest) == (events - 1, digest), live
    print("the worker's state is the same", flush=True)


def main() -> None:
    """Run and write the results."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder)) as running:
        base = Settings.from_env({"SLUICEGATE_HOME": folder})
        results = run(dataclasses.replace(base, kafka=running.bootstrap))
    common.write("rebuild", results)


if __name__ == "__main__":
    main()
