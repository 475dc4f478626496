"""Callbacks: the address of the executor role where tools say that their work goes on, or how it ended.

    POST <SLUICEGATE_CALLBACK_URL>/v1/callbacks/<token>     {"state": "running"} | {"result": ...} | {"error": "why"}

Answers 202 once Kafka has the receipt, so a tool that got no 202 calls again. The ledger decides what it means: late,
twice, or for a call that ended, it is noted. A token that nobody gave out is 404, counted, and never on the ledger:
strangers must not write there. Never logs an address: it holds the token. Next: `callback_tokens.py`, `jobs.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from sluicegate.executors.adapter import ERROR_CHARS, Failed, Finished
from sluicegate.executors.callback_tokens import Called, Tokens
from sluicegate.executors.calls import Keep
from sluicegate.executors.http import ENVELOPE_BYTES, RESULT_LIMIT_BYTES
from sluicegate.executors.http_template import BadTemplate
from sluicegate.executors.secret_refs import NoSecret, fetch, redact
from sluicegate.processors.artifacts import STORED
from sluicegate.processors.jobs.jobs import PROGRESS
from sluicegate.processors.jobs.terms import CALLBACK
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch, Receipt
from sluicegate.schemas.topics import MAX_ARTIFACT_BYTES, MAX_RESULT_BYTES

PATH = "/v1/callbacks/"
MAX_AT_ONCE = 64
"""Callbacks being taken, of 65 kB at most: 4 MB. More are told to come again."""
LARGE_AT_ONCE = 2
"""Of those whose contract lets the result be large: 64 MB each, and as much again while one is sealed."""
READ_LIMIT_S = 60.0
"""For a body to arrive."""
TAKE_LIMIT_S = 10.0
"""For Kafka to have a receipt; then the tool is told to come again, and twice is harmless."""

Send = Callable[[Receipt], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where tools call, where this process listens, and the key of the tokens."""

    url: str
    host: str
    port: int
    key: bytes


async def address_from(environ: Mapping[str, str]) -> Address | None:
    """Read where tools call back from the environment; None when no tool is to call back. Raises `Terminal`."""
    url = environ.get("SLUICEGATE_CALLBACK_URL", "").rstrip("/")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Terminal(f"SLUICEGATE_CALLBACK_URL `{url}` is no address, write https://host/path")
    host, _, port = environ.get("SLUICEGATE_CALLBACK_LISTEN", "127.0.0.1:8095").rpartition(":")
    if not host or not port.isdecimal():
        raise Terminal("SLUICEGATE_CALLBACK_LISTEN is no `host:port`")
    try:
        secret = await fetch(environ.get("SLUICEGATE_CALLBACK_KEY", ""), environ)
    except NoSecret:
        raise Terminal(
            "SLUICEGATE_CALLBACK_KEY names no secret, write env:SLUICEGATE_SECRET_NAME or file:/absolute/path"
        ) from None
    return Address(url, host, int(port), secret.encode())


