"""The gateway's event streams: many clients held open, intents at a steady rate, and whether its memory stays flat.

    python -m bench gateway_sse        BENCH_CLIENTS=1000 BENCH_RATE=100 BENCH_WARM_S=60 BENCH_SECONDS=120

Each client follows a session of its own; two tenants, some agents of each. Every event a client gets has to be of its own session, and
every intent has to come to exactly one client. The delay is from asking to the event at the client, beside the call's own answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import uvloop
from sluicegate.gateway.kept import KNOWN_BYTES, MAX_KNOWN
from sluicegate.streams.roles import GATEWAY_KNOWN

from bench import common
from bench.common import Result, quantile
from bench.gateway_stack import Running, running

CLIENTS = int(os.environ.get("BENCH_CLIENTS", "1000"))
RATE = int(os.environ.get("BENCH_RATE", "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "120"))
WARM_S = int(os.environ.get("BENCH_WARM_S", "60"))
QUARTERS = 4
KNOWN = int(os.environ.get("BENCH_KNOWN", "5000"))
"""Of how many replies the gateway remembers the place: so many that it is full when warm. Of an operator's gateway it is 100,000, which
take 1,000 s at this rate to fill, and 26 MB: `full_mb` adds what is missing."""
AGENTS = 20
OPENING = 50
"""Sessions and streams that are opened at once."""
SETTLE_S = 5
LATE_S = 30
"""For the last events."""
ARGUMENTS = {"messages": [{"role": "user", "content": "is this fine?"}], "max_tokens": 16}


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
                    self._told(session, json.loads(line[6:]))
        self.open -= 1

    def _told(self, session: str, event: dict[str, str]) -> None:
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

    def take(self) -> dict[str, float]:
        """What was heard since this was asked last, and when."""
        heard, self.heard = self.heard, {}
        return heard

    async def end(self) -> None:
        """Close them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(slots=True)
class Figures:
    """What was measured: milliseconds from asking to the event at its client, and the gateway's memory in MB at each quarter."""

    delays: list[float]
    memory: list[float]
    opened: float


async def measure(stack: Running) -> Figures:
    """Everything, in one event loop."""

    def rss() -> float:
        return float(stack.process.memory_info().rss) / 1e6

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        clients = Clients(http, stack.gateway, stack.tokens)
        sessions = itertools.cycle(await clients.begin())
        await asyncio.sleep(SETTLE_S)
        opened = rss()
        await steady(clients, sessions, "w", WARM_S)
        memory, delays = [rss()], []
        filled = stack.worker.metric('sluicegate_gateway_entries{of="known"}')
        assert filled == KNOWN, f"{filled:.0f} of {KNOWN} places are taken: warm up for longer, BENCH_WARM_S"
        for quarter in range(QUARTERS):
            delays += await steady(clients, sessions, f"i{quarter}", SECONDS / QUARTERS)
            memory.append(rss())
        assert not clients.foreign and not clients.twice, (clients.foreign, clients.twice)
        assert clients.open == CLIENTS, f"{CLIENTS - clients.open} streams ended"
        await clients.end()
    return Figures(delays, memory, opened)


async def steady(clients: Clients, sessions: Iterator[str], mark: str, seconds: float) -> list[float]:
    """Intents at `RATE` a second, each to its end and to its event; milliseconds from asking to the event."""
    asked, tasks, begin = {}, [], time.perf_counter() + 0.1
    for n in range(int(RATE * seconds)):
        await asyncio.sleep(max(0.0, begin + n / RATE - time.perf_counter()))
        intent = f"{mark}-{n}"
        asked[intent] = time.perf_counter()
        tasks.append(asyncio.create_task(clients.ask(next(sessions), intent)))
    await asyncio.gather(*tasks)
    deadline = time.perf_counter() + LATE_S
    while len(clients.heard) < len(asked) and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    heard = clients.take()
    assert set(heard) == set(asked), f"{len(asked) - len(heard)} events were not heard"
    return [(heard[i] - asked[i]) * 1_000 for i in asked]


def main() -> None:
    """Measure, and write the results."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CLIENTS)), hard))
    with running("gateway-sse", AGENTS, ("north", "south"), {GATEWAY_KNOWN: str(KNOWN)}) as stack:
        found = uvloop.run(measure(stack))
    memory, delays = found.memory, found.delays
    conditions = (
        f"{CLIENTS:,} clients of {AGENTS} agents, {RATE} intents/s for {SECONDS} s after {WARM_S} s to warm up, {KNOWN:,} places of "
        f"replies, all taken, every event at its own client, {common.machine()}"
    )
    results = [
        Result("gateway.sse_clients", CLIENTS, "clients", conditions),
        Result("gateway.sse_rss_open_mb", found.opened, "MB", conditions),
        Result("gateway.sse_rss_start_mb", memory[0], "MB", conditions),
        *(
            Result(
                f"gateway.sse_rss_{100 * n // QUARTERS}pct_mb",
                mb,
                "MB",
                conditions,
                "the start",
                mb / memory[0],
            )
            for n, mb in enumerate(memory[1:], 1)
        ),
        Result(
            "gateway.sse_rss_full_mb",
            memory[-1] + (MAX_KNOWN - KNOWN) * KNOWN_BYTES / 1e6,
            "MB",
            "computed: with 100,000 places",
        ),
        Result("gateway.sse_event_p50_ms", quantile(delays, 0.5), "ms", conditions),
        Result("gateway.sse_event_p99_ms", quantile(delays, 0.99), "ms", conditions),
    ]
    common.write("gateway_sse", results)


if __name__ == "__main__":
    main()
