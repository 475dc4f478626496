"""The full ledger against a Faust agent that only passes events through: same broker, same machine, turn by turn.

Ledger: one worker process, unsigned, and once more with every intent signed by its agent; each intent is routed, conformed, authorized by Cedar, validated and planned,
with its four outcomes sealed, chained and committed in a transaction. Faust: one process, one event in, one out.
The intents are preloaded; the clock runs from the first to the last one processed. Nobody executes what is offered, so a
run must end before the oldest offer is made again (7 s): 20,000 intents. A first turn, not counted, warms the broker up.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from sluicegate.schemas import codec
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings

from bench import common, signed
from bench.common import Result, Worker

COUNT = int(os.environ.get("BENCH_COUNT", "20000"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
WARM_UP = COUNT // 4
SESSIONS_PER_AGENT = 20
POLL_S = 0.1
"""Between looks at the worker's metrics: each costs it a millisecond."""


@dataclass(frozen=True)
class Turn:
    """One run of the ledger: intents a second, and microseconds of CPU (user and system) of its process for each."""

    rate: float
    cpu_us: float


def run_ledger(base: Settings, name: str, count: int, signing: str = "dev") -> Turn:
    """One process from the first to the last of `count` intents."""
    settings = common.environment(base, name, signing)
    encode = signed.register(settings).sign if signing == "signed" else codec.encode
    sessions = common.sessions_by_role(SESSIONS_PER_AGENT, name)
    opened = common.opens([s for group in sessions.values() for s in group])
    asyncio.run(common.publish(settings, "messages", opened, encode))
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_inputs_total", len(opened))
    asyncio.run(common.publish(settings, "intents", common.intents(count, sessions, name), encode))
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_inputs_total", 1)
        process = psutil.Process(worker.role.process.pid)
        started, busy = time.perf_counter(), _cpu_s(process)
        first = worker.metric("sluicegate_ledger_inputs_total")
        worker.wait("sluicegate_ledger_inputs_total", count, poll_s=POLL_S)
        took, busy = time.perf_counter() - started, _cpu_s(process) - busy
        return Turn((count - first) / took, busy / (count - first) * 1e6)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _faust_topics(settings: Settings, name: str) -> None:
    client = await kafka.connect(kafka.admin(settings))
    await client.create_topics([NewTopic(f"{name}.source", 4, 1), NewTopic(f"{name}.target", 4, 1)])
    await client.close()


async def _load_source(settings: Settings, name: str, count: int) -> None:
    producer = await kafka.connect(kafka.producer(settings, linger_ms=5))
    sessions = common.sessions_by_role(SESSIONS_PER_AGENT, name)
    for record in common.intents(count, sessions, name):
        await producer.send(f"{name}.source", codec.encode(record), key=record.agent_id.encode())
    await producer.stop()


async def _watch_target(settings: Settings, name: str, count: int) -> float:
    consumer = await kafka.connect(kafka.consumer(settings))
    places = [TopicPartition(f"{name}.target", p) for p in range(4)]

    async def total() -> int:
        return sum((await consumer.end_offsets(places)).values())

    deadline = time.monotonic() + 120
    while await total() == 0 and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    started, first = time.perf_counter(), await total()
    done = first
    while done < count and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        done = await total()
    rate = (done - first) / (time.perf_counter() - started)
    await consumer.stop()
    return rate


def run_faust(base: Settings, name: str, count: int) -> float:
    """Events a second."""
    asyncio.run(_faust_topics(base, name))
    asyncio.run(_load_source(base, name, count))
    data = base.home / name
    data.mkdir()
    env = {
        **os.environ,
        "BENCH_ID": name,
        "BENCH_KAFKA": base.kafka or "",
        "BENCH_SOURCE": f"{name}.source",
        "BENCH_TARGET": f"{name}.target",
        "BENCH_DATA": str(data),
    }
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.faust_passthrough", "-L", "uvloop", "worker"],
            env=env, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        return asyncio.run(_watch_target(base, name, count))
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Run and write the results."""
    ledger: list[Turn] = []
    faust: list[float] = []
    with_signatures: list[Turn] = []
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as settings:
        run_ledger(settings, "lw", WARM_UP)
        run_faust(settings, "fw", WARM_UP)
        for run in range(RUNS):
            ledger.append(run_ledger(settings, f"l{run}", COUNT))
            faust.append(run_faust(settings, f"f{run}", COUNT))
            with_signatures.append(run_ledger(settings, f"s{run}", COUNT, "signed"))
            rates = (
                f"ledger {ledger[-1].rate:,.0f}/s with {ledger[-1].cpu_us:.0f} us of CPU each, faust {faust[-1]:,.0f}/s, "
                f"signed {with_signatures[-1].rate:,.0f}/s"
            )
            print(f"run {run}: {rates}", flush=True)
    conditions = (
        f"{COUNT:,} recorded calls preloaded, 4 partitions, one process each, unsigned, medians of {RUNS} "
        f"interleaved runs, {common.machine()}"
    )
    a, c = (common.median([turn.rate for turn in turns]) for turns in (ledger, with_signatures))
    b = common.median(faust)
    verified = conditions.replace("unsigned", "Ed25519 checked, dispatches signed (HS256)")
    cpu = common.median([turn.cpu_us for turn in ledger])
    conditions += f", {cpu:.0f} us of CPU (user and system) of the ledger process for each intent"
    common.write(
        "ledger",
        [
            Result("ledger.intents_per_s", a, "intents/s", conditions),
            Result("ledger.vs_faust", a, "intents/s", conditions, "faust pass-through events/s", a / b),
            Result("ledger.signed_intents_per_s", c, "intents/s", verified, "unsigned intents/s", c / a),
        ],
    )


if __name__ == "__main__":
    main()
