"""The gateway: governed chat completions a second, and what it adds to a direct call to the same server.

Everything on one machine: broker, one ledger worker, one executor, one gateway, the client, and an instant OpenAI-compatible server
in a process of its own. A completion is a model call through every stage, in two Kafka transactions. Throughput is a closed loop,
AT_ONCE requests waiting; latency an open loop at RATE a second, turn by turn with direct calls; what is added is the difference of
the quantiles. Beside it the same calls by records on Kafka, without the gateway.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import uvloop
from sluicegate.schemas.records import Intent, Message
from sluicegate.streams.fleet import Fleet

from bench import common
from bench.common import Result, quantile
from bench.gateway_stack import Running, running

AGENTS = 32
COUNT = int(os.environ.get("BENCH_COUNT", "6000"))
AT_ONCE = int(os.environ.get("BENCH_AT_ONCE", "256"))
RATE = 100
SECONDS = int(os.environ.get("BENCH_SECONDS", "10"))
BODY = json.dumps(
    {"model": "bench.model", "messages": [{"role": "user", "content": "is this fine?"}], "max_tokens": 16}
).encode()
Ask = Callable[[], Awaitable[None]]


async def closed(ask: Ask, count: int) -> float:
    """Requests a second over the second half."""
    done, half, started = 0, 0.0, time.perf_counter()
    queue = iter(range(count))

    async def runner() -> None:
        nonlocal done, half
        for _ in queue:
            await ask()
            done += 1
            if done == count // 2:
                half = time.perf_counter()

    await asyncio.gather(*(runner() for _ in range(AT_ONCE)))
    assert half > started
    return (count - count // 2) / (time.perf_counter() - half)


async def opened(ask: Ask) -> list[float]:
    """Milliseconds of each request at RATE a second."""
    waits: list[float] = []

    async def one(at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        started = time.perf_counter()
        await ask()
        waits.append((time.perf_counter() - started) * 1_000)

    begin = time.perf_counter() + 0.1
    await asyncio.gather(*(one(begin + n / RATE) for n in range(RATE * SECONDS)))
    return waits


@dataclass(slots=True)
class Figures:
    """What was measured: completions a second, and milliseconds of each request of the open loop, by way."""

    rps: float
    records: float
    direct: float
    waits: dict[str, list[float]]


async def measure(stack: Running) -> Figures:
    """All figures, in one event loop."""
    turns, marks = itertools.count(), itertools.count()
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        Fleet(stack.settings, stack.settings.partitions) as fleet,
    ):

        async def through() -> None:
            headers = {
                "Authorization": f"Bearer {stack.tokens[next(turns) % AGENTS]}",
                "Content-Type": "application/json",
            }
            async with http.post(
                f"{stack.gateway}/v1/chat/completions", data=BODY, headers=headers
            ) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        async def direct() -> None:
            async with http.post(f"{stack.upstream}/v1/chat/completions", data=BODY) as answer:
                await answer.read()

        async def records() -> None:
            n, now = next(marks), time.time_ns() // 1_000
            agent = f"bench-{n % AGENTS}"
            arguments = json.dumps(
                {"messages": [{"role": "user", "content": "is this fine?"}], "max_tokens": 16}
            ).encode()
            intent = Intent(
                f"k{n}", agent, f"s-{agent}", "model_call", "bench.model", arguments, now, now + 30_000_000
            )
            reply = await fleet.ask("intents", intent, intent.intent_id)
            assert reply is not None and reply.status == "released", reply

        for n in range(AGENTS):
            opening = Message(f"o{n}", f"bench-{n}", f"s-bench-{n}", "session.open", time.time_ns() // 1_000)
            await fleet.ask("messages", opening, opening.message_id)
        for ask in (through, direct, records):
            await closed(ask, 1_000)
        rps, beside, plain = (
            await closed(through, COUNT),
            await closed(records, COUNT),
            await closed(direct, COUNT),
        )
        waits: dict[str, list[float]] = {"through": [], "direct": [], "records": []}
        for _ in range(2):  # turn by turn
            for name, ask in (("through", through), ("direct", direct), ("records", records)):
                waits[name] += await opened(ask)
    return Figures(rps, beside, plain, waits)


def main() -> None:
    """Measure, and write the results."""
    with running("gateway", AGENTS) as stack:
        found = uvloop.run(measure(stack))
        rss = stack.process.memory_info().rss / 1e6
    conditions = (
        f"{COUNT:,} completions, {AT_ONCE} at once, {AGENTS} agents, instant server, {common.machine()}"
    )
    open_loop = (
        f"{RATE}/s, {RATE * SECONDS * 2:,} requests each, turn by turn, instant server, {common.machine()}"
    )
    results = [
        Result(
            "gateway.rps",
            found.rps,
            "completions/s",
            conditions,
            "records on kafka",
            found.rps / found.records,
        ),
        Result("gateway.records_per_s", found.records, "completions/s", conditions),
        Result("gateway.direct_per_s", found.direct, "completions/s", conditions),
        Result("gateway.rss_mb", rss, "MB", conditions),
    ]
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        straight = quantile(found.waits["direct"], q)
        results.append(
            Result(
                f"gateway.added_{name}_ms", quantile(found.waits["through"], q) - straight, "ms", open_loop
            )
        )
        results.append(
            Result(
                f"gateway.records_added_{name}_ms",
                quantile(found.waits["records"], q) - straight,
                "ms",
                open_loop,
            )
        )
    common.write("gateway", results)


if __name__ == "__main__":
    main()
