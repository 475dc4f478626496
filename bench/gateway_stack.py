"""What the benches of the gateway share: an instant OpenAI-compatible server, a broker, one ledger worker, one executor, one gateway.

Everything on one machine, each in a process of its own. Next: `gateway.py` (completions), `gateway_sse.py` (event streams).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sluicegate.streams.control import api_keys, operations
from sluicegate.streams.embedded.process import free_ports
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.roles import GATEWAY_LISTEN
from sluicegate.streams.settings import Settings

from bench import common
from bench.common import Worker

RATE_PER_S = 100_000
"""Of each API key: never what is measured."""
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


@dataclass(frozen=True, slots=True)
class Running:
    """What runs.

    Attributes:
        gateway, upstream: where they listen.
        tokens: an API key for each agent `bench-<number>`, by number.
        worker, process: of the gateway.
    """

    settings: Settings
    gateway: str
    upstream: str
    tokens: list[str]
    worker: Worker
    process: psutil.Process


@contextmanager
def running(
    env: str, agents: int, tenants: tuple[str, ...] = ("bench",), gateway_env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """The whole, for one bench: `agents` of `tenants` by turns."""
    with tempfile.TemporaryDirectory() as name, _upstream() as port:
        folder = Path(name)
        with common.broker(folder / "home") as base:
            settings = common.environment(base, env)
            tokens = asyncio.run(_prepare(settings, _release(folder / "release"), agents, tenants))
            outside = {
                "SLUICEGATE_TOOL_MODEL_URL": f"http://127.0.0.1:{port}",
                "SLUICEGATE_EGRESS": f"127.0.0.1:{port}",
            }
            listen = f"127.0.0.1:{free_ports(0)[0]}"
            with (
                Worker(settings),
                Worker(settings, "executor", outside),
                Worker(settings, "gateway", {GATEWAY_LISTEN: listen, **(gateway_env or {})}) as gateway,
            ):
                process = psutil.Process(gateway.role.process.pid)
                yield Running(
                    settings, f"http://{listen}", f"http://127.0.0.1:{port}", tokens, gateway, process
                )


@contextmanager
def _upstream() -> Iterator[int]:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.instant", "model"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


def _release(folder: Path) -> Path:
    """One model, for everybody."""
    for name in ("contracts", "policies"):
        (folder / name).mkdir(parents=True)
    (folder / "release.yaml").write_text("name: gateway-bench\nversion: '1'\n")
    (folder / "contracts" / "bench.model.json").write_text(json.dumps(CONTRACT))
    (folder / "policies" / "all.cedar").write_text(
        '@id("all") permit (principal, action == Action::"bench.model", resource);\n'
    )
    return folder


async def _prepare(settings: Settings, folder: Path, agents: int, tenants: tuple[str, ...]) -> list[str]:
    """Agents, the release, and an API key for each agent."""
    keys = Keys(settings.home)
    names = [f"bench-{n}" for n in range(agents)]
    try:
        rows: list[operations.Row] = [
            {"agent_id": name, "tenant": tenants[n % len(tenants)], "roles": ["bench"]}
            for n, name in enumerate(names)
        ]
        await operations.register_agents(settings, keys, rows, "a bench")
        await operations.deploy(settings, keys, folder, "a bench")
        return [
            (await api_keys.create(settings, keys, name, ["agent"], "a bench", rate_per_s=RATE_PER_S)).token
            for name in names
        ]
    finally:
        keys.close()