class Callbacks:
    """The endpoint of one executor process. Make it inside the event loop that uses it."""

    def __init__(
        self, address: Address, env: str, name: str, clock: Callable[[], int], keep: Keep | None = None
    ) -> None:
        self.taken = 0
        self.wrong = 0
        self._address = address
        self._tokens = Tokens(address.key, env)
        self._name = name
        self._clock = clock
        self._send: Send | None = None
        self._keep = keep
        self._at_once = self._large = 0
        self._runner: web.AppRunner | None = None
        self._log = logging.getLogger("sluicegate.executor")

    def url_for(self, dispatch: Dispatch) -> str:
        """What a tool is told. Raises `BadTemplate`."""
        try:
            return self._address.url + PATH + self._tokens.make(dispatch)
        except ValueError as error:
            raise BadTemplate(str(error)) from error

    async def start(self, send: Send) -> None:
        """Listen. Raises `Terminal` when the port is taken."""
        self._send = send
        app = web.Application()
        app.router.add_post(PATH + "{token}", self._serve)
        # INVARIANT: no log line holds a token (tests/unit/test_callbacks.py::test_no_token_in_any_log).
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._address.host, self._address.port).start()
        except OSError as error:
            raise Terminal(
                f"callbacks cannot listen at `{self._address.host}:{self._address.port}` ({error.strerror})"
            ) from error

    @property
    def port(self) -> int:
        """The port it listens at."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening; what is being taken is taken."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        token = request.match_info["token"]
        called = self._tokens.open(token)
        if called is None:
            self.wrong += 1
            self._log.warning(
                "a callback with a token that nobody gave out was refused (%d so far)", self.wrong
            )
            return _says(404, "no such callback")
        large = bool(called.release) and self._keep is not None
        if self._at_once >= MAX_AT_ONCE or (large and self._large >= LARGE_AT_ONCE):
            return _says(503, "too many at once, come again")
        self._at_once += 1
        self._large += large
        try:
            body = await _read(request, MAX_ARTIFACT_BYTES + ENVELOPE_BYTES if large else RESULT_LIMIT_BYTES)
            if body is None:
                return _says(413, "the result is too large")
            receipt = self._receipt(called, redact(body, [token]), large)
            if isinstance(receipt, str):
                return _says(400, receipt)
            if len(receipt.result or b"") > MAX_RESULT_BYTES and not await self._kept(called, receipt):
                return _says(503, "it cannot be stored now, come again")
            assert self._send is not None
            async with asyncio.timeout(TAKE_LIMIT_S):
                await self._send(receipt)
        except TimeoutError:
            return _says(503, "kafka does not answer, come again")
        finally:
            self._at_once -= 1
            self._large -= large
        self.taken += 1
        return _says(202, "")

    async def _kept(self, called: Called, receipt: Receipt) -> bool:
        """Validate and store a large result, and say so in its receipt. False when it cannot be stored now."""
        assert self._keep is not None
        found = await self._keep(_about(called), receipt.result or b"", TAKE_LIMIT_S)
        if isinstance(found, Finished):
            receipt.kind, receipt.result = STORED if found.stored else receipt.kind, found.result
        elif isinstance(found, Failed):
            receipt.kind, receipt.result = "failed", None
            receipt.error_class, receipt.error = found.error_class, found.error[: 2 * ERROR_CHARS]
        return isinstance(found, Finished | Failed)

    def _receipt(self, called: Called, body: bytes, large: bool) -> Receipt | str:
        """What a body says, or what is wrong with it."""
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            return "the body is no json"
        if not isinstance(said, dict) or len(said) != 1 or not said.keys() <= {"state", "result", "error"}:
            return 'say one of {"state": "running"}, {"result": ...}, {"error": "why"}'
        now = self._clock()
        receipt = Receipt(
            called.dispatch_id, called.intent_id, called.agent_id, called.session_id, "finished", called.attempt,
            self._name, now, now,
        )  # fmt: skip
        if "result" in said:
            receipt.result = orjson.dumps(said["result"])
            return receipt if large or len(receipt.result) <= MAX_RESULT_BYTES else "the result is too large"
        if "state" in said:
            receipt.kind = PROGRESS
            return receipt
        receipt.kind, receipt.error_class = "failed", "refused_by_tool"
        receipt.error = f"the work failed: {said['error']}"[: 2 * ERROR_CHARS]
        return receipt


async def _read(request: web.Request, limit: int) -> bytes | None:
    """The body, or None when it has more bytes. Raises `TimeoutError`."""
    parts, size = [], 0
    async with asyncio.timeout(READ_LIMIT_S):
        async for part in request.content.iter_any():
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
    return b"".join(parts)


def _about(called: Called) -> Dispatch:
    """As much of the call's dispatch as validating its result takes. What rules may ask of agent and session is not known here."""
    return Dispatch(
        called.dispatch_id, called.intent_id, called.agent_id, called.session_id, "", called.tool, "", b"{}", b"{}",
        b"", "", called.attempt, 0, 0, purpose=CALLBACK, release=called.release,
    )  # fmt: skip


def _says(status: int, text: str) -> web.Response:
    return web.json_response({"error": text} if text else {}, status=status)
