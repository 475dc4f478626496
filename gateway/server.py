"""The gateway's web server: bounds, request ids, who asks, and the doors behind.

    request ▸ bounds ▸ request id ▸ API key ▸ rate ▸ a door ▸ Asker ▸ Kafka

`doors.py`: sessions, intents, results. `events.py`: what happens, as it happens. `openai.py`, `responses.py`: model calls in OpenAI's shapes. `mcp.py`: an MCP server.
`approvals.py`: people's word.
`authzen.py`: may it. Never decides, holds no state that a restart would miss: any number of gateways may serve the same clients.
Next: `doors.py`, `hub.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

from aiohttp import web
from sluicegate.gateway import approvals, authzen, doors, events, mcp, openai, responses
from sluicegate.gateway.access import Rates
from sluicegate.gateway.connections import Connections, room
from sluicegate.gateway.context import GATE, Gate, enter, leave
from sluicegate.gateway.hub import Hub
from sluicegate.gateway.kept import MAX_KNOWN
from sluicegate.gateway.problems import JSON, MAX_SHOWN_CHARS, no_result, plain, problem
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.inspect.decided import Decided
from sluicegate.streams.lanes.service import wall_clock
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.settings import Settings

MAX_BODY_BYTES = 320 * 1024
"""An intent has at most 256 kB; what OpenAI's shape adds around it fits in the rest."""
MAX_REQUESTS = 2_000
"""At a time, without open event streams: each waits for a reply with about 10 kB at hand, 20 MB."""
KEEP_ALIVE_S = 75.0
"""A connection that waits for its next request for this long is closed, whatever came of a head meanwhile; longer than the 60 s of
common proxies, so that it is the proxy that ends it."""
LINGER_S = 1.0
"""For reading what a client still sends to a request that was answered already: so that it reads the answer before the reset."""
DRAIN_LIMIT_S = 15.0
"""For requests that are under way when the gateway stops."""
REQUEST_ID = "x-request-id"
_IDENT: web.RequestKey[str] = web.RequestKey("ident", str)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

BACKLOG = 1_024
_PROCESS, _numbers = uuid.uuid4().hex[:16], itertools.count(1)
"""Of request ids that are made here: a number is enough, and a random id for each takes a system call."""

log = logging.getLogger("sluicegate.gateway")
wire_log = logging.getLogger("sluicegate.gateway.wire")
wire_log.setLevel(logging.CRITICAL)
"""aiohttp's own words, a stack for each malformed request: whoever is outside would fill the disk. What fails inside is logged below."""

TOO_LARGE = ("too_large", f"a body has at most {MAX_BODY_BYTES} bytes: pass a reference")
"""Code and message; of a body without a length, too, that was too large once it came."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A request id on every answer, and one shape for every error."""
    gate, given = request.app[GATE], request.headers.get(REQUEST_ID, "")
    ident = request[_IDENT] = given if _ID.fullmatch(given) else f"{_PROCESS}-{next(_numbers)}"
    try:
        answer = await handler(request)
    except NotReleased as error:
        answer = no_result(error)
    except web.HTTPException as error:
        if error.content_type == JSON:
            gate.counts[f"{error.status // 100}xx"] += 1
            raise
        answer = _of_aiohttp(request, error)
    except Retryable as error:
        answer = plain(503, "unavailable", str(error), {"Retry-After": "1"})
    except SluicegateError as error:
        answer = plain(400, "bad_request", str(error))
    except Exception:
        log.exception("request %s failed", ident)
        answer = plain(500, "internal", f"the gateway failed: its log has request {ident}")
    gate.counts[f"{answer.status // 100}xx"] += 1
    return answer


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """What aiohttp itself refuses: no such path, another method, a body that is too large."""
    text, headers = error.reason.lower(), {}
    code, path = text.replace(" ", "_"), request.path[:MAX_SHOWN_CHARS]
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = allowed = ", ".join(sorted(error.allowed_methods))
        text = f"`{path}` does not take {request.method[:20]}: send {allowed}"
    elif error.status == 413:
        return plain(413, *TOO_LARGE)
    elif error.status == 404:
        text = f"there is no `{path}` here: the routes stand in /openapi.json"
    return plain(error.status, code, text, headers)


async def _named(request: web.Request, answer: web.StreamResponse) -> None:
    """Headers of every answer, streams too."""
    answer.headers[REQUEST_ID] = request.get(_IDENT, "")
    answer.headers["Server"] = "sluicegate"  # nobody outside has to know of what version which library is


