"""The wire: one http request to a checked address, one answer read within a bound.

What the http, model and MCP adapters share. The request goes to an address that `egress.py` allowed. No redirects, no
cookies, no proxies from the environment, no compression, and nothing repeated. Whether anything can have reached the
other side is known from the moment a connection was handed out, and said in `sent`.
Never reads a contract and never lets an exception's text out: it may hold headers. Next: `round_trip.py` (an answer read
whole), `http.py`, `model.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.connector import Connection
from aiohttp.helpers import parse_content_type
from aiohttp.tracing import Trace
from sluicegate.executors.adapter import ERROR_CHARS, Failed
from sluicegate.executors.egress import CheckedResolver, Denied, Egress, Lookup, system_lookup
from sluicegate.executors.round_trip import DEFAULTS, RoundTrips, request_bytes
from sluicegate.executors.secret_refs import redact
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch
from yarl import URL

NAME_PREFIX = "SLUICEGATE_TOOL_"
"""`SLUICEGATE_TOOL_TOOLS_URL` is what a contract writes as `${TOOLS_URL}`."""
ERROR_READ_BYTES = 16_384
"""How much of a refusal is read; more than is kept, so that a secret in it is seen whole."""
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close an idle connection: a request never meets a closing one."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. `host` and `port` are what the egress list is asked about."""

    method: str
    url: URL
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back: `body` is all of it when `whole`, else its beginning."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes
    whole: bool


@dataclass(slots=True)
class _Progress:
    """How far one call came."""

    connected: bool = False


_progress: ContextVar[_Progress] = ContextVar("progress")


