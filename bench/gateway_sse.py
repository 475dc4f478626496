"""The gateway's event streams: many clients held open, intents at a steady rate, and whether its memory stays flat.

    python -m bench gateway_sse        BENCH_CLIENTS=1000 BENCH_RATE=100 BENCH_SECONDS=60

Each client follows a session of its own; two tenants, some agents of each. Every event a client gets has to be of its own session, and
every intent has to come to exactly one client. The delay is from asking to the event at the client, beside the call's own answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
import uvloop
from sluicegate.streams import api_keys, operations
from sluicegate.streams.broker_process import free_ports
from sluicegate.streams.keys import Keys
from sluicegate.streams.roles import GATEWAY_LISTEN
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result, Worker, quantile
from bench.gateway import release

CLIENTS = int(os.environ.get("BENCH_CLIENTS", "1000"))
RATE = int(os.environ.get("BENCH_RATE", "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "60"))
AGENTS = 20
OPENING = 50
"""Sessions and streams that are opened at once."""
SETTLE_S = 5
ARGUMENTS = {"messages": [{"role": "user", "content": "is this fine?"}], "max_tokens": 16}


async def prepare(settings: Settings, folder: Path) -> list[str]:
    """Agents of two tenants, the release, and an API key for each agent."""
    keys = Keys(settings.home)
    names = [f"bench-{n}" for n in range(AGENTS)]
    try:
        rows: list[operations.Row] = [
            {"agent_id": name, "tenant": ("north", "south")[n % 2], "roles": ["bench"]}
            for n, name in enumerate(names)
        ]
        await operations.register_agents(settings, keys, rows, "a bench")
        await operations.deploy(settings, keys, folder, "a bench")
        return [
            (await api_keys.create(settings, keys, name, ["agent"], "a bench", rate_per_s=100_000)).token
            for name in names
        ]
    finally:
        keys.close()


class Clients:
    """All of them, in one process."""

    def __init__(self, http: aiohttp.ClientSession, gateway: str, tokens: list[str]) -> None:
        self._http, self._gateway, self._tokens = http, gateway, tokens
        self.open = 0
        self.heard: dict[str, float] = {}
        self.foreign = self.twice = 0
        self._tasks: list[asyncio.Task[None]] = []

    def headers(self, session: str) -> dict[str, str]:
        """Of whoever asks in a session: `s-<number>` is of agent <number> modulo `AGENTS`."""
        return {"Authorization": f"Bearer {self._tokens[int(session[2:]) % AGENTS]}"}

    async def begin(self) -> list[str]:
        """Open the sessions, and a stream of each."""
        names = iter([f"s-{n}" for n in range(CLIENTS)])

        async def opening() -> None:
            for name in names:
                body = {"session_id": name, "goal": "a bench"}
                async with self._http.post(
                    f"{self._gateway}/v1/sessions", json=body, headers=self.headers(name)
                ) as said:
                    assert said.status == 201, await said.text()
                self._tasks.append(asyncio.create_task(self._follow(name)))

        await asyncio.gather(*(opening() for _ in range(OPENING)))
        while self.open < CLIENTS:
            await asyncio.sleep(0.05)
        return [f"s-{n}" for n in range(CLIENTS)]

    async def _follow(self, session: str) -> None:
        path = f"{self._gateway}/v1/sessions/{session}/events"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._http.get(path, headers=self.headers(session), timeout=timeout) as stream:
            assert stream.status == 200, await stream.text()
            self.open += 1
            async for line in stream.content:
                if line.startswith(b"data: "):
                    self._take(session, json.loads(line[6:]))
        self.open -= 1

    def _take(self, session: str, event: dict[str, str]) -> None:
        intent = event["intent_id"]
        self.foreign += event["session_id"] != session
        self.twice += intent in self.heard
        self.heard[intent] = time.perf_counter()

    async def ask(self, session: str, intent: str) -> None:
        """One intent, to its end."""
        body = {"session_id": session, "model": "bench.model", "arguments": ARGUMENTS, "intent_id": intent}
        async with self._http.post(
            f"{self._gateway}/v1/intents", json=body, headers=self.headers(session)
        ) as said:
            assert said.status == 200, await said.text()

    async def end(self) -> None:
        """Close them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def measure(gateway: str, tokens: list[str], process: psutil.Process) -> dict[str, list[float]]:
    """Delays of events, and the gateway's memory as it went, in MB."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        clients = Clients(http, gateway, tokens)
        sessions = itertools.cycle(await clients.begin())
        await asyncio.sleep(SETTLE_S)
        memory, asked, begin = [process.memory_info().rss / 1e6], {}, time.perf_counter() + 0.1
        tasks = []
        for n in range(RATE * SECONDS):
            await asyncio.sleep(max(0.0, begin + n / RATE - time.perf_counter()))
            intent = f"i-{n}"
            asked[intent] = time.perf_counter()
            tasks.append(asyncio.create_task(clients.ask(next(sessions), intent)))
            if n % (RATE * 5) == RATE * 5 - 1:
                memory.append(process.memory_info().rss / 1e6)
        await asyncio.gather(*tasks)
        deadline = time.perf_counter() + 30
        while len(clients.heard) < len(asked) and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)
        assert set(clients.heard) == set(asked), f"{len(asked) - len(clients.heard)} events were not heard"
        assert not clients.foreign and not clients.twice, (clients.foreign, clients.twice)
        assert clients.open == CLIENTS, f"{CLIENTS - clients.open} streams ended"
        await clients.end()
    return {"delays": [(clients.heard[i] - asked[i]) * 1_000 for i in asked], "memory": memory}


def main() -> None:
    """Measure, and write the results."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CLIENTS)), hard))
    with tempfile.TemporaryDirectory() as folder:
        upstream = subprocess.Popen(
            [sys.executable, "-m", "bench.instant", "model"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert upstream.stdout is not None
            port = int(upstream.stdout.readline())
            with common.broker(Path(folder) / "home") as base:
                _run(common.environment(base, "gateway-sse"), Path(folder), port)
        finally:
            upstream.kill()
            upstream.wait()


def _run(settings: Settings, folder: Path, port: int) -> None:
    tokens = asyncio.run(prepare(settings, release(folder / "release")))
    outside = {
        "SLUICEGATE_TOOL_MODEL_URL": f"http://127.0.0.1:{port}",
        "SLUICEGATE_EGRESS": f"127.0.0.1:{port}",
    }
    listen = f"127.0.0.1:{free_ports(0)[0]}"
    with (
        Worker(settings), Worker(settings, "executor", outside), Worker(settings, "gateway", {GATEWAY_LISTEN: listen}) as gateway,
    ):  # fmt: skip
        process = psutil.Process(gateway.role.process.pid)
        found = uvloop.run(measure(f"http://{listen}", tokens, process))
    memory, delays = found["memory"], found["delays"]
    conditions = (
        f"{CLIENTS:,} clients of {AGENTS} agents, {RATE} intents/s for {SECONDS} s, every event at its own client, "
        f"{common.machine()}"
    )
    half = memory[len(memory) // 2]
    common.write(
        "gateway_sse",
        [
            Result("gateway.sse_clients", CLIENTS, "clients", conditions),
            Result("gateway.sse_rss_start_mb", memory[0], "MB", conditions),
            Result("gateway.sse_rss_end_mb", memory[-1], "MB", conditions, "half-way", memory[-1] / half),
            Result("gateway.sse_rss_max_mb", max(memory), "MB", conditions),
            Result("gateway.sse_event_p50_ms", quantile(delays, 0.5), "ms", conditions),
            Result("gateway.sse_event_p99_ms", quantile(delays, 0.99), "ms", conditions),
        ],
    )


if __name__ == "__main__":
    main()