@web.middleware
async def _bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No more requests at a time than there is room for; none at all once the gateway stops."""
    gate = request.app[GATE]
    if gate.closing or gate.under_way >= MAX_REQUESTS:
        raise problem(503, "overloaded", "the gateway has no room now: ask again", {"Retry-After": "1"})
    _well_framed(request)
    enter(request)
    try:
        return await handler(request)
    finally:
        leave(request)


def _well_framed(request: web.Request) -> None:
    """What a proxy in front might understand otherwise, and what is too large, before anything of it is read."""
    headers = request.headers
    framing = headers.getall("Transfer-Encoding", []) + headers.getall("Content-Length", [])
    if len(framing) > 1 or headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        raise _last(problem(400, "bad_request", "send Content-Length, or Transfer-Encoding: chunked, once"))
    if len(headers.getall("Host", [])) != 1:
        raise _last(problem(400, "bad_request", "send one Host"))
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _last(problem(413, *TOO_LARGE))
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _last(problem(415, "unsupported_encoding", "send the body uncompressed"))


def _last(error: web.HTTPException) -> web.HTTPException:
    """An answer after which the connection is closed: what follows on it is not read."""
    error.force_close()
    return error


def make_app(gate: Gate) -> web.Application:
    """The application of one gateway."""
    app = web.Application(middlewares=[_identified, _bounded], client_max_size=MAX_BODY_BYTES)
    app[GATE] = gate
    app.on_response_prepare.append(_named)
    for add in (doors.add, approvals.add, events.add, openai.add, responses.add, mcp.add, authzen.add):
        add(app)
    return app


class Gateway:
    """One gateway process: the component of the role `gateway`."""

    def __init__(
        self, settings: Settings, host: str = "127.0.0.1", port: int = 0, origins: Iterable[str] = (), known: int = MAX_KNOWN,
    ) -> None:  # fmt: skip
        self.settings = settings
        self._control = ControlReader(settings)
        self._hub = Hub(settings, Decided(settings).when, known)
        self.gate = Gate(settings, self._hub, self._control, Rates(), wall_clock, Counter())
        self.gate.origins = frozenset(origins)
        self._host, self.port = host, port
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self.port}"

    async def start(self) -> None:
        """Read control, connect, listen. Raises `Retryable` without Kafka, `Terminal` when the port is taken."""
        await self._control.start()
        try:
            await self._hub.open()
            # INVARIANT: it is not called ready before it would let anybody in (tests/unit/test_gateway_access.py): the deployed
            # release may take longer to compile than control is good for.
            await self._control.confirmed()
        except BaseException:
            with contextlib.suppress(Retryable):
                await self._hub.stop()
            await self._control.stop()
            raise
        self.gate.connections = Connections(room())
        try:
            await self.listen(make_app(self.gate))
        except Terminal:
            await self.stop()
            raise

    async def listen(self, app: web.Application) -> None:
        """Serve. Raises `Terminal` when the port is taken."""
        self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, handle_signals=False,
            shutdown_timeout=DRAIN_LIMIT_S, handler_cancellation=True, lingering_time=LINGER_S, auto_decompress=False,
            logger=wire_log,
        )  # fmt: skip
        await self._runner.setup()
        make = cast("Callable[[], asyncio.Protocol]", self._runner.server)
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self.gate.connections.watched(make), self._host, self.port, backlog=BACKLOG
            )
        except OSError as error:
            raise Terminal(
                f"cannot listen on {self._host}:{self.port}: {error}: choose another, `sluicegate gateway --listen HOST:PORT`"
            ) from error
        self.port = int(self._listening.sockets[0].getsockname()[1])
        log.info("answers at http://%s:%d", self._host, self.port)

    async def close(self) -> None:
        """Serve no more."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def stop(self) -> None:
        """Take nothing new, let what is under way end for `DRAIN_LIMIT_S`, disconnect."""
        self.gate.closing = True
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while self.gate.under_way and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for close in list(self.gate.streams):
            close()
        await self.close()
        with contextlib.suppress(Retryable):
            await self._hub.stop()
        await self._control.stop()

    @property
    def alive(self) -> str:
        """What is wrong, or nothing."""
        if self._hub.stuck:
            return "kafka does not answer"
        return "control cannot be confirmed" if self._control.stale else ""

    def metrics(self) -> dict[str, float]:
        """Requests by class of status, what is under way, open streams."""
        found = {
            f'sluicegate_gateway_answers_total{{status="{k}"}}': float(v) for k, v in self.gate.counts.items()
        }
        found |= {f'sluicegate_gateway_entries{{of="{k}"}}': float(v) for k, v in self._hub.sizes().items()}
        return {
            **found,
            "sluicegate_gateway_waiting_bytes": self.gate.waiting_bytes,
            "sluicegate_gateway_under_way": self.gate.under_way,
            "sluicegate_gateway_streams": len(self.gate.streams),
            "sluicegate_gateway_connections": self.gate.connections.open,
            "sluicegate_gateway_connections_turned_away_total": self.gate.connections.turned_away,
            "sluicegate_gateway_connections_too_slow_total": self.gate.connections.too_slow,
            "sluicegate_gateway_connections_unread_total": self.gate.connections.unread,
        }
