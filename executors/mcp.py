"""The `mcp` adapter: a tool of an MCP server, over stdio or streamable HTTP, by the official SDK (extra `mcp`).

    {"kind": "mcp", "url": "${CRM_URL}/mcp", "tool": "lookup", "pinned": "sha256:..."}
    {"kind": "mcp", "command": "crm", "tool": "lookup", "pinned": "sha256:...", "env": {"CRM_KEY": "env:CRM_KEY"}}

Each call is a session of its own: connect, list, compare, call. A descriptor that is not the pinned one is refused before the
call, since its words and its schema are what people read when they wrote the contract.
Never takes a command from a release, never answers what a server asks back. Next: `mcp_wire.py`, `wire.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import rfc8785
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, RequestParamsMeta, TextContent, Tool
from sluicegate.executors.adapter import ERROR_CHARS, Answer, Failed, Finished
from sluicegate.executors.egress import Denied, Egress, Lookup, system_lookup
from sluicegate.executors.http_template import BadTemplate, compile_template
from sluicegate.executors.mcp_lazy import SERVERS, servers_from
from sluicegate.executors.mcp_wire import EgressTransport, answer_limit, client_over
from sluicegate.executors.secret_refs import NoSecret, fetch, filled, redact
from sluicegate.executors.wire import Wire, names_from, plain_names
from sluicegate.processors.artifacts import limit_of
from sluicegate.schemas.records import Dispatch

MAX_PAGES = 20
"""Of a server's list of tools; about 1,000 tools."""
KEY_META = "ai.sluicegate/idempotency-key"
END_LIMIT_S = 8.0
"""For the last sessions to end; the SDK gives a process 2 s, then 2 s after SIGTERM."""


