"""The `mcp` adapter until it is needed: the SDK is loaded at the first call, which costs 40 MB and half a second.

What the operator configured is read at once, so that a mistake is said at the start. Next: `mcp.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shlex
from collections.abc import Mapping
from importlib.util import find_spec

from sluicegate.executors.adapter import Adapter, Answer, Failed
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch

SERVERS = "SLUICEGATE_MCP_SERVERS"
"""`crm=/usr/bin/crm --stdio; notes=...`: the commands that contracts may name."""


def servers_from(environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Name -> command with arguments. Raises `Terminal` for what is none."""
    found: dict[str, list[str]] = {}
    for part in filter(None, (p.strip() for p in environ.get(SERVERS, "").split(";"))):
        name, _, text = part.partition("=")
        try:
            command = shlex.split(text)
        except ValueError:
            command = []
        if not name.strip() or not command:
            raise Terminal(f"`{part[:60]}` in {SERVERS} is not name=command with arguments")
        found[name.strip()] = command
    return found


class LazyMcpAdapter:
    """`McpAdapter`, made at its first call."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        if servers_from(environ) and find_spec("mcp") is None:
            raise Terminal(f"{SERVERS} is set, but the SDK is not installed: pip install sluicegate[mcp]")
        self._environ = environ
        self._loading = asyncio.Lock()
        self._adapter: Adapter | None = None

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """As `McpAdapter.call`; loading the SDK counts towards the first call's time."""
        began = asyncio.get_running_loop().time()
        async with self._loading:
            if self._adapter is None:
                if find_spec("mcp") is None:
                    said = "the SDK is not installed where the executors run: pip install sluicegate[mcp]"
                    return Failed("crashed", said, sent=False)
                # In a thread: other calls go on meanwhile.
                await asyncio.to_thread(importlib.import_module, "sluicegate.executors.mcp")
                from sluicegate.executors.mcp import McpAdapter

                self._adapter = McpAdapter.from_env(self._environ)
        left_s = timeout_s - (asyncio.get_running_loop().time() - began)
        if left_s <= 0:
            return Failed("timeout", "loading the SDK took all the time", sent=False)
        return await self._adapter.call(dispatch, left_s)

    async def close(self) -> None:
        """Close it if it was made."""
        if self._adapter is not None:
            await self._adapter.close()
