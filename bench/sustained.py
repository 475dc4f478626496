"""All roles together for ten minutes: the demo's traffic over and over, at a rate they hold, with lag and memory.

The rate is what the closed loop of 32 sessions at once reaches on the machine, everything on it included: broker,
ClickHouse, tool server and load. `BENCH_MINUTES` shortens it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
from sluicegate.streams import demo, stack, topics
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result

MINUTES = float(os.environ.get("BENCH_MINUTES", "10"))
AT_ONCE = 32


async def _play(
    settings: Settings, folder: Path, ledger_mb: Callable[[], float]
) -> tuple[int, int, float, float]:
    """Calls, unanswered ones, seconds, and the ledger role's MB half-way."""
    calls = unanswered = 0
    half = 0.0
    started = time.perf_counter()
    async with Fleet(settings, await topics.partitions_of(settings)) as fleet:
        while time.perf_counter() - started < MINUTES * 60:
            fleet.results.clear()
            await fleet.play(demo.scripts(folder, demo.new_run()), lambda _: None, AT_ONCE, close=True)
            calls += len(fleet.results)
            unanswered += sum(1 for r in fleet.results if r.reply is None)
            if not half and time.perf_counter() - started > MINUTES * 30:
                half = ledger_mb()
    return calls, unanswered, time.perf_counter() - started, half


def main() -> None:
    """Run and write the results."""
    folder = demo.examples()
    tools = demo.ToolServer(folder)
    with tempfile.TemporaryDirectory() as home:
        settings = replace(Settings.from_env({"SLUICEGATE_HOME": home}))
        running = stack.start(settings, extra_env=tools.env(), say=print)
        try:
            tools.wait_ready()
            demo.wait_for_head(running, asyncio.run(demo.deploy(running.settings, folder)))
            ledger = next(r for r in running.roles if r.name == "ledger")
            asyncio.run(_warm(running.settings, folder))

            def ledger_mb() -> float:
                return float(psutil.Process(ledger.process.pid).memory_info().rss / 1e6)

            before = ledger_mb()
            calls, unanswered, seconds, half = asyncio.run(_play(running.settings, folder, ledger_mb))
            after = ledger_mb()
            lag = sum(
                max(0.0, demo.metric(r.announce, "sluicegate_sink_lag"))
                for r in running.roles
                if r.name == "projector"
            )
        finally:
            running.stop()
            tools.stop()
    conditions = f"{seconds / 60:.1f} min, {AT_ONCE} sessions at once, each closed at its end, {calls:,} calls, all roles and the load on {common.machine()}"
    common.write(
        "sustained",
        [
            Result("e2e.sustained_intents_per_s", calls / seconds, "intents/s", conditions),
            Result("e2e.unanswered", unanswered, "intents", conditions),
            Result("e2e.sink_lag_at_end", lag, "events", conditions),
            Result("e2e.ledger_rss_start_mb", before, "MB", conditions),
            Result("e2e.ledger_rss_half_mb", half, "MB", conditions),
            Result("e2e.ledger_rss_end_mb", after, "MB", conditions),
        ],
    )


async def _warm(settings: Settings, folder: Path) -> None:
    async with Fleet(settings, await topics.partitions_of(settings)) as fleet:
        await fleet.play(demo.scripts(folder, demo.new_run())[:100], lambda _: None, AT_ONCE)


if __name__ == "__main__":
    main()
