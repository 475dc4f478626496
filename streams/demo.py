"""The demo: recorded agent traffic through the whole stack, and what came of it.

Starts the stack and a small HTTP tool server that answers with the recorded results, deploys `examples/release`,
plays `examples/traffic` with many sessions side by side, and reports. The strings it sends, injected instructions
included, are data. Never part of a deployment. Next: `fleet.py`, `stack.py`, `commands/demo.py`.
"""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.records import Reply
from sluicegate.streams import stack, topics
from sluicegate.streams.control import operations
from sluicegate.streams.fleet import SESSIONS_AT_ONCE, Fleet, Result, Script, Step
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

SUITES = ("banking", "slack", "retail", "airline")
READY_LIMIT_S = 15.0
SINK_LIMIT_S = 20.0
INTERESTING = 5


@dataclass(slots=True)
class Report:
    """What the demo saw."""

    results: list[Result] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0

    def latencies_ms(self) -> tuple[float, float, float]:
        """p50, p95, p99 from publish to reply, in milliseconds."""
        waits = sorted(r.waited_s * 1000 for r in self.results if r.reply is not None)
        if not waits:
            return (0.0, 0.0, 0.0)
        return tuple(waits[min(len(waits) - 1, int(len(waits) * q))] for q in (0.5, 0.95, 0.99))  # type: ignore[return-value]

    def refusals(self) -> list[Reply]:
        """The most telling refusals: one of each reason and policy, rare ones first."""
        groups: dict[tuple[str, ...], list[Reply]] = {}
        for result in self.results:
            if result.reply is not None and result.reply.status == "refused":
                key = (result.reply.stage, result.reply.reason, *result.reply.policies)
                groups.setdefault(key, []).append(result.reply)
        order = sorted(groups.values(), key=lambda g: (g[0].stage != "authorize", -len(g)))
        chosen = [g[0] for g in order]
        reasons: set[str] = set()
        first = [r for r in chosen if not (r.reason in reasons or reasons.add(r.reason))]  # type: ignore[func-returns-value]
        return (first + [r for r in chosen if r not in first])[:INTERESTING]


def examples() -> Path:
    """The examples folder of the checkout. Raises `Terminal` outside of one."""
    folder = Path(__file__).resolve().parent.parent / "examples"
    if not (folder / "release" / "release.yaml").is_file():
        raise Terminal("the demo needs a checkout with its examples/ folder: git clone, then make run")
    return folder


def scripts(folder: Path, run: str) -> list[Script]:
    """The recorded sessions, marked with this run so that a ledger may see them again."""
    found: dict[str, Script] = {}
    for suite in SUITES:
        with gzip.open(folder / "traffic" / f"{suite}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                script = found.get(row["session"])
                if script is None:
                    script = found[row["session"]] = Script(f"{row['session']}@{run}", row["agent"], [])
                if row["kind"] == "user_message":
                    script.steps.append(Step(row["seq"], text=row["text"] or " "))
                else:
                    tool = f"{suite}.{row['tool']}"
                    script.steps.append(Step(row["seq"], tool=tool, arguments=row["arguments"]))
    # Suites take turns, so that every part of a run looks alike.
    by_suite: dict[str, list[Script]] = {}
    for script in found.values():
        by_suite.setdefault(script.session_id.split("-")[0], []).append(script)
    rows = [s for group in by_suite.values() for s in enumerate(group)]
    return [s for _, s in sorted(rows, key=lambda pair: pair[0])]


class ToolServer:
    """The recorded tools behind HTTP, in a process of its own, which ends with this one, even by SIGKILL."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        script = folder / "traffic" / "tool_server.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--port", str(self.port), "--die-with-parent"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        """What the executors must know: the placeholder in contracts, and that this address may be called."""
        return {"SLUICEGATE_TOOL_TOOLS_URL": self.url, "SLUICEGATE_EGRESS": f"127.0.0.1:{self.port}"}

    def wait_ready(self) -> None:
        """Until it answers. Raises `Retryable`."""
        deadline = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/journal", timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Retryable("the demo's tool server did not start, run the demo again")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


async def deploy(settings: Settings, folder: Path) -> int:
    """Register the recorded agents and deploy the example release; returns the control head."""
    keys = Keys(settings.home)
    try:
        await operations.register_agents(
            settings, keys, operations.read_agents(folder / "release" / "agents.yaml"), "the demo's agents"
        )
        _, head = await operations.deploy(settings, keys, folder / "release", "the demo's release")
        return head
    finally:
        keys.close()


def wait_for_head(running: stack.Stack, head: int) -> None:
    """Until every ledger worker decides under this control head. Raises `Retryable`."""
    deadline = time.monotonic() + READY_LIMIT_S
    for role in [r for r in running.roles if r.name == "ledger"]:
        while metric(role.announce, "sluicegate_control_head") < head:
            if time.monotonic() > deadline:
                raise Retryable(f"a worker did not see control event {head} in time, see the logs")
            time.sleep(0.05)


def metric(announce: Path, name: str) -> float:
    """The sum of one metric of a role's process; -1 when it does not answer."""
    try:
        port = json.loads(announce.read_text())["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except (OSError, ValueError, KeyError):
        return -1.0
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))


async def play(settings: Settings, todo: list[Script], on_step: Callable[[int], None]) -> Report:
    """Publish everything and wait for the replies."""
    report = Report(steps=sum(len(s.steps) for s in todo))
    async with Fleet(settings, await topics.partitions_of(settings)) as fleet:
        started = time.perf_counter()
        await fleet.play(todo, on_step)
        report.seconds = time.perf_counter() - started
        report.results = fleet.results
    return report


def new_run() -> str:
    """A short mark for one run."""
    return secrets.token_hex(3)


def wait_for_sink(running: stack.Stack) -> float:
    """Until ClickHouse has everything, or for a while; returns the records it still lacks."""
    deadline = time.monotonic() + SINK_LIMIT_S
    sinks = [r for r in running.roles if r.name == "projector"]
    lag = 1.0
    while sinks and lag and time.monotonic() < deadline:
        time.sleep(0.1)
        lag = sum(max(0.0, metric(r.announce, "sluicegate_sink_lag")) for r in sinks)
    return lag


__all__ = ["SESSIONS_AT_ONCE", "Report", "ToolServer", "deploy", "examples", "metric", "play", "scripts"]
