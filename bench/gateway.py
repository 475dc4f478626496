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
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import psutil
import uvloop
from sluicegate.schemas.records import Intent, Message
from sluicegate.streams import api_keys, operations
from sluicegate.streams.broker_process import free_ports
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.keys import Keys
from sluicegate.streams.roles import GATEWAY_LISTEN
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result, Worker, quantile

AGENTS = 32
COUNT = int(os.environ.get("BENCH_COUNT", "6000"))
AT_ONCE = int(os.environ.get("BENCH_AT_ONCE", "256"))
RATE = 100
SECONDS = int(os.environ.get("BENCH_SECONDS", "10"))
BODY = json.dumps(
    {"model": "bench.model", "messages": [{"role": "user", "content": "is this fine?"}], "max_tokens": 16}
).encode()
CONTRACT = {
    "name": "bench.model",
    "description": "An instant model.",
    "inputSchema": {
        "type": "object",
        "properties": {"messages": {"type": "array"}, "max_tokens": {"type": "integer"}},
    },
    "x-sluicegate": {
        "version": "1",
        "class": "read_only",
        "timeout_ms": 5_000,
        "executor": {"kind": "model", "url": "${MODEL_URL}/v1", "model": "instant-1", "max_tokens": 64},
    },
}

Ask = Callable[[], Awaitable[None]]


def release(folder: Path) -> Path:
    """One model, for everybody."""
    for name in ("contracts", "policies"):
        (folder / name).mkdir(parents=True)
    (folder / "release.yaml").write_text("name: gateway-bench\nversion: '1'\n")
    (folder / "contracts" / "bench.model.json").write_text(json.dumps(CONTRACT))
    (folder / "policies" / "all.cedar").write_text(
        '@id("all") permit (principal, action == Action::"bench.model", resource);\n'
    )
    return folder


async def prepare(settings: Settings, folder: Path) -> list[str]:
    """Agents, the release, and an API key for each agent."""
    keys = Keys(settings.home)
    names = [f"bench-{n}" for n in range(AGENTS)]
    try:
        rows: list[operations.Row] = [
            {"agent_id": name, "tenant": "bench", "roles": ["bench"]} for name in names
        ]
        await operations.register_agents(settings, keys, rows, "a bench")
        await operations.deploy(settings, keys, folder, "a bench")
        return [
            (await api_keys.create(settings, keys, name, ["agent"], "a bench", rate_per_s=100_000)).token
            for name in names
        ]
    finally:
        keys.close()


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


async def measure(settings: Settings, gateway: str, upstream: str, tokens: list[str]) -> dict[str, object]:
    """All figures, in one event loop."""
    turns, marks = itertools.count(), itertools.count()
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        Fleet(settings, settings.partitions) as fleet,
    ):

        async def through() -> None:
            headers = {
                "Authorization": f"Bearer {tokens[next(turns) % AGENTS]}",
                "Content-Type": "application/json",
            }
            async with http.post(f"{gateway}/v1/chat/completions", data=BODY, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

        async def direct() -> None:
            async with http.post(f"{upstream}/v1/chat/completions", data=BODY) as answer:
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
    return {"rps": rps, "records": beside, "direct": plain, "waits": waits}


def main() -> None:
    """Measure, and write the results."""
    with tempfile.TemporaryDirectory() as folder:
        upstream = subprocess.Popen(
            [sys.executable, "-m", "bench.instant", "model"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert upstream.stdout is not None
            port = int(upstream.stdout.readline())
            with common.broker(Path(folder) / "home") as base:
                _run(base, Path(folder), port)
        finally:
            upstream.kill()
            upstream.wait()


def _run(base: Settings, folder: Path, port: int) -> None:
    settings = common.environment(base, "gateway")
    tokens = asyncio.run(prepare(settings, release(folder / "release")))
    outside = {
        "SLUICEGATE_TOOL_MODEL_URL": f"http://127.0.0.1:{port}",
        "SLUICEGATE_EGRESS": f"127.0.0.1:{port}",
    }
    listen = f"127.0.0.1:{free_ports(0)[0]}"
    with (
        Worker(settings), Worker(settings, "executor", outside), Worker(settings, "gateway", {GATEWAY_LISTEN: listen}) as gateway,
    ):  # fmt: skip
        found = uvloop.run(measure(settings, f"http://{listen}", f"http://127.0.0.1:{port}", tokens))
        rss = psutil.Process(gateway.role.process.pid).memory_info().rss / 1e6
    waits = found["waits"]
    assert isinstance(waits, dict)
    conditions = (
        f"{COUNT:,} completions, {AT_ONCE} at once, {AGENTS} agents, instant server, {common.machine()}"
    )
    open_loop = (
        f"{RATE}/s, {RATE * SECONDS * 2:,} requests each, turn by turn, instant server, {common.machine()}"
    )
    results = [
        Result(
            "gateway.rps",
            float(found["rps"]),
            "completions/s",
            conditions,
            "records on kafka",
            float(found["rps"]) / float(found["records"]),
        ),  # type: ignore[arg-type]
        Result("gateway.records_per_s", float(found["records"]), "completions/s", conditions),  # type: ignore[arg-type]
        Result("gateway.direct_per_s", float(found["direct"]), "completions/s", conditions),  # type: ignore[arg-type]
        Result("gateway.rss_mb", rss, "MB", conditions),
    ]
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        straight = quantile(waits["direct"], q)
        results.append(
            Result(f"gateway.added_{name}_ms", quantile(waits["through"], q) - straight, "ms", open_loop)
        )
        results.append(
            Result(
                f"gateway.records_added_{name}_ms", quantile(waits["records"], q) - straight, "ms", open_loop
            )
        )
    common.write("gateway", results)


if __name__ == "__main__":
    main()