@dataclass(slots=True)
class _Call:
    """One call on its way. `sent`: the call itself may have reached the server."""

    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    sent: bool = False
    denied: str = ""

    def end(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


def descriptor_hash(descriptor: Mapping[str, object]) -> str:
    """`sha256:<hex>` of the canonical JSON of what a server says about a tool, as `tools/list` gives it."""
    said = {k: v for k, v in descriptor.items() if v is not None and k != "_meta"}
    return (
        "sha256:" + hashlib.sha256(rfc8785.dumps(cast("dict[str, rfc8785._impl._Value]", said))).hexdigest()
    )


class McpAdapter:
    """Calls tools of MCP servers. Make it inside the event loop that uses it."""

    def __init__(
        self,
        egress: Egress,
        names: Mapping[str, str],
        commands: Mapping[str, list[str]],
        *,
        environ: Mapping[str, str] = os.environ,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._egress, self._environ = egress, environ
        self._names, self._commands = plain_names(names), dict(commands)
        self._wire = Wire(egress, lookup)
        self._running: set[asyncio.Task[None]] = set()
        self._silent = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (closed in close)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> McpAdapter:
        """Read `SLUICEGATE_EGRESS`, `SLUICEGATE_TOOL_*` and `SLUICEGATE_MCP_SERVERS`."""
        return cls(Egress.from_env(environ), names_from(environ), servers_from(environ), environ=environ)

    async def close(self) -> None:
        """End what still runs."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=END_LIMIT_S)
        await self._wire.close()
        self._silent.close()

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """One session with one call. Its end, which may take a process some time, is not waited for."""
        call = _Call()
        task = asyncio.create_task(self._session(dispatch, call))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            either: set[asyncio.Future[Any]] = {call.answer, task}
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if call.answer.done():
                return call.answer.result()
            return Failed("timeout", f"the server did not answer within {dispatch.timeout_ms} ms", call.sent)
        finally:
            if not call.answer.done():
                task.cancel()

    async def _session(self, dispatch: Dispatch, call: _Call) -> None:
        try:
            raw = cast("dict[str, Any]", orjson.loads(dispatch.executor))
            if not isinstance(raw.get("tool"), str) or not isinstance(raw.get("pinned"), str):
                raise BadTemplate("the contract names no `tool`, or pins no descriptor")
            secrets: list[str] = []
            async with self._connected(raw, secrets, call, limit_of(dispatch.executor)) as client:
                call.end(await self._called(client, raw, dispatch, secrets, call))
        except (BadTemplate, NoSecret) as error:
            call.end(Failed("crashed", str(error), sent=False))
        except Denied as error:
            call.end(Failed("egress_denied", str(error), sent=False))
        except Exception as error:  # the SDK's are of many kinds, and in groups; their texts may hold headers
            if call.denied:
                call.end(Failed("egress_denied", call.denied, sent=False))
            said = f"the session with the server broke ({type(error).__name__})"
            call.end(Failed("unreachable", said, call.sent))

    @asynccontextmanager
    async def _connected(
        self, raw: dict[str, Any], secrets: list[str], call: _Call, most: int
    ) -> AsyncIterator[Client]:
        if "command" in raw:
            command = self._commands.get(str(raw["command"]))
            if command is None:
                raise Denied(f"`{str(raw['command'])[:60]}` is not an allowed server, add it to {SERVERS}")
            variables = {
                name: await fetch(str(ref), self._environ) for name, ref in raw.get("env", {}).items()
            }
            secrets += variables.values()
            server = StdioServerParameters(command=command[0], args=command[1:], env=variables)
            async with Client(stdio_client(server, self._silent), cache=None) as client:
                yield client
            return
        template = compile_template(orjson.dumps({**raw, "method": "POST"}), self._names)
        if len(template.target) > 1:
            raise BadTemplate("the url of a server holds an argument, write a plain address")
        self._egress.check_host(template.host, template.port)
        headers, found = await filled(template.headers, self._environ)
        secrets += found

        def denied(said: str) -> None:
            call.denied = said

        transport = EgressTransport(self._wire, denied, answer_limit(most))
        async with client_over(transport, headers) as http:
            url = template.base + template.target[0]
            async with Client(streamable_http_client(url, http_client=http), cache=None) as client:
                yield client

    async def _called(
        self, client: Client, raw: dict[str, Any], dispatch: Dispatch, secrets: list[str], call: _Call
    ) -> Answer:
        tool = await _find(client, raw["tool"])
        if tool is None:
            said = f"the server has no tool `{raw['tool'][:60]}`"
            return Failed("refused_by_tool", said, sent=False)
        # INVARIANT: what a server changed after people read it is not called
        # (tests/unit/test_mcp_adapter.py::test_a_changed_descriptor_is_refused).
        found = descriptor_hash(tool.model_dump(mode="json", by_alias=True, exclude_none=True))
        if found != raw["pinned"]:
            said = f"the descriptor of `{tool.name[:60]}` is `{found}` and not the pinned one, read it and pin it"
            return Failed("descriptor_changed", said, sent=False)
        call.sent = True
        try:
            result = await client.session.call_tool(
                tool.name,
                cast("dict[str, Any]", orjson.loads(dispatch.arguments)),
                meta=cast("RequestParamsMeta", {KEY_META: dispatch.idempotency_key}),
            )
        except MCPError as error:
            text = redact(str(error).encode(), secrets).decode()[:ERROR_CHARS]
            return Failed("refused_by_tool", f"the server answered with an error: {text}")
        return _answer(result, secrets, limit_of(dispatch.executor))


async def _find(client: Client, name: str) -> Tool | None:
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if tool.name == name:
                return tool
        cursor = page.next_cursor
        if cursor is None:
            break
    return None


def _answer(result: CallToolResult, secrets: list[str], most: int) -> Answer:
    """Structured content as it is; else the text, or the texts."""
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    if result.is_error:
        text = redact(" ".join(texts).encode(), secrets).decode()[:ERROR_CHARS]
        return Failed("refused_by_tool", text)
    if result.structured_content is not None:
        value: object = result.structured_content
    elif len(texts) != len(result.content):
        return Failed("malformed_result", "the result holds what is no text")
    else:
        value = texts[0] if len(texts) == 1 else texts
    body = redact(orjson.dumps(value), secrets)
    if len(body) > most:
        return Failed("result_too_large", f"the result has more than {most} bytes")
    return Finished(body)
