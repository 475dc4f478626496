"""Recovery of a partition, and a worker's memory.

Recovery: a worker with one partition of 100,000 events starts, without and with a snapshot. Memory: the resident set
of a worker after many intents over many sessions (each intent ends at authorization or expires open; see conditions).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import orjson
import psutil
from sluicegate.schemas.records import Intent, Message
from sluicegate.streams import kafka
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.recovery import recover
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result, Worker

EVENTS = int(os.environ.get("BENCH_EVENTS", "100000"))
INTENTS = int(os.environ.get("BENCH_INTENTS", "500000"))
SESSIONS = int(os.environ.get("BENCH_SESSIONS", "50000"))
BLOCK = 25_000
"""Intents published at a time, so that the bench itself stays small."""


async def _recover(settings: Settings, *, use_snapshot: bool) -> tuple[float, int]:
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=5))
    started = time.perf_counter()
    found = await recover(consumer, settings.space, 0, use_snapshot=use_snapshot)
    seconds = time.perf_counter() - started
    await consumer.stop()
    return seconds, found.folded


async def _snapshot(settings: Settings) -> None:
    service = LedgerService(settings, Keys(settings.home))
    await service.start()
    while not service.lanes or service.lanes[0].state.seq < EVENTS:
        await asyncio.sleep(0.05)
    await service.lanes[0].snapshot()
    await service.stop()


def bench_recovery(base: Settings) -> list[Result]:
    """One partition, folded from its first record, then from a snapshot."""
    settings = common.environment(dataclasses.replace(base, partitions=1), "rec")
    sessions = common.sessions_by_role(20, "rec")
    opened = common.opens([s for group in sessions.values() for s in group])
    asyncio.run(common.publish(settings, "messages", opened))
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_inputs_total", len(opened))
        asyncio.run(common.publish(settings, "intents", common.intents(EVENTS // 4 + 3_000, sessions, "rec")))
        worker.wait("sluicegate_ledger_seq", EVENTS, 600)
    full, folded = asyncio.run(_recover(settings, use_snapshot=False))
    asyncio.run(_snapshot(settings))
    short, rest = asyncio.run(_recover(settings, use_snapshot=True))
    conditions = f"one partition, {folded:,} events, one run, {common.machine()}"
    return [
        Result("recovery.events_per_s", folded / full, "events/s", conditions + ", without a snapshot"),
        Result("recovery.full_s", full, "s", conditions + ", without a snapshot"),
        Result(
            "recovery.snapshot_s",
            short,
            "s",
            conditions + f", with a snapshot, {rest} events folded after it",
        ),
    ]


def bench_memory(base: Settings) -> list[Result]:
    """Resident set of one worker over four partitions."""
    settings = common.environment(base, "mem")
    agents = common.agents("banking")
    arguments = orjson.dumps({"password": "x"})
    with Worker(settings) as worker:
        done = 0
        for at in range(0, SESSIONS, BLOCK):
            now = time.time_ns() // 1000
            block = [
                Message(f"o{n}", agents[n % len(agents)], f"s{n}", "session.open", now, on_behalf_of="bench")
                for n in range(at, min(SESSIONS, at + BLOCK))
            ]
            asyncio.run(common.publish(settings, "messages", list(block)))
            done += len(block)
            worker.wait("sluicegate_ledger_inputs_total", done, 600)
        for at in range(0, INTENTS, BLOCK):
            now = time.time_ns() // 1000
            chunk = [
                Intent(
                    f"i{n}", agents[n % SESSIONS % len(agents)], f"s{n % SESSIONS}", "tool_call",
                    "banking.update_password", arguments, now, now + 60_000_000,
                )
                for n in range(at, min(INTENTS, at + BLOCK))
            ]  # fmt: skip
            asyncio.run(common.publish(settings, "intents", list(chunk)))
            done += len(chunk)
            worker.wait("sluicegate_ledger_inputs_total", done, 600)
        rss = psutil.Process(worker.role.process.pid).memory_info().rss / 1e6
    conditions = (
        f"{INTENTS:,} intents (all refused by policy, all remembered) over {SESSIONS:,} open sessions, 4 partitions, "
        f"one worker process, one run, {common.machine()}"
    )
    return [Result("worker.rss_mb", rss, "MB", conditions)]


def main() -> None:
    """Run and write the results."""
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as settings:
        results = bench_recovery(settings)
        results += bench_memory(settings)
    common.write("recovery", results)


if __name__ == "__main__":
    main()
