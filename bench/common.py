"""What every bench shares: a broker, an environment with the example release, workers, and the results file.

Each result is `{name, value, unit, ratio_to, ratio, conditions}`. Figures are comparable within one run only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson
import yaml
from sluicegate.schemas import codec
from sluicegate.schemas.records import Intent, Message
from sluicegate.schemas.topics import full_name
from sluicegate.streams import demo, kafka, stack
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.settings import Settings

RESULTS = Path(__file__).parent / "results"
RELEASE = Path(__file__).parent.parent / "examples" / "release"


@dataclass
class Result:
    """One figure, with what it was measured against and how."""

    name: str
    value: float
    unit: str
    conditions: str
    ratio_to: str = ""
    ratio: float | None = None


def write(name: str, results: list[Result]) -> None:
    """Write `bench/results/<name>.json` and print the figures."""
    RESULTS.mkdir(exist_ok=True)
    for r in results:
        ratio = f"  = {r.ratio:.2f} x {r.ratio_to}" if r.ratio is not None else ""
        print(f"{r.name:28} {r.value:>12,.2f} {r.unit}{ratio}   [{r.conditions}]", flush=True)
    rows = [asdict(r) for r in results]
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


def machine() -> str:
    """The conditions that every figure shares."""
    return (
        f"{os.cpu_count()} cores at {pace_us():.2f} us a reference job, Python {platform.python_version()}, "
        "broker on the same machine"
    )


PACE_JOBS, PACE_BYTES = 100_000, 500


@functools.cache
def pace_us() -> float:
    """Microseconds of CPU that a fixed job costs here and now: cut and hash a record's bytes, and keep the parts in a dict.

    A virtual machine's cores are faster or slower by the hour; figures of two runs are compared by this one. 50 MB, half a second.
    """
    records = [random.Random(n).randbytes(PACE_BYTES) for n in range(PACE_JOBS)]
    runs, collecting = [], gc.isenabled()
    gc.disable()  # the heap of whoever measures is not looked through
    for _ in range(3):
        begun, kept = time.process_time(), {}
        for record in records:
            kept[record[3:19]] = (len(record), record[20:60], hashlib.sha256(record).digest())
        runs.append((time.process_time() - begun) / PACE_JOBS * 1e6)
    if collecting:
        gc.enable()
    return median(runs)


def quantile(values: list[float], q: float) -> float:
    """The q-quantile of measured values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


median = statistics.median


@contextlib.contextmanager
def broker(home: Path) -> Iterator[Settings]:
    """An embedded broker for one bench."""
    with EmbeddedBroker(home) as running:
        settings = Settings.from_env({"SLUICEGATE_HOME": str(home)})
        yield replace(settings, kafka=running.bootstrap)


def environment(settings: Settings, env: str, signing: str = "") -> Settings:
    """Topics, genesis, the example release and its agents under another prefix."""
    mine = replace(settings, env=env, home=settings.home / env)
    mine.home.mkdir(parents=True, exist_ok=True)
    asyncio.run(stack.prepare(mine, signing))
    asyncio.run(demo.deploy(mine, RELEASE.parent))
    return mine


def agents(role: str) -> list[str]:
    """Registered agents of a role."""
    rows = yaml.safe_load((RELEASE / "agents.yaml").read_text())["agents"]
    return [a for a, about in rows.items() if role in about["roles"]]


def tool_calls(limit: int) -> list[tuple[str, dict[str, object], str]]:
    """(tool, arguments, role) of recorded calls, over and over up to `limit`."""
    found = []
    for script in demo.scripts(RELEASE.parent, "bench"):
        for step in script.steps:
            if step.tool:
                found.append((step.tool, step.arguments, step.tool.split(".")[0]))
    return [found[i % len(found)] for i in range(limit)]


async def publish(
    settings: Settings,
    topic: str,
    records: list[Intent | Message],
    encode: Callable[[Intent | Message], bytes] = codec.encode,
) -> None:
    """Publish as fast as the broker takes it. `encode`: what signs, in a signed environment."""
    producer = await kafka.connect(kafka.producer(settings, linger_ms=5))
    last = None
    for record in records:
        last = await producer.send(
            full_name(settings.space, topic), encode(record), key=record.agent_id.encode()
        )
    await producer.flush()
    if last is not None:
        await last
    await producer.stop()


def opens(sessions: list[tuple[str, str]]) -> list[Intent | Message]:
    """session.open and one user message for each (agent, session)."""
    now = time.time_ns() // 1000
    found: list[Intent | Message] = []
    for agent, session in sessions:
        found.append(
            Message(f"{session}:o", agent, session, "session.open", now, goal="bench", on_behalf_of="bench")
        )
        found.append(Message(f"{session}:u", agent, session, "session.user_said", now, text="go on"))
    return found


def intents(
    count: int, sessions_by_role: dict[str, list[tuple[str, str]]], mark: str
) -> list[Intent | Message]:
    """`count` recorded tool calls as intents, spread over the sessions."""
    now = time.time_ns() // 1000
    found: list[Intent | Message] = []
    for i, (tool, arguments, role) in enumerate(tool_calls(count)):
        agent, session = sessions_by_role[role][i % len(sessions_by_role[role])]
        raw = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
        found.append(Intent(f"{mark}{i}", agent, session, "tool_call", tool, raw, now, now + 3_600_000_000))
    return found


def sessions_by_role(per_agent: int, mark: str) -> dict[str, list[tuple[str, str]]]:
    """Sessions of every registered agent."""
    return {
        role: [(a, f"{mark}-{a}-{n}") for n in range(per_agent) for a in agents(role)]
        for role in ("banking", "slack", "retail", "airline")
    }


class Worker:
    """One role process."""

    def __init__(self, settings: Settings, role: str = "ledger", env: dict[str, str] | None = None) -> None:
        self.stack = stack.Stack(settings, extra_env=env or {})
        self.role = self.stack.start_role(role)

    def __enter__(self) -> Worker:
        self.stack.wait_ready()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.stop()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return demo.metric(self.role.announce, name)

    def wait(self, name: str, value: float, limit_s: float = 300.0, poll_s: float = 0.02) -> None:
        """Until a metric reaches a value."""
        deadline = time.monotonic() + limit_s
        while self.metric(name) < value:
            self.stack.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is {self.metric(name)}, not {value}, after {limit_s} s")
            time.sleep(poll_s)
