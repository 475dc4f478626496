"""What a gateway makes of connections and of requests that no honest client sends: raw sockets against the real server, without Kafka."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from sluicegate.gateway import context, server
from sluicegate.gateway.connections import Connections, Watched
from sluicegate.gateway.server import MAX_BODY_BYTES, Gateway, make_app
from sluicegate.streams.settings import Settings

LIMIT_S = 20.0
GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
Ask = Callable[[bytes], Awaitable[bytes]]


async def serve(
    home: Path, body: Callable[[int, Gateway], Awaitable[None]], connections: Connections | None = None,
    routes: Sequence[web.RouteDef] = (),
) -> None:  # fmt: skip
    """A gateway's web server as `Gateway.start` makes it, without what is behind it; `routes`: of the test."""
    gateway = Gateway(Settings(home=home))
    if connections is not None:
        gateway.gate.connections = connections
    app = make_app(gateway.gate)
    app.add_routes(routes)
    async with asyncio.timeout(LIMIT_S):
        await gateway.listen(app)
        try:
            await body(gateway.port, gateway)
        finally:
            await gateway.close()


async def said(port: int, *parts: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def ask(path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


SMUGGLED = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
WRONG = {
    "length and chunks": ask("/mcp", "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": ask("/mcp", "Content-Length: 0", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
    "the same length twice": ask("/mcp", "Content-Length: 0", "Content-Length: 0", body=SMUGGLED),
    "a signed length": ask("/mcp", "Content-Length: +0", body=SMUGGLED),
    "other chunks": ask("/mcp", "Transfer-Encoding: xchunked", body=SMUGGLED),
    "chunks twice": ask("/mcp", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunks and identity": ask("/mcp", "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
    # What the parser lets pass and a proxy may read otherwise.
    "another coding before the chunks": ask("/mcp", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunks in chunks": ask("/mcp", "Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a space before the colon": ask("/mcp", "Content-Length : 0", body=SMUGGLED),
    "a folded line": ask("/mcp", "x-a: b", " Transfer-Encoding: chunked", body=SMUGGLED),
    "a bare carriage return": ask("/mcp", "x-a: b\rTransfer-Encoding: chunked", body=SMUGGLED),
    "a zero byte": ask("/mcp", "x-a: b\0c", body=SMUGGLED),
    "two hosts": ask("/mcp", "Host: b", body=SMUGGLED),
    "no host": b"POST /mcp HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "a long header": ask("/mcp", "x-a: " + "b" * 20_000, body=SMUGGLED),
    "many headers": ask("/mcp", *(f"x-{n}: b" for n in range(500)), body=SMUGGLED),
    "a long address": ask("/" + "b" * 20_000, body=SMUGGLED),
    "no http": b"\x16\x03\x01\x02\x00\x01\x00" + SMUGGLED,
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status", "message", "allow"),
    [
        (b"GET /v1/messages", 404, "there is no `/v1/messages` here: the routes stand in /openapi.json", b""),
        (
            b"GET /" + b"a" * 500,
            404,
            f"there is no `/{'a' * 99}` here: the routes stand in /openapi.json",
            b"",
        ),
        (b"PUT /v1/sessions", 405, "`/v1/sessions` does not take PUT: send POST", b"Allow: POST"),
        (
            b"POST /openapi.json",
            405,
            "`/openapi.json` does not take POST: send GET, HEAD",
            b"Allow: GET, HEAD",
        ),
    ],
)
def test_who_asks_at_the_wrong_place_reads_where_to_ask(
    line: bytes, status: int, message: str, allow: bytes, tmp_path: Path
) -> None:
    async def main(port: int, _: Gateway) -> None:
        answer = await said(port, line + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status) and allow in head
        assert json.loads(body)["error"]["message"] == message

    asyncio.run(serve(tmp_path, main))


@pytest.mark.parametrize("name", WRONG)
def test_what_may_be_understood_in_two_ways_is_refused_and_the_connection_ends(
    name: str, tmp_path: Path
) -> None:
    async def body(port: int, gateway: Gateway) -> None:
        answer = await said(port, WRONG[name])
        # INVARIANT: nothing that stands behind such a request is answered.
        assert len(re.findall(rb"HTTP/1\.\d \d{3} ", answer)) == 1, answer
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer

    asyncio.run(serve(tmp_path, body))


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def body(port: int, gateway: Gateway) -> None:
        for path in ("/v1/intents", "/v1/chat/completions", "/v1/responses", "/mcp", "/nowhere"):
            answer = await said(
                port, ask(path, f"Content-Length: {10 * 1_048_576}")
            )  # and nothing of it comes
            head, _, text = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413") and b"Connection: close" in head
            assert json.loads(text)["error"]["code"] == "too_large"
        zipped = await said(port, ask("/mcp", "Content-Encoding: gzip", "Content-Length: 2", body=b"{}"))
        assert zipped.startswith(b"HTTP/1.1 415")  # a bomb is never unpacked

        named = await said(port, GET.replace(b"Host", b"x-request-id: mine\r\nHost"))
        assert b"\r\nx-request-id: mine\r\n" in named and b"aiohttp" not in named
        ours = [re.search(rb"x-request-id: (\S+)", await said(port, GET)) for _ in range(2)]
        assert ours[0] and ours[1] and ours[0][1] != ours[1][1]

    asyncio.run(serve(tmp_path, body))


def test_a_body_that_turns_out_too_large_is_told_the_same() -> None:
    request = make_mocked_request("POST", "/v1/sessions")
    answer = server._of_aiohttp(request, web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, MAX_BODY_BYTES + 1))
    assert isinstance(answer.body, bytes)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["message"]) == (413, *server.TOO_LARGE)


def test_a_head_that_comes_byte_by_byte_has_an_end(tmp_path: Path) -> None:
    connections = Connections(head_limit_s=0.3)

    async def body(port: int, gateway: Gateway) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await _cut_off(reader, writer, GET[:-4] + b"\r\nx-a: ") == b""  # without an answer
        assert connections.too_slow == 1
        assert (await said(port, *(GET[n : n + 1] for n in range(len(GET))))).startswith(b"HTTP/1.1 ")
        while connections.open:
            await asyncio.sleep(0.01)

    asyncio.run(serve(tmp_path, body, connections))


async def _trickle(writer: asyncio.StreamWriter, begin: bytes) -> None:
    writer.write(begin)
    while True:
        writer.write(b"b")
        await asyncio.sleep(0.02)


async def _cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes) -> bytes:
    """What comes back to a client that goes on byte by byte behind `begin`, until the server ends it."""
    trickle, found = asyncio.create_task(_trickle(writer, begin)), b""
    try:
        while part := await reader.read(65_536):
            found += part
    except ConnectionError:
        pass  # cut off in the middle of what it sends: what came before counts
    finally:
        trickle.cancel()
        await asyncio.gather(trickle, return_exceptions=True)
        writer.close()
    return found


def test_the_next_head_has_an_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One good request does not buy the connection: what follows byte by byte is cut off as one that waits."""
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)

    async def body(port: int, gateway: Gateway) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"Connection: close\r\n", b""))
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert head.startswith(b"HTTP/1.1 ") and length
        await reader.readexactly(int(length[1]))
        assert await _cut_off(reader, writer, b"GET /healthz HTTP/1.1\r\nHost: a\r\nx-a: ") == b""

    asyncio.run(serve(tmp_path, body))


async def _read_body(request: web.Request) -> web.Response:
    return web.json_response(await context.body_of(request))


def test_a_body_that_comes_byte_by_byte_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "READ_LIMIT_S", 0.3)

    async def body(port: int, gateway: Gateway) -> None:
        for framing, begin in (
            (f"Content-Length: {MAX_BODY_BYTES}", b"{"),
            ("Transfer-Encoding: chunked", b"40000\r\n{"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await _cut_off(reader, writer, ask("/read", framing, body=begin))
            assert answer.startswith(b"HTTP/1.1 408") and b'"too_slow"' in answer, answer
        assert not gateway.gate.under_way

    asyncio.run(serve(tmp_path, body, routes=[web.post("/read", _read_body)]))


def test_a_client_that_reads_nothing_has_an_end(tmp_path: Path) -> None:
    """It asks, and takes none of its answer: what writes is ended, and its place is free again."""
    connections = Connections(write_limit_s=0.3)
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        finally:
            ended.set()

    async def body(port: int, gateway: Gateway) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, GET.replace(b"/healthz", b"/endless"))
            await ended.wait()
            while connections.open:
                await asyncio.sleep(0.01)
        assert connections.unread == 1 and not gateway.gate.under_way

    asyncio.run(serve(tmp_path, body, connections, [web.get("/endless", endless)]))


def test_who_reads_on_is_not_cut_off() -> None:
    class Cut(asyncio.Transport):
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    class Inner(asyncio.Protocol):
        def __init__(self) -> None:
            self.paused: list[bool] = []

        def pause_writing(self) -> None:
            self.paused.append(True)

        def resume_writing(self) -> None:
            self.paused.append(False)

    async def main() -> None:
        connections, transport, inner = Connections(write_limit_s=0.0), Cut(), Inner()
        watched = Watched(connections, inner)
        watched.connection_made(transport)
        watched.pause_writing()
        watched.resume_writing()
        watched.pause_writing()
        watched.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)  # time for what is due
        assert not transport.aborted and connections.unread == 0
        assert inner.paused == [True, False, True]

    asyncio.run(main())


def test_no_more_connections_than_there_is_room_for(tmp_path: Path) -> None:
    connections = Connections(most=2)

    async def body(port: int, gateway: Gateway) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        while connections.open < 2:
            await asyncio.sleep(0.01)
        assert await said(port, GET) == b""
        assert connections.turned_away == 1
        for reader, writer in held:  # those that are in are served
            writer.write(GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 ")
            writer.close()
        while connections.open:
            await asyncio.sleep(0.01)
        assert (await said(port, GET)).startswith(b"HTTP/1.1 ")

    asyncio.run(serve(tmp_path, body, connections))


def test_bodies_that_are_no_json_object(tmp_path: Path) -> None:
    async def body(port: int, gateway: Gateway) -> None:
        bodies = (b"{", b"[]", b"7", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": "\\ud800"}')
        for wrong in bodies:
            answer = await said(
                port, ask("/read", "Connection: close", f"Content-Length: {len(wrong)}", body=wrong)
            )
            assert answer.startswith(b"HTTP/1.1 400"), (wrong, answer)
        chunks = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
        count = MAX_BODY_BYTES // 65_536 + 2
        answer = await said(port, ask("/read", "Transfer-Encoding: chunked"), *(chunks for _ in range(count)))
        assert b" 413 " in answer or answer == b""  # cut off in mid-body: the answer may be lost in the reset

    asyncio.run(serve(tmp_path, body, routes=[web.post("/read", _read_body)]))
