"""Executed calls: how many a second, and what the gate adds to a direct call, per class and rate.

Everything on one machine: broker, ledger, executor, the client, and an instant http tool in a process of its own.
Throughput is a closed loop, AT_ONCE calls waiting, counted over the second half. Latency is an open loop, publish to reply,
turn by turn with the same number of direct calls at the same rate; what is added is the difference of the quantiles.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import psutil
import uvloop
from sluicegate.schemas.records import Intent, Reply
from sluicegate.streams.control import operations
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Result, Worker, quantile

PARTITIONS = 4
CLASSES = ("read_only", "idempotent", "queryable", "irreversible")
RATES = (50, 200, 1_000)
SECONDS = int(os.environ.get("BENCH_SECONDS", "8"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
AT_ONCE = int(os.environ.get("BENCH_AT_ONCE", "512"))
COUNT = int(os.environ.get("BENCH_COUNT", "12000"))
CLOSED = os.environ.get("BENCH_CLASSES", "read_only,irreversible").split(",")
"""Classes of the closed loop; `BENCH_SECONDS=0` leaves the open one out."""
WARM_UP_CALLS = int(os.environ.get("BENCH_WARM_UP", "60000"))
"""Before anything is measured. The broker's compiler works for 40,000 to 60,000 calls, at first more than the broker itself:
on two cores java takes 750 us of CPU of the first calls and 245 of later ones, of which compiled code runs for good."""
WARM_UP_S = 1.0


def release(folder: Path) -> Path:
    """The example release and one instant tool of each class, in a folder of its own."""
    target = folder / "release"
    for path in sorted(common.RELEASE.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(common.RELEASE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    for tool_class in CLASSES:
        governance = {
            "class": tool_class, "timeout_ms": 5_000,
            "executor": {"kind": "http", "method": "POST", "url": "${TOOLS_URL}/x"},
        }  # fmt: skip
        contract = {
            "name": f"bench.{tool_class}",
            "description": "An instant tool.",
            "inputSchema": {"type": "object"},
        }
        path = target / "contracts" / f"bench.{tool_class}.json"
        path.write_text(json.dumps({**contract, "x-sluicegate": governance}))
    names = ", ".join(f'Action::"bench.{c}"' for c in CLASSES)
    rule = f'@id("bench")\npermit (principal, action in [{names}], resource);\n'
    (target / "policies" / "bench.cedar").write_text(rule)
    return target


@contextlib.contextmanager
def tool() -> Iterator[int]:
    """The instant tool's port."""
    process = subprocess.Popen([sys.executable, "-m", "bench.instant"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def cpu_s() -> dict[str, float]:
    """CPU seconds of every process so far: those hold on a machine that others use, too."""
    mine = psutil.Process()
    found = {"client": sum(mine.cpu_times()[:2])}
    for process in mine.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            who = next(
                (w for w in ("ledger", "executor", "bench.instant", "java") if any(w in a for a in line[:6])),
                "",
            )
            if who:
                found[who] = found.get(who, 0.0) + sum(process.cpu_times()[:2])
    return found


class Load:
    """Calls through the gate, of every agent by turns."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._agents = [a for role in ("banking", "slack") for a in common.agents(role)]
        self._ids = itertools.count()
        self.failed: Counter[str] = Counter()

    async def open(self) -> None:
        """A session of each agent."""
        for message in common.opens([(a, f"s-{a}") for a in self._agents]):
            await self._fleet.ask("messages", message, message.message_id)  # type: ignore[union-attr, arg-type]

    async def call(self, tool_class: str) -> None:
        """One call, until its reply."""
        n, now = next(self._ids), time.time_ns() // 1000
        agent = self._agents[n % len(self._agents)]
        intent = Intent(
            f"c{n}", agent, f"s-{agent}", "tool_call", f"bench.{tool_class}", b"{}", now, now + 30_000_000
        )
        reply: Reply | None = await self._fleet.ask("intents", intent, intent.intent_id)
        if reply is None or reply.status != "released":
            self.failed[f"{reply.status} {reply.reason} {reply.for_developer}" if reply else "no reply"] += 1

    async def closed(self, tool_class: str) -> float:
        """Calls a second, AT_ONCE waiting, over the second half of COUNT."""
        done, started = 0, 0.0
        numbers = iter(range(COUNT))

        async def one() -> None:
            nonlocal done, started
            for _ in numbers:
                await self.call(tool_class)
                done += 1
                if done == COUNT // 2:
                    started = time.perf_counter()

        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        return (COUNT - COUNT // 2) / (time.perf_counter() - started)


async def paced(rate: int, one: Callable[[], Awaitable[None]]) -> list[float]:
    """Seconds each call took, begun at a rate whatever the others do, without the warm-up."""
    waits: list[float] = []

    async def timed(counts: bool) -> None:
        begun = time.perf_counter()
        await one()
        if counts:
            waits.append(time.perf_counter() - begun)

    started, tasks = time.perf_counter(), []
    for n in range(int(rate * SECONDS)):
        delay = started + n / rate - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(timed(n / rate >= WARM_UP_S)))
    await asyncio.gather(*tasks)
    return waits


async def measure(settings: Settings, port: int) -> list[Result]:
    """Every figure, in an environment whose ledger and executor run."""
    conditions = (
        f"{AT_ONCE} at once, {COUNT} calls after {WARM_UP_CALLS}, medians of {RUNS}, unsigned, instant local tool, "
        f"{common.machine()}"
    )
    results: list[Result] = []
    async with Fleet(settings, PARTITIONS) as fleet, aiohttp.ClientSession() as web:
        load = Load(fleet)
        await load.open()

        async def direct() -> None:
            async with web.post(f"http://127.0.0.1:{port}/x", data=b"{}") as response:
                await response.read()

        for _ in range(-(-WARM_UP_CALLS // COUNT)):
            await load.closed("read_only")
        for tool_class in CLOSED:
            name = {"irreversible": "claimed"}.get(tool_class, tool_class)
            await load.closed(tool_class)
            before = cpu_s()
            found = [await load.closed(tool_class) for _ in range(RUNS)]
            print(name, [round(f) for f in found], flush=True)
            for who, seconds in cpu_s().items():
                used = (seconds - before.get(who, 0.0)) / (RUNS * COUNT) * 1e6
                print(f"  {who} {used:.0f} us of CPU a call", flush=True)
                results.append(Result(f"calls.{name}_cpu_us.{who}", used, "us of CPU a call", conditions))
            results.append(Result(f"calls.{name}_per_s", common.median(found), "calls/s", conditions))
        for rate in RATES if SECONDS else ():
            for tool_class in CLASSES:
                plain = await paced(rate, direct)
                gated = await paced(rate, lambda c=tool_class: load.call(c))  # type: ignore[misc]
                results += added(rate, tool_class, plain, gated)
        busy = f"load average {os.getloadavg()[0]:.0f} at the end"
        results.append(Result("calls.not_released", load.failed.total(), "calls", busy))
        print(load.failed.most_common(3), flush=True)
    return results


def added(rate: int, tool_class: str, plain: list[float], gated: list[float]) -> list[Result]:
    """What the gate adds, by quantile."""
    found = []
    for p in (50, 95, 99):
        base, ours = (quantile(w, p / 100) * 1000 for w in (plain, gated))
        said = f"{rate}/s for {SECONDS} s, a direct call took {base:.1f} ms, {common.machine()}"
        found.append(Result(f"calls.added_ms.{tool_class}.{rate}.p{p}", ours - base, "ms", said))
    return found


def run() -> list[Result]:
    """Start everything, measure, stop everything."""
    with tempfile.TemporaryDirectory() as folder, common.broker(Path(folder)) as base, tool() as port:
        settings = common.environment(base, "calls")
        keys = Keys(settings.home)
        asyncio.run(operations.deploy(settings, keys, release(Path(folder)), "the bench's release"))
        keys.close()
        env = {
            "SLUICEGATE_TOOL_TOOLS_URL": f"http://127.0.0.1:{port}",
            "SLUICEGATE_EGRESS": f"127.0.0.1:{port}",
        }
        with Worker(settings), Worker(settings, "executor", env):
            return uvloop.run(measure(settings, port))


def main() -> None:
    """Run and write the results."""
    common.write("calls", run())


if __name__ == "__main__":
    main()
