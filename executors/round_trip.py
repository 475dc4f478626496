"""One http request over one connection of aiohttp's pool, and its answer, at less than half the price of aiohttp's session.

aiohttp's connector (names, addresses, TLS, what is kept alive) and its parser do what they always do; what is left out is
the request and response objects between them, with their cookies, redirects, middlewares, and the task that writes a
body: of 150 microseconds to an instant tool 85. Only for answers that are read whole within a bound;
streams go through the session (`wire.py`, which says what an exception means).
Never sends a header that holds a line break, never keeps a connection of which something is left unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import ClientRequest, ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

DEFAULTS = {"Accept": "*/*", "User-Agent": "sluicegate", "Accept-Encoding": "identity"}
"""Sent where a call does not say otherwise."""
MAX_PLACES = 1_024
"""Scheme, host and port of a request, with what aiohttp's connector asks about it: 5 kB each; contracts name few."""

_UNLIMITED = ClientTimeout(total=None, sock_connect=None)
_SWITCHING = 101


class NoHttp(ValueError):
    """What came back is no http."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came back: `body` is all of it when `whole`, else its beginning."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class RoundTrips:
    """Requests over the connections of one connector."""

    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        self._connector = connector
        self._places: dict[tuple[str, str, int | None], ClientRequest] = {}

    async def connect(self, url: URL) -> Connection:
        """A connection to where this address is, kept or new."""
        name = (url.scheme, url.raw_host or "", url.port)
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            loop = self._connector._loop
            place = self._places[name] = ClientRequest("GET", url.origin(), loop=loop)
        return await self._connector.connect(place, [], _UNLIMITED)

    @staticmethod
    async def exchange(connection: Connection, request: bytes, limit: int, refusal_limit: int) -> Told:
        """One request, as `request_bytes` made it, and its answer; the connection is given back, or closed.

        At most `limit` bytes of a 2xx body, `refusal_limit` of another one, nothing of a redirect's. Raises what aiohttp
        raises, and `NoHttp`.
        """
        try:
            protocol = connection.protocol
            if protocol is None or protocol.transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(timer=TimerNoop(), read_until_eof=True, auto_decompress=False)
            protocol.transport.write(request)
            told = await _answer(protocol, limit, refusal_limit)
            unsent = protocol.transport is not None and protocol.transport.get_write_buffer_size()
        except HttpProcessingError as error:
            connection.close()
            raise NoHttp("the answer is no http") from error
        except BaseException:
            connection.close()
            raise
        if told.whole and not unsent:
            connection.release()  # closed there, too, when the other side wants it or has said more than it was asked
        else:
            connection.close()
        return told


async def _answer(protocol: ResponseHandler, limit: int, refusal_limit: int) -> Told:
    while True:
        message, payload = await protocol.read()
        if message.code >= 200 or message.code == _SWITCHING:
            break
    status = message.code
    if 300 <= status < 400:
        return Told(status, message.headers, b"", False)
    most = limit if 200 <= status < 300 else refusal_limit
    parts: list[bytes] = []
    size = 0
    while size <= most:
        if payload.at_eof() and payload.exception() is None:
            return Told(status, message.headers, b"".join(parts), True)
        part = await payload.read(most + 1 - size)
        parts.append(part)
        size += len(part)
    return Told(status, message.headers, b"".join(parts)[:most], False)


def request_bytes(method: str, url: URL, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request as it goes out. Raises `ValueError` for a line break in a header."""
    lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    given = {name.lower() for name in headers}
    lines += [f"{name}: {value}" for name, value in DEFAULTS.items() if name.lower() not in given]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
        if "content-type" not in given:
            lines.append("Content-Type: application/octet-stream")
    elif method not in ("GET", "HEAD", "OPTIONS", "TRACE"):
        lines.append("Content-Length: 0")
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    # INVARIANT: nothing that goes into a header begins another one (tests/unit/test_round_trip.py).
    if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text:
        raise ValueError("a header holds a line break")
    return (text + "\r\n\r\n").encode() + (body or b"")
