"""The tool catalogue of an MCP server: from a file, over HTTP, or from a command that speaks it on its standard streams.

Only `initialize` and `tools/list` are asked, never a tool. A server's words about itself are guesses here.
Next: `processors/releases/first_contracts.py`, `commands/release_init.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.schemas.errors import Retryable, Terminal

if TYPE_CHECKING:
    import httpx

ANSWER_LIMIT_S = 60.0
"""For one answer: a server started by `npx` or `uvx` may install itself first."""
MAX_PAGES = 100
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""One page of a catalogue; the largest recorded has 100 kB."""
PROTOCOL = "2025-06-18"

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


def list_tools(source: str) -> list[Any]:
    """The tools of a file, an http(s) address or a command line. Raises `Terminal` or `Retryable`."""
    if Path(source).is_file():
        return _from_file(Path(source))
    remote = source.startswith(("http://", "https://"))
    return asyncio.run(_over_http(source) if remote else _from_command(source))


def _from_file(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise Terminal(f"`{path}` is no JSON: {error}") from error
    if isinstance(found, dict) and isinstance(found.get("result"), dict):
        found = found["result"]
    if isinstance(found, dict):
        found = found.get("tools")
    if not isinstance(found, list):
        raise Terminal(f"`{path}` holds no tools, it needs what `tools/list` answers")
    return found


async def _catalogue(ask: Ask, initialized: Callable[[], Awaitable[None]]) -> list[Any]:
    """Greet, then read page after page."""
    client = {"name": "sluicegate", "version": "0"}
    await ask("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client})
    await initialized()
    tools: list[Any] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await ask("tools/list", {"cursor": cursor} if cursor else {})
        tools += page.get("tools") or []
        cursor = page.get("nextCursor")
        if not cursor:
            return tools
    raise Terminal(f"the catalogue has over {MAX_PAGES} pages, look at the server")


def _result(answer: Any, method: str) -> dict[str, Any]:
    if not isinstance(answer, dict) or not isinstance(answer.get("result"), dict):
        said = answer.get("error") if isinstance(answer, dict) else answer
        raise Terminal(f"the server refused `{method}`: {str(said)[:200]}")
    return dict(answer["result"])


async def _over_http(url: str) -> list[Any]:
    import httpx  # a tenth of a second that every other `release` command goes without

    headers = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(timeout=ANSWER_LIMIT_S) as client:

        async def post(message: dict[str, Any]) -> httpx.Response:
            try:
                answer = await client.post(url, json=message, headers=headers)
                answer.raise_for_status()
            except httpx.HTTPStatusError as error:
                raise Terminal(
                    f"`{url}` answers {error.response.status_code} to `{message['method']}`"
                ) from error
            except httpx.HTTPError as error:
                raise Retryable(f"`{url}` cannot be reached: {error}, start the server") from error
            if session := answer.headers.get("mcp-session-id"):
                headers["mcp-session-id"] = session
            return answer

        async def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
            answer = await post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
            return _result(_body(answer), method)

        async def initialized() -> None:
            headers["mcp-protocol-version"] = PROTOCOL
            await post({"jsonrpc": "2.0", "method": "notifications/initialized"})

        return await _catalogue(ask, initialized)


def _body(answer: httpx.Response) -> Any:
    """The JSON of an answer, or of the last event of a stream."""
    text = answer.text
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        data = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
        text = data[-1] if data else ""
    try:
        return json.loads(text)
    except ValueError as error:
        raise Terminal(f"`{answer.url}` answers with no JSON, is it an MCP server?") from error


async def _from_command(command: str) -> list[Any]:
    try:
        words = shlex.split(command)
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            limit=MAX_ANSWER_BYTES,
        )  # fmt: skip
    except (OSError, ValueError, TypeError) as error:
        raise Terminal(f"`{command}` is no file, no http address, and does not start: {error}") from error
    assert process.stdin is not None and process.stdout is not None
    writer, reader = process.stdin, process.stdout

    async def send(message: dict[str, Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()

    async def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
        await send({"jsonrpc": "2.0", "id": method, "method": method, "params": params})
        while True:
            line = await reader.readline()
            if not line:
                raise Terminal(f"`{command}` ended before it answered `{method}`")
            with contextlib.suppress(ValueError):  # what is no JSON is a log line
                answer = json.loads(line)
                if isinstance(answer, dict) and answer.get("id") == method:
                    return _result(answer, method)

    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            return await _catalogue(
                ask, lambda: send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            )
    except TimeoutError as error:
        raise Retryable(
            f"`{command}` did not answer within {ANSWER_LIMIT_S:.0f} s, try it by hand"
        ) from error
    except (OSError, ValueError) as error:
        raise Terminal(f"`{command}` does not speak MCP on its standard streams: {error}") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
