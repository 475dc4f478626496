"""`ledger verify`: events a second of one process pinned to a core, from Kafka; and how many kinds of tampering it finds.

The ledger is `rebuild`'s: recorded calls, decided by the ledger's own functions, in one partition. Timed is all of `verify` but
ClickHouse and the input topics, which that ledger has not: reading from Kafka, chain, hashes, lives, budgets, releases, tree. The tree
is grown and compared with a head that a checkpointer's key signed, and with its tiles. Next: docs/verify.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
import time
from pathlib import Path

from sluicegate.processors.transparency import checkpoints
from sluicegate.streams import kafka
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.control import identities
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.head_signer import HeadSigner
from sluicegate.streams.transparency.log_tree import LogTree
from sluicegate.streams.transparency.tile_store import store_of
from sluicegate.streams.verify.ledger import Report, verify

from bench import common, rebuild_traffic
from bench.common import Result
from tests.mutations.__main__ import on_clickhouse
from tests.mutations.table import results

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))


async def _sign(settings: Settings) -> int:
    """Tiles and a signed head of the ledger as it is: what a checkpointer leaves behind."""
    control = (await control_log.read(settings)).control
    tree = LogTree(store_of(settings), settings.env, control.log_id, 0)
    tree.open(checkpoints.keys_of(control))
    consumer = await kafka.connect(kafka.consumer(settings))
    try:
        [stretch] = await stretches(consumer, places(settings.space, "outcomes", [0]))
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                tree.add(record.offset, record.value)
    finally:
        await consumer.stop()
    chosen = HeadSigner(settings.home, os.environ).choose(control, time.time_ns() // 1_000_000_000)
    signed = tree.seal(chosen.key.public, chosen.key.kid, chosen.signer, time.time_ns() // 1_000_000_000)
    assert signed is not None
    return signed.head.size


def run(base: Settings) -> list[Result]:
    """Make the ledger, then measure."""
    settings = dataclasses.replace(base, env="verify", partitions=1, home=base.home / "verify")
    made = asyncio.run(rebuild_traffic.publish(settings, EVENTS))
    keys = Keys(settings.home)
    if not checkpoints.keys_of(asyncio.run(control_log.read(settings)).control):
        asyncio.run(identities.new_key(settings, keys, "log", checkpoints.ROLE, "bench"))
    keys.close()
    size = asyncio.run(_sign(settings))
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(all_cores)})
    runs: list[tuple[Report, float]] = []
    for _ in range(RUNS):
        busy = time.process_time()
        report = asyncio.run(verify(settings, inputs=False, clickhouse=False))
        runs.append((report, (time.process_time() - busy) / report.events * 1e6))
        assert report.ok and report.events >= made.events, report.as_json()
        assert report.partitions[0].checkpoints["verdict"] == "same", report.partitions[0].checkpoints
        print(f"{report.events / report.seconds:,.0f} events/s, {runs[-1][1]:.1f} us of CPU each", flush=True)
    os.sched_setaffinity(0, all_cores)
    rate = common.median([report.events / report.seconds for report, _ in runs])
    cpu = common.median([us for _, us in runs])
    found, rows = results(), on_clickhouse()
    good = sum(one.ok for one in found) + sum(rows.values())
    conditions = (
        f"{made.events:,} events of {made.bytes / made.events:.0f} bytes in one partition, one process pinned to a core, from Kafka, "
        f"tree and tiles of {size:,} leaves compared, {cpu:.1f} us of CPU each, medians of {RUNS} runs, {common.machine()}"
    )
    table = "docs/mutations.md; chDB for those of its rows"
    return [
        Result("verify.events_per_s", rate, "events/s", conditions),
        Result("verify.cpu_us", cpu, "us of CPU an event", conditions),
        Result("verify.mutations_found", good, "kinds of tampering", table),
        Result("verify.mutations_total", len(found) + len(rows), "kinds of tampering", table),
    ]


def main() -> None:
    """Run and write the results."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder)) as running:
        base = Settings.from_env({"SLUICEGATE_HOME": folder})
        found = run(dataclasses.replace(base, kafka=running.bootstrap))
    common.write("verify", found)


if __name__ == "__main__":
    main()
