"""The `http` adapter: one request, one answer, nothing repeated, nothing followed.

The request goes to a checked address (`egress.py`) and carries the idempotency key, the intent's id and the trace.
No redirects, no retries, no cookies, no proxies from the environment, no compression, 64 kB at most. Whether anything can
have reached the tool is known from the moment a connection was handed out, and said in `sent`.
Never puts a secret or an exception's text into an answer. Next: `http_template.py`, `egress.py`, `secret_refs.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from sluicegate.executors.adapter import ERROR_CHARS, Answer, Failed, Finished
from sluicegate.executors.egress import CheckedResolver, Denied, Egress, Lookup, system_lookup
from sluicegate.executors.http_template import (
    WITH_BODY,
    BadTemplate,
    Template,
    compile_template,
    point,
)
from sluicegate.executors.secret_refs import NoSecret, fetch, redact
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_RESULT_BYTES

NAME_PREFIX = "SLUICEGATE_TOOL_"
"""`SLUICEGATE_TOOL_TOOLS_URL` is what a contract writes as `${TOOLS_URL}`."""
ENVELOPE_BYTES = 1_024
"""What an answer may have around its result: `{"result": ...}` and white space."""
ERROR_READ_BYTES = 16_384
"""How much of a refusal is read; more than is kept, so that a secret in it is seen whole."""
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close an idle connection: a request never meets a closing one."""
TEMPLATES = 4_096
"""Compiled executor objects kept; a release has one for each contract."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class _Progress:
    """How far one call came."""

    connected: bool = False


_progress: ContextVar[_Progress] = ContextVar("progress")


class _Connector(aiohttp.TCPConnector):
    """Remembers that a connection was handed out: before that nothing can have been sent."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        _progress.get().connected = True
        return connection


class HttpAdapter:
    """Calls tools over http. Make it inside the event loop that uses it."""

    def __init__(
        self,
        egress: Egress,
        names: Mapping[str, str],
        *,
        environ: Mapping[str, str] = os.environ,
        lookup: Lookup = system_lookup,
    ) -> None:
        for name, value in names.items():
            if set(value) & set("{}$"):
                raise Terminal(f"`{NAME_PREFIX}{name}` holds `{{`, `}}` or `$`, write a plain address")
        self._egress = egress
        self._environ = environ
        plain = {name: value.rstrip("/") for name, value in names.items()}
        self._template = lru_cache(maxsize=TEMPLATES)(lambda executor: compile_template(executor, plain))
        connector = _Connector(
            resolver=CheckedResolver(egress, lookup), limit=0, keepalive_timeout=KEEP_ALIVE_S
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_connect=None),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "sluicegate", "Accept-Encoding": "identity"},
        )
        # INVARIANT: never sent twice. aiohttp repeats GET, PUT and DELETE when a kept connection breaks; there is no
        # public way to forbid it (tests/unit/test_http_adapter.py::test_broken_connection_is_not_retried).
        self._session._retry_connection = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> HttpAdapter:
        """Read `SLUICEGATE_EGRESS` and `SLUICEGATE_TOOL_*`."""
        names = {k.removeprefix(NAME_PREFIX): v for k, v in environ.items() if k.startswith(NAME_PREFIX)}
        return cls(Egress.from_env(environ), names, environ=environ)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """One request."""
        progress = _Progress()
        _progress.set(progress)
        try:
            template: Template = self._template(dispatch.executor)
            self._egress.check_host(template.host, template.port)
            async with asyncio.timeout(timeout_s):
                return await self._request(template, dispatch)
        except Denied as error:
            return Failed("egress_denied", str(error), sent=False)
        except (BadTemplate, NoSecret) as error:
            return Failed("crashed", str(error), sent=False)
        except TimeoutError:
            step = "did not answer" if progress.connected else "could not be connected to"
            return Failed("timeout", f"the tool {step} within {dispatch.timeout_ms} ms", progress.connected)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _broken(error, progress, f"{template.host}:{template.port}")

    async def _request(self, template: Template, dispatch: Dispatch) -> Answer:
        arguments = cast("dict[str, object]", orjson.loads(dispatch.arguments))
        headers, secrets = await self._headers(template, dispatch)
        body = dispatch.arguments if template.method in WITH_BODY else None
        async with self._session.request(
            template.method, template.url(arguments), headers=headers, data=body, allow_redirects=False
        ) as response:
            if 200 <= response.status < 300:
                return await _result(response, template, secrets)
            return await _refusal(response, secrets)

    async def _headers(self, template: Template, dispatch: Dispatch) -> tuple[dict[str, str], list[str]]:
        secrets: list[str] = []
        headers: dict[str, str] = {}
        if template.method in WITH_BODY:
            headers["Content-Type"] = "application/json"
        for name, pieces in template.headers:
            value = list(pieces)
            for i in range(1, len(pieces), 2):
                value[i] = await fetch(pieces[i], self._environ)
                secrets.append(value[i])
            headers[name.title()] = "".join(value)
        headers["Idempotency-Key"] = dispatch.idempotency_key
        headers["X-Sluicegate-Intent"] = _plain(dispatch.intent_id)
        headers["X-Sluicegate-Attempt"] = str(dispatch.attempt)
        if _TRACEPARENT.fullmatch(dispatch.traceparent):
            headers["traceparent"] = dispatch.traceparent
        return headers, secrets