class _Connector(aiohttp.TCPConnector):
    """Remembers that a connection was handed out: before that nothing can have been sent."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        # INVARIANT: no call gets the answer of another one. What a server says unasked on an idle connection waits there
        # for the next request; such a connection is closed (tests/unit/test_wire.py::test_a_tool_that_answers_twice).
        while connection.protocol is not None and connection.protocol.should_close:
            connection.close()
            connection = await super().connect(req, traces, timeout)
        progress = _progress.get(None)
        if progress is not None:
            progress.connected = True
        return connection


class Wire:
    """Requests of one process. Make it inside the event loop that uses it."""

    def __init__(self, egress: Egress, lookup: Lookup = system_lookup) -> None:
        self._egress = egress
        connector = _Connector(
            resolver=CheckedResolver(egress, lookup), limit=0, keepalive_timeout=KEEP_ALIVE_S
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            trust_env=False,
            headers=DEFAULTS,
        )
        # INVARIANT: never sent twice. aiohttp repeats GET, PUT and DELETE when a kept connection breaks; there is no
        # public way to forbid it (tests/unit/test_http_adapter.py::test_broken_connection_is_not_retried).
        self._session._retry_connection = False
        self._trips = RoundTrips(connector)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def open(
        self, target: Target, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        """One request whose body the caller reads, bounds and closes. Raises `Denied`, and what aiohttp raises."""
        _progress.set(_Progress())
        self._egress.check_host(target.host, target.port)
        return await self._session.request(
            target.method, target.url, headers=headers, data=body, allow_redirects=False
        )

    async def begin(
        self, target: Target, headers: Mapping[str, str], body: bytes | None, *, timeout_s: float
    ) -> aiohttp.ClientResponse | Answered | Failed:
        """One request whose 2xx answer the caller reads part by part bounds and closes; any other answer is read here."""
        progress = _Progress()
        _progress.set(progress)
        try:
            self._egress.check_host(target.host, target.port)
            async with asyncio.timeout(timeout_s):
                response = await self._session.request(
                    target.method, target.url, headers=headers, data=body, allow_redirects=False
                )
                if 200 <= response.status < 300:
                    return response
                async with response:
                    return await answered(response, ERROR_READ_BYTES)
        except Denied as error:
            return Failed("egress_denied", str(error), sent=False)
        except TimeoutError:
            step = "said nothing" if progress.connected else "could not be connected to"
            return Failed("timeout", f"the tool {step} within {timeout_s * 1000:.0f} ms", progress.connected)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _broken(error, progress.connected, f"{target.host}:{target.port}")

    async def exchange(
        self, target: Target, headers: Mapping[str, str], body: bytes | None, *, limit: int, timeout_s: float
    ) -> Answered | Failed:
        """One request; at most `limit` bytes of a 2xx body are read, `ERROR_READ_BYTES` of another one."""
        connected = False
        place = f"{target.host}:{target.port}"
        try:
            self._egress.check_host(target.host, target.port)
            request = request_bytes(target.method, target.url, headers, body)
            async with asyncio.timeout(timeout_s):
                connection = await self._trips.connect(target.url)
                connected = True
                told = await self._trips.exchange(connection, request, limit, ERROR_READ_BYTES)
            kind = told.headers.get("Content-Type")
            return Answered(
                told.status,
                told.headers,
                parse_content_type(kind)[0] if kind is not None else "application/octet-stream",
                told.body,
                told.whole,
            )
        except Denied as error:
            return Failed("egress_denied", str(error), sent=False)
        except TimeoutError:
            step = "did not answer" if connected else "could not be connected to"
            return Failed("timeout", f"the tool {step} within {timeout_s * 1000:.0f} ms", connected)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _broken(error, connected, place)


def plain_names(names: Mapping[str, str]) -> dict[str, str]:
    """The addresses that contracts name as `${NAME}`. Raises `Terminal` for one that is a template itself."""
    for name, value in names.items():
        if set(value) & set("{}$"):
            raise Terminal(f"`{NAME_PREFIX}{name}` holds `{{`, `}}` or `$`, write a plain address")
    return {name: value.rstrip("/") for name, value in names.items()}


def names_from(environ: Mapping[str, str]) -> dict[str, str]:
    """`SLUICEGATE_TOOL_*` without the prefix."""
    return {k.removeprefix(NAME_PREFIX): v for k, v in environ.items() if k.startswith(NAME_PREFIX)}


def call_headers(dispatch: Dispatch) -> dict[str, str]:
    """What every request carries about its call: the idempotency key, the intent, the attempt and the trace."""
    headers = {
        "Idempotency-Key": dispatch.idempotency_key,
        "X-Sluicegate-Intent": _plain(dispatch.intent_id),
        "X-Sluicegate-Attempt": str(dispatch.attempt),
    }
    if _TRACEPARENT.fullmatch(dispatch.traceparent):
        headers["traceparent"] = dispatch.traceparent
    return headers


def refusal_text(answered: Answered, secrets: list[str]) -> str:
    """A refusal in a line: its status and the beginning of its body, without secrets."""
    if 300 <= answered.status < 400:
        return f"{answered.status}: a redirect is not followed, write the final address into the contract"
    body = redact(answered.body, secrets)
    if not answered.whole:  # the end may be half a secret
        body = body[: -max(map(len, secrets), default=0) or None]
    text = " ".join(body.decode("utf-8", "replace")[:ERROR_CHARS].split())
    return f"{answered.status}: {text}"


def _plain(text: str) -> str:
    """An agent chose this text: what no header may hold is quoted."""
    return text if text.isascii() and text.isprintable() else quote(text, safe=":/")


def _broken(error: Exception, connected: bool, place: str) -> Failed:
    """A call that ended without an answer. The exception's text is left out: it may hold headers."""
    kind = type(error).__name__
    if not connected:
        if isinstance(error, aiohttp.ClientConnectionError | OSError):
            return Failed("unreachable", f"`{place}` cannot be connected to ({kind})", sent=False)
        return Failed("crashed", f"the request to `{place}` could not be made ({kind})", sent=False)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return Failed("malformed_result", f"`{place}` answered with what is no http ({kind})")
    return Failed("unreachable", f"the connection to `{place}` broke after the request ({kind})")


async def answered(response: aiohttp.ClientResponse, limit: int) -> Answered:
    """A response read up to a limit. What is left unread closes the connection. A redirect's body is nobody's business."""
    if 300 <= response.status < 400:
        response.close()
        return Answered(response.status, response.headers, response.content_type, b"", False)
    limit = limit if 200 <= response.status < 300 else ERROR_READ_BYTES
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        part = await response.content.read(limit + 1 - size)
        if not part:
            return Answered(response.status, response.headers, response.content_type, b"".join(parts), True)
        parts.append(part)
        size += len(part)
    response.close()
    return Answered(response.status, response.headers, response.content_type, b"".join(parts)[:limit], False)
