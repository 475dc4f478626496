"""How the MCP SDK reaches the network: through `wire.py`, so that the egress rules hold for it as for every other call.

A transport for the SDK's http client. It resolves, checks and connects as all adapters do, follows nothing, and reads at
most `ANSWER_BYTES` of a response, and twice what a large result may have. Next: `mcp.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
import httpx2
from sluicegate.executors.egress import Denied
from sluicegate.executors.wire import Target, Wire
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from yarl import URL

ANSWER_BYTES = 1_048_576
"""Of one response: 64 kB of result, or one page of a list of tools."""
_OURS = ("accept-encoding", "host", "content-length", "connection", "user-agent")


def answer_limit(most: int) -> int:
    """What is read of a response, by what its result may have: a server may say it twice, as text and as structure."""
    return ANSWER_BYTES if most <= MAX_RESULT_BYTES else ANSWER_BYTES + 2 * most


class _Body(httpx2.AsyncByteStream):
    """A response's bytes as they come."""

    def __init__(self, response: aiohttp.ClientResponse, limit: int) -> None:
        self._response, self._limit = response, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for part in self._response.content.iter_any():
                size += len(part)
                if size > self._limit:
                    raise httpx2.ReadError(f"the response has more than {self._limit} bytes")
                yield part
        except aiohttp.ClientError as error:
            raise httpx2.ReadError(type(error).__name__) from None

    async def aclose(self) -> None:
        self._response.close()


class EgressTransport(httpx2.AsyncBaseTransport):
    """`denied` is told what the egress rules said, which the SDK would lose."""

    def __init__(self, wire: Wire, denied: Callable[[str], None], limit: int = ANSWER_BYTES) -> None:
        self._wire, self._denied, self._limit = wire, denied, limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request."""
        url = URL(str(request.url), encoded=True)
        target = Target(request.method, url, url.host or "", url.port or 0)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
        body = await request.aread()
        try:
            response = await self._wire.open(target, headers, body or None)
        except Denied as error:
            self._denied(str(error))
            raise httpx2.ConnectError("not allowed") from None
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ConnectError(type(error).__name__) from None
        return httpx2.Response(
            response.status,
            headers=[(name, value) for name, value in response.headers.items()],
            stream=_Body(response, self._limit),
        )


def client_over(transport: EgressTransport, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    """An http client of the SDK's kind. The time is bounded by the call, not here."""
    return httpx2.AsyncClient(
        transport=transport, headers=dict(headers), timeout=None, trust_env=False, follow_redirects=False
    )
