"""Model calls with 5 % of each fault: success and latency of a direct call, against a route of three through the real stack.

Every address of the local server fails 5 of 100 requests in each of seven ways, in an order fixed by its name: 429, 503, 500,
a context that is too long, a cut answer, wrong JSON, no answer within the second that is waited. So 65 % of direct calls
are answered. The same calls then go to a route of three such addresses: publish until the reply, over ledger and executor.
Added latency is that of answered calls, so it holds what the fallbacks take.

Then streams, without faults and one after the other, turn by turn with direct ones: the time to the first text of an answer
whose words come `GAP_S` apart, and to its end, by `session.stream_model`. Next: `processors/models/attempts.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import uvloop
from aiohttp import web
from sluicegate.schemas.records import Intent
from sluicegate.streams.client import AgentClient, Ended, Session, Text
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result, Worker, quantile
from tests.servers.faults import Fault
from tests.servers.model_server import model_server

STREAMS = int(os.environ.get("BENCH_STREAMS", "100"))
GAP_S = 0.01
SAID = "The first sentence is short. " + "The others have nine words each, as you see. " * 4
CALLS = int(os.environ.get("BENCH_CALLS", "600"))
AT_ONCE = 8
TIMEOUT_MS = 1_000
EACH_PERCENT = 5
FAULTS = (
    "status=429",
    "status=503",
    "status=500",
    "status=400,code=context_length_exceeded",
    "cut",
    "wrong_json",
    "never",
)
NAMES = ("bench.a", "bench.b", "bench.c")
BODY = {"model": "small", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 100}


class Faulty:
    """The test server, whose addresses fail by a schedule instead of by their text."""

    def __init__(self) -> None:
        self.server = model_server()
        self.met: Counter[str] = Counter()
        self.app = web.Application()
        self.app.router.add_post("/{name}/v1/chat/completions", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        turn, self.met[name] = self.met[name], self.met[name] + 1
        if name == "stream":
            self.server.journal.bodies.append(await request.json())
            return await self.server._meet(Fault.read(f"gap_s={GAP_S}"), request, "")
        schedule = [fault for fault in FAULTS for _ in range(EACH_PERCENT)]
        schedule += ["ok"] * (100 - len(schedule))
        random.Random(f"{name}/{turn // 100}").shuffle(schedule)
        self.server.journal.bodies.append(await request.json())
        return await self.server._meet(Fault.read(schedule[turn % 100]), request, "")


def release(port: int) -> dict[str, str]:
    """The example's release, three models and a route."""
    files = releases.read_folder(common.RELEASE)
    said = {"type": "object", "properties": {"role": {"type": "string"}, "content": {"type": "string"}}}
    schema = {
        "type": "object", "required": ["messages"],
        "properties": {"messages": {"type": "array", "items": said}, "max_tokens": {"type": "integer"}},
    }  # fmt: skip
    for name in NAMES:
        executor = {"kind": "model", "url": f"http://127.0.0.1:{port}/{name}/v1", "model": "small"}
        governance = {"executor": executor, "timeout_ms": TIMEOUT_MS}
        files[f"contracts/{name}.json"] = json.dumps(
            {"name": name, "inputSchema": schema, "x-sluicegate": governance}
        )
    for mode in ("open", "gated"):
        executor = {
            "kind": "model",
            "url": f"http://127.0.0.1:{port}/stream/v1",
            "model": "small",
            "stream": mode,
        }
        files[f"contracts/bench.{mode}.json"] = json.dumps(
            {"name": f"bench.{mode}", "inputSchema": schema, "x-sluicegate": {"executor": executor}}
        )
    route = "".join(f"      - contract: {name}\n" for name in NAMES)
    files["release.yaml"] += f"\nmodels:\n  bench.any:\n    candidates:\n{route}    choose: weighted\n"
    files["policies/bench.cedar"] = (
        '@id("bench")\npermit (principal, action in [Action::"bench.any", Action::"bench.open", Action::"bench.gated"], resource);\n'
    )
    return files


async def deploy(settings: Settings, files: dict[str, str]) -> None:
    """Publish and deploy."""
    keys = Keys(settings.home)
    try:
        digest = await releases.publish(settings, files)
        events: list[tuple[str, dict[str, object]]] = [
            ("release.published", {"digest": digest, "name": "bench", "version": "1"}),
            ("release.deployed", {"digest": digest}),
        ]
        await control_log.append(settings, keys, events, who="bench", why="bench")
    finally:
        keys.close()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """The server; yields its port."""
    runner = web.AppRunner(Faulty().app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def direct(port: int) -> list[float]:
    """Seconds of the answered ones."""
    waits: list[float] = []
    limit = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_MS / 1_000)) as session:

        async def one(n: int) -> None:
            async with limit:
                started = time.perf_counter()
                url = f"http://127.0.0.1:{port}/{NAMES[n % 3]}-direct/v1/chat/completions"
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                    async with session.post(url, json=BODY) as response:
                        body = orjson.loads(await response.read())
                        if response.status == 200 and body["choices"]:
                            waits.append(time.perf_counter() - started)

        await asyncio.gather(*(one(n) for n in range(CALLS)))
    return waits


