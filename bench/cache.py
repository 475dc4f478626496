"""The cache's bar: 10,000 requests of 50 agents on three partitions, 1,000 of them distinct, 64 at a time.

Agents and requests are drawn so that every request is asked by ten agents of different partitions, near each other in
time. The tool takes a moment to answer and journals every call. `cache.upstream_calls` must be the number of distinct
requests. `BENCH_CACHE_CALLS` makes it smaller.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.schemas import records as r
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.verify.ledger import Report, verify

from bench import common
from bench.common import Result
from tests.crash.harness import World, world
from tests.servers.tool_server import ToolProcess

CALLS = int(os.environ.get("BENCH_CACHE_CALLS", "10000"))
AGENTS, EACH, AT_ONCE = 50, 10, 64
ANSWER_LIMIT_S = 120.0
TTL_S = 3_600


def write_release(folder: Path) -> Path:
    """One read-only tool whose results a tenant shares."""
    (folder / "contracts").mkdir(parents=True)
    (folder / "policies").mkdir()
    (folder / "release.yaml").write_text('name: cache-bar\nversion: "1"\n')
    (folder / "policies" / "all.cedar").write_text('@id("all") permit (principal, action, resource);\n')
    contract = {
        "name": "cache.look",
        "description": "Looks something up.",
        "inputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        "x-sluicegate": {
            "class": "read_only", "timeout_ms": 10_000, "cache": {"scope": "tenant", "ttl_s": TTL_S},
            "executor": {"kind": "http", "method": "POST", "url": "${TOOLS_URL}/ok/look"},
        },
    }  # fmt: skip
    (folder / "contracts" / "cache.look.json").write_text(json.dumps(contract))
    return folder


def agent_rows(count: int = AGENTS) -> list[dict[str, object]]:
    """Agents of one tenant."""
    return [{"agent_id": f"cache-agent-{n}", "tenant": "acme", "roles": ["all"]} for n in range(count)]


@dataclass
class Found:
    """What came of a run."""

    told: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    times_ms: list[float] = field(default_factory=list)
    upstream: int = 0
    seconds: float = 0.0
    report: Report | None = None


def run(running: World, calls: int, agents: int = AGENTS) -> Found:
    """Play it against a running world whose release is `write_release`'s."""
    found = Found()
    asyncio.run(_play(running, calls, agents, found))
    with urllib.request.urlopen(f"{running.tools.url}/journal", timeout=30) as answer:
        found.upstream = sum(json.load(answer)["requests"].values())
    found.report = asyncio.run(verify(running.settings, clickhouse=False))
    return found


async def _play(running: World, calls: int, agents: int, found: Found) -> None:
    names = [f"cache-agent-{n}" for n in range(agents)]
    gate = asyncio.Semaphore(AT_ONCE)
    async with Fleet(running.settings, running.settings.partitions) as fleet:
        for name in names:
            opened = r.Message(f"{name}-open", name, f"{name}-s", "session.open", _now())
            assert await fleet.ask("messages", opened, opened.message_id, ANSWER_LIMIT_S) is not None

        async def one(number: int) -> None:
            # The same request comes from ten agents, one after the other in the queue.
            request, agent = number // EACH, names[number * 7 % agents]
            arguments = json.dumps({"n": request}).encode()
            async with gate:
                began = time.perf_counter()
                intent = r.Intent(
                    f"look-{number}", agent, f"{agent}-s", "tool_call", "cache.look", arguments, _now()
                )
                reply = await fleet.ask("intents", intent, intent.intent_id, ANSWER_LIMIT_S)
                found.times_ms.append((time.perf_counter() - began) * 1_000)
            if reply is None:
                found.told["unanswered"] += 1
                return
            found.told[f"{reply.status} {reply.reason}".strip()] += 1
            if reply.result is None or json.loads(reply.result)["did"] != {"n": request}:
                found.wrong += 1

        began = time.perf_counter()
        await asyncio.gather(*(one(n) for n in range(calls)))
        found.seconds = time.perf_counter() - began


def _now() -> int:
    return time.time_ns() // 1000


def main() -> None:
    """Run and write the results; ends with 1 when a request was made twice, or answered wrongly."""
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home) / "kafka") as broker:
        release, rows = write_release(Path(home) / "release"), agent_rows()
        roles = {"ledger": 3, "executor": 1}
        with world(
            broker.bootstrap, "", Path(home) / "state", release, roles, tools=ToolProcess(), agents=rows
        ) as running:
            found = run(running, CALLS)
            partitions = running.settings.partitions
    distinct = -(-CALLS // EACH)
    at = {partition_of(str(row["agent_id"]), partitions) for row in rows}
    conditions = (
        f"{CALLS:,} requests of {AGENTS} agents on {len(at)} partitions, {distinct:,} distinct, {AT_ONCE} at a time, 3 ledger "
        f"workers, {found.seconds:.0f} s, {common.machine()}"
    )
    assert found.report is not None
    print(f"told: {dict(found.told)}, wrong: {found.wrong}\nledger verify: {found.report.verdict}")
    common.write(
        "cache",
        [
            Result("cache.upstream_calls", found.upstream, "calls", conditions, "distinct requests", found.upstream / distinct),
            Result("cache.answered_per_s", CALLS / found.seconds, "requests/s", conditions),
            Result("cache.answer_p50", common.quantile(found.times_ms, 0.5), "ms", conditions),
            Result("cache.answer_p95", common.quantile(found.times_ms, 0.95), "ms", conditions),
        ],
    )  # fmt: skip
    right = found.upstream == distinct and found.told == {"released": CALLS} and not found.wrong
    if not (right and found.report.ok):
        sys.exit(1)


if __name__ == "__main__":
    main()
