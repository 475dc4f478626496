"""The gateway's web server: bounds, request ids, who asks, and the doors behind.

    request ▸ bounds ▸ request id ▸ API key ▸ rate ▸ a door ▸ Asker ▸ Kafka

`doors.py`: sessions, intents, results. `events.py`: what happens, as it happens. `openai.py`: chat completions. `mcp.py`: an MCP server.
`authzen.py`: may it. Never decides, holds no state that a restart would miss: any number of gateways may serve the same clients.
Next: `doors.py`, `hub.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web
from sluicegate.gateway import authzen, doors, events, mcp, openai
from sluicegate.gateway.access import Rates
from sluicegate.gateway.context import GATE, Gate
from sluicegate.gateway.hub import Hub
from sluicegate.gateway.problems import JSON, no_result, plain, problem
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.streams.client_errors import NotReleased
from sluicegate.streams.control_log import ControlReader
from sluicegate.streams.ledger_service import wall_clock
from sluicegate.streams.settings import Settings

MAX_BODY_BYTES = 320 * 1024
"""An intent has at most 256 kB; what OpenAI's shape adds around it fits in the rest."""
MAX_REQUESTS = 2_000
"""At a time, without open event streams: each waits for a reply with about 10 kB at hand, 20 MB."""
KEEP_ALIVE_S = 75.0
"""A connection that waits for its next request for this long is closed. A head that comes byte by byte has no bound here: the proxy
that ends TLS has to set one."""
DRAIN_LIMIT_S = 15.0
"""For requests that are under way when the gateway stops."""
REQUEST_ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("sluicegate.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A request id on every answer, and one shape for every error."""
    gate, given = request.app[GATE], request.headers.get(REQUEST_ID, "")
    ident = given if _ID.fullmatch(given) else uuid.uuid4().hex
    try:
        answer = await handler(request)
    except NotReleased as error:
        answer = no_result(error)
    except web.HTTPException as error:
        if error.content_type == JSON:
            gate.counts[f"{error.status // 100}xx"] += 1
            error.headers[REQUEST_ID] = ident
            raise
        text = (
            error.reason.lower()
        )  # of aiohttp itself: no such path, another method, a body that is too large
        answer = plain(error.status, text.replace(" ", "_"), text)
    except Retryable as error:
        answer = plain(503, "unavailable", str(error), {"Retry-After": "1"})
    except SluicegateError as error:
        answer = plain(400, "bad_request", str(error))
    except Exception:
        log.exception("request %s failed", ident)
        answer = plain(500, "internal", f"the gateway failed: its log has request {ident}")
    gate.counts[f"{answer.status // 100}xx"] += 1
    if not answer.prepared:
        answer.headers[REQUEST_ID] = ident
    return answer


@web.middleware
async def _bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No more requests at a time than there is room for; none at all once the gateway stops."""
    gate = request.app[GATE]
    if gate.closing or gate.under_way >= MAX_REQUESTS:
        raise problem(503, "overloaded", "the gateway has no room now: ask again", {"Retry-After": "1"})
    if "Transfer-Encoding" in request.headers and "Content-Length" in request.headers:
        raise problem(400, "bad_request", "send Content-Length or Transfer-Encoding, never both")
    gate.under_way += 1
    try:
        return await handler(request)
    finally:
        gate.under_way -= 1


def make_app(gate: Gate) -> web.Application:
    """The application of one gateway."""
    app = web.Application(middlewares=[_identified, _bounded], client_max_size=MAX_BODY_BYTES)
    app[GATE] = gate
    for add in (doors.add, events.add, openai.add, mcp.add, authzen.add):
        add(app)
    return app


class Gateway:
    """One gateway process: the component of the role `gateway`."""

    def __init__(self, settings: Settings, host: str = "127.0.0.1", port: int = 0) -> None:
        self.settings = settings
        self._control = ControlReader(settings)
        self._hub = Hub(settings)
        self.gate = Gate(settings, self._hub, self._control, Rates(), wall_clock, Counter())
        self._host, self.port = host, port
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._host}:{self.port}"

    async def start(self) -> None:
        """Read control, connect, listen. Raises `Retryable` without Kafka, `Terminal` when the port is taken."""
        await self._control.start()
        try:
            await self._hub.open()
        except BaseException:
            await self._control.stop()
            raise
        self._runner = web.AppRunner(
            make_app(self.gate), access_log=None, keepalive_timeout=KEEP_ALIVE_S, handle_signals=False,
            shutdown_timeout=DRAIN_LIMIT_S, handler_cancellation=True,
        )  # fmt: skip
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise Terminal(
                f"cannot listen on {self._host}:{self.port}: {error}: choose another with --port"
            ) from error
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Take nothing new, let what is under way end for `DRAIN_LIMIT_S`, disconnect."""
        self.gate.closing = True
        deadline = time.monotonic() + DRAIN_LIMIT_S
        while self.gate.under_way and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for close in list(self.gate.streams):
            close()
        if self._runner is not None:
            await self._runner.cleanup()
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
        return {
            **found,
            "sluicegate_gateway_under_way": self.gate.under_way,
            "sluicegate_gateway_streams": len(self.gate.streams),
        }