async def routed(settings: Settings) -> tuple[list[float], Counter[str]]:
    """Seconds of the answered ones, publish to reply; and how all ended."""
    waits: list[float] = []
    ends: Counter[str] = Counter()
    limit = asyncio.Semaphore(AT_ONCE)
    agents = common.agents("banking")[:AT_ONCE]
    raw = orjson.dumps({k: v for k, v in BODY.items() if k != "model"})
    async with Fleet(settings, 4) as fleet:
        for message in common.opens([(agent, f"m-{agent}") for agent in agents]):
            await fleet.ask("messages", message, message.message_id)  # type: ignore[union-attr, arg-type]

        async def one(n: int) -> None:
            agent = agents[n % len(agents)]
            async with limit:
                now, started = time.time_ns() // 1000, time.perf_counter()
                intent = Intent(
                    f"m{n}", agent, f"m-{agent}", "model_call", "bench.any", raw, now, now + 60_000_000
                )
                reply = await fleet.ask("intents", intent, intent.intent_id)
                ends[f"{reply.status} {reply.reason}".strip() if reply is not None else "none"] += 1
                if reply is not None and reply.status == "released":
                    waits.append(time.perf_counter() - started)

        await asyncio.gather(*(one(n) for n in range(CALLS)))
    return waits, ends


async def direct_stream(session: aiohttp.ClientSession, port: int) -> tuple[float, float]:
    """Seconds to the first text, and to the end."""
    body = {"model": "small", "messages": [{"role": "user", "content": SAID}], "stream": True}
    started, first = time.perf_counter(), 0.0
    async with session.post(f"http://127.0.0.1:{port}/stream/v1/chat/completions", json=body) as response:
        async for line in response.content:
            if not first and line.startswith(b"data: {"):
                choices = orjson.loads(line[6:])["choices"]
                first = (
                    time.perf_counter() - started if choices and choices[0]["delta"].get("content") else 0.0
                )
    return first, time.perf_counter() - started


async def shown_stream(session: Session, mode: str) -> tuple[float, float]:
    """The same of a stream through the gate."""
    started, first = time.perf_counter(), 0.0
    async for part in session.stream_model(f"bench.{mode}", [{"role": "user", "content": SAID}]):
        if not first and isinstance(part, Text):
            first = time.perf_counter() - started
        if isinstance(part, Ended) and not part.matched:
            raise SystemExit("what was shown is not what was released")
    return first, time.perf_counter() - started


async def streams(settings: Settings, port: int) -> dict[str, list[tuple[float, float]]]:
    """Turn by turn: a direct one, an open one, a gated one."""
    found: dict[str, list[tuple[float, float]]] = {"direct": [], "open": [], "gated": []}
    agent = common.agents("banking")[0]
    async with (
        aiohttp.ClientSession() as http,
        AgentClient(agent, settings=settings) as client,
        client.session("a bench") as session,
    ):
        for turn in range(-5, STREAMS):  # the first ones make connections, and load the release for the gate
            times = {"direct": await direct_stream(http, port)}
            for mode in ("open", "gated"):
                times[mode] = await shown_stream(session, mode)
            for name, pair in times.items() if turn >= 0 else ():
                found[name].append(pair)
    return found


async def run(
    settings: Settings,
) -> tuple[list[float], list[float], Counter[str], dict[str, list[tuple[float, float]]]]:
    """Direct, then routed; then streams."""
    async with serving() as port:
        await deploy(settings, release(port))
        env = {"SLUICEGATE_EGRESS": f"127.0.0.1:{port}"}
        with Worker(settings) as _, Worker(settings, "executor", env):
            plain = await direct(port)
            waits, ends = await routed(settings)
            shown = await streams(settings, port)
    return plain, waits, ends, shown


def main() -> None:
    """Run and write the results."""
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as base:
        settings = common.environment(base, "models")
        plain, waits, ends, shown = uvloop.run(run(settings))
    print(dict(ends), flush=True)
    conditions = (
        f"{CALLS} calls, {AT_ONCE} at a time, {EACH_PERCENT} % of each of {len(FAULTS)} faults, three candidates, "
        f"{TIMEOUT_MS} ms a call, instant local server, {common.machine()}"
    )
    share = 100 * len(plain) / CALLS
    results = [
        Result("models.success_direct", share, "%", conditions),
        Result(
            "models.success_routed",
            100 * len(waits) / CALLS,
            "%",
            conditions,
            "direct",
            100 * len(waits) / CALLS / share,
        ),
    ]
    for p in (50, 95):
        there, here = quantile(plain, p / 100) * 1_000, quantile(waits, p / 100) * 1_000
        results.append(
            Result(f"models.added_p{p}_ms", here - there, "ms", f"{conditions}; direct {there:.1f} ms")
        )
    results += stream_results(shown)
    common.write("model_faults", results)


def stream_results(shown: dict[str, list[tuple[float, float]]]) -> list[Result]:
    """To the first text and to the end, of each way."""
    words = f"{len(SAID.split())} words {GAP_S * 1_000:.0f} ms apart, {STREAMS} of each way turn by turn, {common.machine()}"
    found = []
    for name, pairs in shown.items():
        for p in (50, 95):
            first = quantile([pair[0] for pair in pairs], p / 100) * 1_000
            end = quantile([pair[1] for pair in pairs], p / 100) * 1_000
            found.append(
                Result(f"streams.{name}_first_p{p}_ms", first, "ms", f"{words}; to the end {end:.0f} ms")
            )
    return found


if __name__ == "__main__":
    main()
