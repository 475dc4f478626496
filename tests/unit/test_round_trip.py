"""One request and its answer without aiohttp's session: the same bytes go out, and no connection is kept by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.executors.adapter import Failed
from sluicegate.executors.egress import Egress
from sluicegate.executors.round_trip import request_bytes
from sluicegate.executors.wire import Answered, Target, Wire
from yarl import URL

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
URL_X = URL("http://tool.example:8900/x?a=1%202")
HEADERS = {"Content-Type": "application/json", "Idempotency-Key": "k", "X-Sluicegate-Intent": "i"}


class Server:
    """Answers every request with the same bytes, and keeps their heads. `eager`: before the body came."""

    def __init__(self, answer: bytes = OK, *, eager: bool = False) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self._answer, self._eager = answer, eager

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                if not self._eager:
                    await reader.readexactly(int(length or b"0"))
                writer.write(self._answer)
                if self._eager:
                    await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def run(self, scenario: Callable[[Wire, str], Awaitable[None]]) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            wire = Wire(Egress(place))
            try:
                await scenario(wire, place)
            finally:
                await wire.close()
                server.close()
                await server.wait_closed()

        asyncio.run(main())


def target(place: str, method: str = "POST") -> Target:
    host, _, port = place.partition(":")
    return Target(method, URL(f"http://{place}/x?a=1%202", encoded=True), host, int(port))


@pytest.mark.parametrize(
    ("method", "body"), [("POST", b'{"n":1}'), ("POST", b""), ("GET", None), ("DELETE", None), ("PUT", b"1")]
)
@pytest.mark.parametrize(
    "headers",
    [HEADERS, {}, {"Accept": "text/plain", "User-Agent": "mine"}, {"accept": "a/b", "content-type": "t/t"}],
)
def test_the_same_request_as_through_the_session(
    method: str, body: bytes | None, headers: dict[str, str]
) -> None:
    server = Server()

    async def scenario(wire: Wire, place: str) -> None:
        answered = await wire.exchange(target(place, method), headers, body, limit=100, timeout_s=20)
        assert isinstance(answered, Answered)
        assert (answered.status, answered.body, answered.whole) == (200, b"{}", True)
        assert answered.content_type == "application/json"
        response = await wire.begin(target(place, method), headers, body, timeout_s=20)
        assert not isinstance(response, Answered | Failed)
        async with response:
            await response.read()

    server.run(scenario)
    ours, theirs = ([*map(bytes.lower, head.split(b"\r\n"))] for head in server.heads)
    assert ours[0] == theirs[0] and sorted(ours) == sorted(theirs)
    assert server.connections == 1  # given back, and used again


@given(
    st.sampled_from(["Idempotency-Key", "X-Sluicegate-Intent", "Authorization"]),
    st.text(),
    st.sampled_from("\r\n\0"),
    st.text(),
)
def test_nothing_in_a_header_begins_another_one(name: str, before: str, mark: str, after: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_bytes("POST", URL_X, {name: before + mark + after}, b"{}")
    with pytest.raises(ValueError, match="line break"):
        request_bytes("POST", URL_X, {name + mark: before + after}, b"{}")


def test_a_line_break_sends_nothing() -> None:
    server = Server()

    async def scenario(wire: Wire, place: str) -> None:
        answer = await wire.exchange(
            target(place), {"X-Sluicegate-Intent": "a\r\nEvil: 1"}, b"{}", limit=9, timeout_s=20
        )
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == ("crashed", False)

    server.run(scenario)
    assert not server.heads


def test_what_comes_before_the_answer_is_passed_over() -> None:
    async def scenario(wire: Wire, place: str) -> None:
        for _ in range(2):
            answered = await wire.exchange(target(place), {}, b"{}", limit=100, timeout_s=20)
            assert isinstance(answered, Answered)
            assert (answered.status, answered.body) == (200, b"{}")

    Server(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK).run(scenario)


def test_a_connection_with_more_of_the_request_to_say_is_not_kept() -> None:
    server = Server(eager=True)
    body = bytes(32 * 1024 * 1024)  # more than the kernel takes in while nobody reads

    async def scenario(wire: Wire, place: str) -> None:
        for _ in range(2):
            answered = await wire.exchange(target(place), {}, body, limit=100, timeout_s=20)
            assert isinstance(answered, Answered) and answered.body == b"{}"

    server.run(scenario)
    assert server.connections == 2


@pytest.mark.parametrize("said", [b"", b"Connection: close\r\n"])
def test_a_body_that_ends_with_the_limit_is_whole_and_one_more_is_not(said: bytes) -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n%bContent-Length: 10\r\n\r\n0123456789" % said)

    async def scenario(wire: Wire, place: str) -> None:
        for limit, whole in ((10, True), (9, False), (11, True)):
            answered = await wire.exchange(target(place), {}, b"{}", limit=limit, timeout_s=20)
            assert isinstance(answered, Answered)
            assert (answered.whole, answered.body) == (whole, b"0123456789"[:limit])

    server.run(scenario)
    # A connection with something left unread is closed, and one whose server closes it.
    assert server.connections == (3 if said else 2)
