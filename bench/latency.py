"""Latency at 200 a second: a decision against an empty transactional hop, turn by turn; then a read-only call.

Decision: publish an intent until a read_committed reader sees its `dispatched` outcome. Hop: publish until the same
kind of reader sees its record. Call: publish until the reply, over ledger, executor and an instant local HTTP tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import uvloop
from aiohttp import web
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from sluicegate.schemas import codec
from sluicegate.schemas.records import Header, Intent, Outcome
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result, Worker, quantile

RATE = 200
SECONDS = int(os.environ.get("BENCH_SECONDS", "6"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
WARM_UP = 100
PARTITIONS = 4


async def paced(
    settings: Settings,
    topic: str,
    values: list[tuple[str, bytes, bytes]],
    watch: str,
    seen: Callable[[bytes], str],
) -> list[float]:
    """Publish (id, key, value) at RATE; seconds from publish until `watch` shows the id, without the warm-up."""
    producer = await kafka.connect(kafka.producer(settings))
    consumer = await kafka.connect(kafka.consumer(settings))
    places = [TopicPartition(watch, p) for p in range(PARTITIONS)]
    consumer.assign(places)
    await consumer.seek_to_end(*places)
    for place in places:
        await consumer.position(place)
    sent: dict[str, float] = {}
    waits: dict[str, float] = {}

    async def read() -> None:
        while len(waits) < len(values):
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                now = time.perf_counter()
                for record in records:
                    ident = seen(record.value)
                    if ident in sent and ident not in waits:
                        waits[ident] = now - sent[ident]

    reader = asyncio.create_task(read())
    started = time.perf_counter()
    for n, (ident, key, value) in enumerate(values):
        delay = started + n / RATE - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        sent[ident] = time.perf_counter()
        await producer.send(topic, value, key=key, partition=partition_of(key.decode(), PARTITIONS))
    async with asyncio.timeout(30):
        await reader
    await producer.stop()
    await consumer.stop()
    return [waits[i] for i, _, _ in values[WARM_UP:]]


def run_hop(settings: Settings, name: str) -> list[float]:
    """Seconds."""

    async def topics() -> None:
        client = await kafka.connect(kafka.admin(settings))
        await client.create_topics([NewTopic(f"{name}.{t}", PARTITIONS, 1) for t in ("source", "target")])
        await client.close()

    async def ready() -> None:
        """Until every partition echoes a probe."""
        producer = await kafka.connect(kafka.producer(settings))
        consumer = await kafka.connect(kafka.consumer(settings))
        places = [TopicPartition(f"{name}.target", p) for p in range(PARTITIONS)]
        for p in range(PARTITIONS):
            await producer.send(f"{name}.source", b"probe000", key=b"k", partition=p)
        async with asyncio.timeout(30):
            while min((await consumer.end_offsets(places)).values()) < 4:
                await asyncio.sleep(0.05)
        await producer.stop()
        await consumer.stop()

    asyncio.run(topics())
    env = {
        **os.environ,
        "BENCH_KAFKA": settings.kafka or "",
        "BENCH_SOURCE": f"{name}.source",
        "BENCH_TARGET": f"{name}.target",
    }
    process = subprocess.Popen([sys.executable, "-m", "bench.hop"], env=env)
    agents = common.agents("banking")
    values = [
        (f"{n:08d}", agents[n % len(agents)].encode(), f"{n:08d}".encode() + b"x" * 240)
        for n in range(RATE * SECONDS)
    ]
    try:
        asyncio.run(ready())
        return uvloop.run(
            paced(settings, f"{name}.source", values, f"{name}.target", lambda v: v[:8].decode())
        )
    finally:
        process.terminate()
        process.wait(30)


def _dispatched(value: bytes) -> str:
    header = codec.decode_as(Header, codec.decode_as(Outcome, value).header)
    return header.intent_id if header.status in ("dispatched", "refused") else ""


def run_decision(base: Settings, name: str) -> list[float]:
    """Seconds."""
    settings = common.environment(base, name)
    sessions = common.sessions_by_role(5, name)
    opened = common.opens([s for group in sessions.values() for s in group])
    asyncio.run(common.publish(settings, "messages", opened))
    with Worker(settings) as worker:
        worker.wait("sluicegate_ledger_inputs_total", len(opened))
        intents = common.intents(RATE * SECONDS, sessions, name)
        values = [(i.intent_id, i.agent_id.encode(), codec.encode(i)) for i in intents]  # type: ignore[union-attr]
        env = settings.env
        return uvloop.run(
            paced(settings, full_name(env, "intents"), values, full_name(env, "outcomes"), _dispatched)
        )


@contextlib.asynccontextmanager
async def instant_tool():
    """A local HTTP tool that answers at once; yields its port."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"result": 1})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def _calls(settings: Settings) -> list[float]:
    waits: list[float] = []
    agent = common.agents("banking")[0]
    async with Fleet(settings, PARTITIONS) as fleet:
        for message in common.opens([(agent, "lat")]):
            await fleet.ask("messages", message, message.message_id)  # type: ignore[union-attr, arg-type]

        async def one(n: int) -> None:
            now = time.time_ns() // 1000
            intent = Intent(
                f"c{n}",
                agent,
                "lat",
                "tool_call",
                "banking.get_balance",
                orjson.dumps({}),
                now,
                now + 30_000_000,
            )
            started = time.perf_counter()
            reply = await fleet.ask("intents", intent, intent.intent_id)
            if n >= WARM_UP and reply is not None and reply.status == "released":
                waits.append(time.perf_counter() - started)

        started = time.perf_counter()
        tasks = []
        for n in range(RATE * SECONDS):
            delay = started + n / RATE - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            tasks.append(asyncio.create_task(one(n)))
        await asyncio.gather(*tasks)
    return waits


def run_call(base: Settings, name: str) -> list[float]:
    """Seconds, publish to reply, of one agent's read-only calls."""

    async def go(settings: Settings) -> list[float]:
        async with instant_tool() as port:
            env = {
                "SLUICEGATE_TOOL_TOOLS_URL": f"http://127.0.0.1:{port}",
                "SLUICEGATE_EGRESS": f"127.0.0.1:{port}",
            }
            with Worker(settings) as _, Worker(settings, "executor", env):
                return await _calls(settings)

    return uvloop.run(go(common.environment(base, name)))


def main() -> None:
    """Run and write the results."""
    hop: list[list[float]] = []
    decision: list[list[float]] = []
    call: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as settings:
        for run in range(RUNS):
            hop.append(run_hop(settings, f"h{run}"))
            decision.append(run_decision(settings, f"d{run}"))
            call.append(run_call(settings, f"c{run}"))
    conditions = f"{RATE}/s for {SECONDS} s, medians of {RUNS} interleaved runs, unsigned, {common.machine()}"

    def at(runs: list[list[float]], q: float) -> float:
        return common.median([quantile(r, q) * 1000 for r in runs])

    common.write(
        "latency",
        [
            Result(
                f"decision.p{p}_vs_hop", at(decision, p / 100), "ms", conditions,
                f"empty hop p{p} of {at(hop, p / 100):.1f} ms", at(decision, p / 100) / at(hop, p / 100),
            )
            for p in (50, 99)
        ]
        + [
            Result(f"call.read_only.p{p}_ms", at(call, p / 100), "ms", conditions + ", one agent, instant local tool")
            for p in (50, 95, 99)
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