def _plain(text: str) -> str:
    """An agent chose this text: what no header may hold is quoted."""
    return text if text.isascii() and text.isprintable() else quote(text, safe=":/")


def _broken(error: Exception, progress: _Progress, place: str) -> Failed:
    """A call that ended without an answer. The exception's text is left out: it may hold headers."""
    kind = type(error).__name__
    if not progress.connected:
        if isinstance(error, aiohttp.ClientConnectionError | OSError):
            return Failed("unreachable", f"`{place}` cannot be connected to ({kind})", sent=False)
        return Failed("crashed", f"the request to `{place}` could not be made ({kind})", sent=False)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return Failed("malformed_result", f"`{place}` answered with what is no http ({kind})")
    return Failed("unreachable", f"the connection to `{place}` broke after the request ({kind})")


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes, and whether that is all. What is left unread closes the connection."""
    parts: list[bytes] = []
    size = 0
    while size <= limit:
        part = await response.content.read(limit + 1 - size)
        if not part:
            return b"".join(parts), True
        parts.append(part)
        size += len(part)
    response.close()
    return b"".join(parts)[:limit], False


async def _result(response: aiohttp.ClientResponse, template: Template, secrets: list[str]) -> Answer:
    limit = MAX_RESULT_BYTES + ENVELOPE_BYTES
    body, whole = await _read(response, limit)
    if not whole:
        return Failed("result_too_large", f"the answer has more than {limit} bytes")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return Failed("malformed_result", "the answer is compressed, which was not asked for")
    body = redact(body, secrets).strip()
    try:
        value = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        if "json" in response.content_type or template.pointer is not None:
            return Failed("malformed_result", "the answer says it is json and is not")
        try:
            result = orjson.dumps(body.decode())
        except UnicodeDecodeError:
            return Failed("malformed_result", "the answer is neither json nor text")
    else:
        if template.pointer is not None:
            try:
                result = orjson.dumps(point(value, template.pointer))
            except LookupError:
                return Failed(
                    "malformed_result", "the answer has nothing where the contract's `result` points"
                )
        elif isinstance(value, dict) and value.keys() == {"result"}:
            result = orjson.dumps(value["result"])
        else:
            result = body or b"null"
    if len(result) > MAX_RESULT_BYTES:
        return Failed("result_too_large", f"the result has more than {MAX_RESULT_BYTES} bytes")
    return Finished(result)


async def _refusal(response: aiohttp.ClientResponse, secrets: list[str]) -> Failed:
    if 300 <= response.status < 400:
        response.close()
        return Failed(
            "refused_by_tool",
            f"{response.status}: a redirect is not followed, write the final address into the contract",
        )
    body, whole = await _read(response, ERROR_READ_BYTES)
    body = redact(body, secrets)
    if not whole:  # the end may be half a secret
        body = body[: -max(map(len, secrets), default=0) or None]
    text = " ".join(body.decode("utf-8", "replace")[:ERROR_CHARS].split())
    return Failed("refused_by_tool", f"{response.status}: {text}")
