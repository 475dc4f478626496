"""The official conformance suite of MCP against the gateway, where it is installed: Node 22 and `@modelcontextprotocol/conformance`.

    npm install --prefix DIR @modelcontextprotocol/conformance
    SLUICEGATE_MCP_CONFORMANCE=DIR/node_modules/@modelcontextprotocol/conformance/dist/index.js SLUICEGATE_NODE=node22 pytest ...

The suite sends no key, so a proxy puts one in. Scenarios of what is not served (resources, prompts, logging, completion, and tools that
stream images, progress or questions of their own) are left out by name.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.gateway.server import Gateway
from sluicegate.schemas.records import Dispatch

from tests.driver import release_files
from tests.executor_fakes import FakeAdapter
from tests.integration.gate import new_settings, running
from tests.integration.gateway_served import KEYS, Served

SUITE, NODE = os.environ.get("SLUICEGATE_MCP_CONFORMANCE", ""), os.environ.get("SLUICEGATE_NODE", "node")
SCENARIOS = (
    "server-initialize", "ping", "tools-list", "tools-call-simple-text", "tools-call-error", "json-schema-2020-12",
    "dns-rebinding-protection", "server-sse-multiple-streams",
)  # fmt: skip
PASSED_ON = (
    "Content-Type",
    "Accept",
    "Mcp-Session-Id",
    "Mcp-Protocol-Version",
    "Last-Event-ID",
    "Origin",
    "Host",
)
ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
SCHEMAS: dict[str, dict[str, object]] = {
    "test_simple_text": {"type": "object", "properties": {}},
    "test_error_handling": {"type": "object", "properties": {}},
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": ADDRESS},
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "additionalProperties": False,
    },
}

pytestmark = pytest.mark.skipif(not SUITE, reason="set SLUICEGATE_MCP_CONFORMANCE to the suite's index.js")


def contract(name: str) -> str:
    executor = {"kind": "http", "url": f"http://tools.invalid/{name}"}
    return json.dumps(
        {
            "name": name, "description": "A tool of the suite.", "inputSchema": SCHEMAS[name],
            "x-sluicegate": {"version": "1", "class": "read_only", "executor": executor, "timeout_ms": 2_000},
        }
    )  # fmt: skip


async def answer(dispatch: Dispatch) -> Answer:
    if dispatch.tool == "test_error_handling":
        return Failed("crashed", "This tool intentionally returns an error for testing")
    return Finished(b'"This is a simple text response for testing."')


@pytest.fixture(scope="module")
def served(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    files = {**release_files(), **{f"contracts/{name}.json": contract(name) for name in SCHEMAS}}
    actions = ", ".join(f'Action::"{name}"' for name in SCHEMAS)
    files["policies/suite.cedar"] = f'@id("suite") permit (principal, action in [{actions}], resource);'
    settings = new_settings(kafka, tmp_path_factory.mktemp("conformance"))
    with running(settings, files=files, control=KEYS, adapters={"http": FakeAdapter(answer)}) as (loop, gate):
        gateway = Gateway(settings)
        loop.run(gateway.start())
        try:
            yield Served(loop, gate, gateway)
        finally:
            loop.run(gateway.stop())


async def _with_key(served: Served, request: web.Request) -> web.Response:
    """The request again, with a key."""
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    headers["Authorization"] = f"Bearer {served.token()}"
    async with (
        aiohttp.ClientSession() as client,
        client.request(
            request.method, served.gateway.url + "/mcp", data=await request.read(), headers=headers
        ) as said,
    ):
        told = {n: said.headers[n] for n in ("Content-Type", "Mcp-Session-Id") if n in said.headers}
        return web.Response(status=said.status, body=await said.read(), headers=told)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_suite(scenario: str, served: Served, tmp_path: Path) -> None:
    async def main() -> tuple[int | None, str]:
        app = web.Application()
        app.router.add_route("*", "/mcp", partial(_with_key, served))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        suite = await asyncio.create_subprocess_exec(
            NODE, SUITE, "server", "--url", f"http://localhost:{port}/mcp", "--scenario", scenario, cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await suite.communicate()
        await runner.cleanup()
        return suite.returncode, said.decode()

    code, said = served.loop.run(main())
    assert code == 0, said
