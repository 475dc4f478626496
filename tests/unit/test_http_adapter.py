"""The http adapter against a real server on loopback: results, refusals, bounds, egress and secrets."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.egress import Denied, Egress, is_outside
from sluicegate.executors.http import HttpAdapter
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import MAX_RESULT_BYTES

from tests.executor_fakes import dispatch

CANARY = "canary-5f2c9e7b/with-slash"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Tool:
    """One handler on loopback, and an adapter that may reach it."""

    def __init__(self, handler: Handler, environ: dict[str, str] | None = None) -> None:
        self.handler = handler
        self.environ = environ or {}
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.port = 0

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self.handler(request)

    def run(self, scenario: Callable[[Tool], Awaitable[None]]) -> None:
        async def main() -> None:
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", self._serve)
            async with TestServer(app, host="127.0.0.1") as server:
                assert server.port is not None
                self.port = server.port
                self.adapter = HttpAdapter(
                    Egress(f"127.0.0.1:{server.port}"),
                    {"TOOLS_URL": f"http://127.0.0.1:{server.port}/"},
                    environ=self.environ,
                )
                try:
                    await scenario(self)
                finally:
                    await self.adapter.close()

        asyncio.run(main())

    async def call(
        self, arguments: dict[str, object] | None = None, timeout_s: float = 2.0, **executor: object
    ) -> Answer:
        contract = {"kind": "http", "method": "POST", "url": "${TOOLS_URL}/x", **executor}
        work = dispatch(1, executor=orjson.dumps(contract), arguments=orjson.dumps(arguments or {}))
        return await self.adapter.call(work, timeout_s)


def answering(status: int = 200, **options: object) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, **options)  # type: ignore[arg-type]

    return handler


def ask(handler: Handler, *, timeout_s: float = 2.0, **executor: object) -> Answer:
    """One call of one handler."""
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(timeout_s=timeout_s, **executor))

    Tool(handler).run(scenario)
    return answers[0]


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "pointer", "result"),
    [
        (b'{"result": {"a": 1}}', "application/json", None, {"a": 1}),
        (b'{"result": null}', "application/json", None, None),
        (b'{"result": 1, "more": 2}', "application/json", None, {"result": 1, "more": 2}),
        (b"[1, 2]", "application/json", None, [1, 2]),
        (b"7", "text/plain", None, 7),
        ("grüße".encode(), "text/plain", None, "grüße"),
        (b"", "text/plain", None, None),
        (b'{"data": [{"a/b": 5}]}', "application/json", "/data/0/a~1b", 5),
        (b'{"result": 3}', "application/json", "", {"result": 3}),
    ],
)
def test_result(body: bytes, content_type: str, pointer: str | None, result: object) -> None:
    options = {} if pointer is None else {"result": pointer}
    answer = ask(answering(body=body, content_type=content_type), **options)
    assert isinstance(answer, Finished)
    assert json.loads(answer.result) == result


@pytest.mark.parametrize(
    ("handler", "pointer"),
    [
        (answering(body=b"{", content_type="application/json"), None),
        (answering(body=b"\xff\xfe", content_type="text/plain"), None),
        (answering(body=b'{"data": []}', content_type="application/json"), "/data/0"),
        (answering(body=b'{"data": []}', content_type="application/json"), "/data/x"),
        (answering(body=b"x" * 20, headers={"Content-Encoding": "gzip"}), None),
        (answering(body=b"[" * 5_000, content_type="application/json"), None),
    ],
)
def test_malformed_result(handler: Handler, pointer: str | None) -> None:
    answer = ask(handler, **({} if pointer is None else {"result": pointer}))
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("malformed_result", True)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
def test_refusal_says_status_and_the_beginning_of_the_body(status: int) -> None:
    answer = ask(answering(status, text="no  such\naccount " + "x" * 10_000))
    assert isinstance(answer, Failed)
    expected = "tool_broke" if status >= 500 else "refused_by_tool"  # after 5xx it may have acted
    assert (answer.error_class, answer.sent) == (expected, True)
    assert answer.error.startswith(f"{status}: no such account xxx")
    assert len(answer.error) <= 305


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_refused_and_not_followed(status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.path == "/x", "the redirect was followed"
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    tool = Tool(handler)
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        for method in ("GET", "POST"):
            answers.append(await tool.call(method=method))

    tool.run(scenario)
    assert [a.error_class for a in answers if isinstance(a, Failed)] == ["refused_by_tool"] * 2
    assert len(tool.requests) == 2


def test_result_of_exactly_the_limit_passes_and_one_more_does_not() -> None:
    fits = b'"' + b"x" * (MAX_RESULT_BYTES - 2) + b'"'
    answer = ask(answering(body=fits, content_type="application/json"))
    assert answer == Finished(fits)
    wrapped = ask(answering(body=b'{"result": ' + fits + b"}", content_type="application/json"))
    assert wrapped == Finished(fits)
    over = ask(answering(body=fits[:-1] + b'x"', content_type="application/json"))
    assert isinstance(over, Failed)
    assert over.error_class == "result_too_large"
    large = (
        b'"' + b"x" * (3 * MAX_RESULT_BYTES) + b'"'
    )  # a contract with an artifact store takes more, up to its own bound
    most = {"max_result_bytes": len(large)}
    assert ask(answering(body=large, content_type="application/json"), **most) == Finished(large)
    over = ask(answering(body=large[:-1] + b'x"', content_type="application/json"), **most)
    assert isinstance(over, Failed) and over.error_class == "result_too_large"


def test_reading_stops_at_the_bound() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # ends when the adapter closes the connection
            await response.write(b"x" * 65_536)
            sent += 65_536

    answer = ask(endless)
    assert isinstance(answer, Failed)
    assert answer.error_class == "result_too_large"
    assert sent < 64 * 1024 * 1024  # what sockets buffer, never the endless rest


def test_slow_tool_times_out_as_sent() -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    began = time.monotonic()
    answer = ask(slow, timeout_s=0.1)
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("timeout", True)
    assert time.monotonic() - began < 5


def test_slow_drip_times_out() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    answer = ask(drip, timeout_s=0.2)
    assert isinstance(answer, Failed)
    assert answer.error_class == "timeout"


# -- what goes out ----------------------------------------------------------------------------------------------------


def test_request_carries_key_intent_attempt_trace_and_canonical_arguments() -> None:
    tool = Tool(answering(body=b"1"))
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    canonical = b'{"amount":1.5,"to":"\xc3\xa9"}'

    async def scenario(tool: Tool) -> None:
        contract = b'{"kind":"http","method":"POST","url":"${TOOLS_URL}/pay","headers":{"X-Team":"a"}}'
        for intent_id, traceparent in (("s:1", trace), ("evil\r\nX-Evil: 1 é", "evil\r\nX-Evil: 1")):
            work = dispatch(
                1, executor=contract, arguments=canonical, key="k" * 40, attempt=3, intent_id=intent_id,
                traceparent=traceparent,
            )  # fmt: skip
            assert isinstance(await tool.adapter.call(work, 2), Finished)

    tool.run(scenario)
    first, second = tool.requests
    assert (first.method, first.raw_path, tool.bodies[0]) == ("POST", "/pay", canonical)
    assert first.headers["Idempotency-Key"] == "k" * 40
    assert (first.headers["X-Sluicegate-Intent"], first.headers["X-Sluicegate-Attempt"]) == ("s:1", "3")
    assert (first.headers["traceparent"], first.headers["X-Team"]) == (trace, "a")
    assert first.headers["Content-Type"] == "application/json"
    assert "X-Evil" not in second.headers
    assert "traceparent" not in second.headers
    assert second.headers["X-Sluicegate-Intent"] == "evil%0D%0AX-Evil:%201%20%C3%A9"


@pytest.mark.parametrize(
    ("method", "url", "arguments", "target", "body"),
    [
        ("GET", "/users/{id}", {"id": "a/b?c#d e", "n": 2}, "/users/a%2Fb%3Fc%23d%20e?n=2", b""),
        ("GET", "/q?fixed=1", {"s": "x&y=z", "o": {"k": [1]}}, "/q?fixed=1&s=x%26y%3Dz&o=%7B%22k%22%3A%5B1%5D%7D", b""),
        ("DELETE", "/u/{id}", {"id": 7, "f": True}, "/u/7?f=true", b""),
        ("PUT", "/u/{id}", {"id": "x", "v": None}, "/u/x", b'{"id":"x","v":null}'),
        ("PATCH", "/u", {"v": 1}, "/u", b'{"v":1}'),
        ("POST", "/a b/{id}", {"id": "%2e%2e"}, "/a%20b/%252e%252e", b'{"id":"%2e%2e"}'),
    ],
)  # fmt: skip
def test_arguments_in_url_query_and_body(
    method: str, url: str, arguments: dict[str, object], target: str, body: bytes
) -> None:
    tool = Tool(answering(body=b"1"))

    async def scenario(tool: Tool) -> None:
        assert isinstance(await tool.call(arguments, method=method, url="${TOOLS_URL}" + url), Finished)

    tool.run(scenario)
    assert tool.requests[0].raw_path == target
    assert tool.bodies[0] == body


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("/a/{x}/b", {"x": ".."}),
        ("/a/{x}/b", {"x": "."}),
        ("/a/.{x}/b", {"x": "."}),
        ("/a/{x}{y}/b", {"x": ".", "y": "."}),
        ("/a/{x}", {}),
    ],
)
def test_argument_never_climbs_out_of_its_segment(url: str, arguments: dict[str, object]) -> None:
    tool = Tool(answering(body=b"1"))
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(arguments, url="${TOOLS_URL}" + url))

    tool.run(scenario)
    assert isinstance(answers[0], Failed)
    assert (answers[0].error_class, answers[0].sent) == ("crashed", False)
    assert tool.requests == []


@pytest.mark.parametrize(
    "executor",
    [
        {"url": "http://{host}/x"},
        {"url": "http://127.0.0.1:{port}/x"},
        {"url": "http://user:pass@127.0.0.1/x"},
        {"url": "http://127.0.0.1\\@evil.example/x"},
        {"url": "file:///etc/passwd"},
        {"url": "http://127.0.0.1:99999/x"},
        {"url": "${HOME}/x"},
        {"url": "${SLUICEGATE_KAFKA_PASSWORD}/x"},
        {"method": "TRACE"},
        {"headers": {"Host": "evil"}},
        {"headers": {"idempotency-KEY": "mine"}},
        {"headers": {"X-Sluicegate-Intent": "mine"}},
        {"headers": {"X": "a\r\nY: b"}},
        {"headers": {"X Y": "a"}},
        {"headers": ["X"]},
        {"result": "data/0"},
    ],
)
def test_argument_never_chooses_host_and_contract_never_our_headers(executor: dict[str, object]) -> None:
    tool = Tool(answering(body=b"1"))
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call({"host": "evil.example", "port": 1}, **executor))

    tool.run(scenario)
    assert isinstance(answers[0], Failed)
    assert (answers[0].error_class, answers[0].sent) == ("crashed", False)
    assert tool.requests == []


# -- connections ------------------------------------------------------------------------------------------------------


def test_refused_connection_is_unreachable_with_proof() -> None:
    async def main() -> Answer:
        port = unused_port()
        adapter = HttpAdapter(Egress(f"127.0.0.1:{port}"), {})
        try:
            executor = orjson.dumps({"kind": "http", "url": f"http://127.0.0.1:{port}/"})
            return await adapter.call(dispatch(1, executor=executor), 2)
        finally:
            await adapter.close()

    answer = asyncio.run(main())
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("unreachable", False)


def test_unknown_name_is_unreachable_with_proof() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    answer = asyncio.run(_resolved("http://api.example.com/x", "*.example.com", nowhere))
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("unreachable", False)


def test_slow_connection_times_out_with_proof() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(30)
        return []

    answer = asyncio.run(_resolved("http://api.example.com/x", "*.example.com", slow, timeout_s=0.1))
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("timeout", False)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_broken_connection_is_not_retried(method: str) -> None:
    """The second request on a kept connection is read and the connection cut: it may have acted."""
    tool = Tool(answering(body=b"1"))
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(method=method))

        async def cut(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        tool.handler = cut
        answers.append(await tool.call(method=method))

    tool.run(scenario)
    assert isinstance(answers[0], Finished)
    assert isinstance(answers[1], Failed)
    assert (answers[1].error_class, answers[1].sent) == ("unreachable", True)
    assert len(tool.requests) == 2
    transports = {id(request.protocol) for request in tool.requests}
    assert len(transports) == 1  # the connection was kept, so aiohttp would have retried


def test_proxies_and_cookies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    tool = Tool(answering(body=b"1", headers={"Set-Cookie": "session=1"}))

    async def scenario(tool: Tool) -> None:
        for _ in range(2):
            assert isinstance(await tool.call(), Finished)

    tool.run(scenario)
    assert ["Cookie" in request.headers for request in tool.requests] == [False, False]


# -- egress -----------------------------------------------------------------------------------------------------------


async def _resolved(
    url: str, allowed: str, lookup: Callable[[str, int], Awaitable[list[str]]], timeout_s: float = 2.0
) -> Answer:
    adapter = HttpAdapter(Egress(allowed), {}, lookup=lookup)
    try:
        executor = orjson.dumps({"kind": "http", "method": "GET", "url": url})
        return await adapter.call(dispatch(1, executor=executor), timeout_s)
    finally:
        await adapter.close()


INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
    "::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1",
    "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:db8::1", "192.88.99.1", "64:ff9b:1::1", "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_inside_addresses_in_every_form(address: str) -> None:
    assert not is_outside(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_outside_addresses(address: str) -> None:
    assert is_outside(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", INSIDE)
def test_name_of_an_inside_address_is_denied(address: str) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]  # one good address does not redeem the other

    answer = asyncio.run(_resolved("http://api.example.com/x", "*.example.com,api.example.com", lookup))
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("egress_denied", False)
    assert "SLUICEGATE_EGRESS" in answer.error


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "127.0.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1",
        "127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "0", "0.0.0.0", "localhost",
        "LOCALHOST", "[fd00:ec2::254]", "[::ffff:a9fe:a9fe]",
    ],
)  # fmt: skip
def test_ssrf_corpus(host: str) -> None:
    """Every way to write an inside address, with a server behind it and a list that names the host without its port."""
    hits: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        hits.append(host)
        return web.Response(body=b"1")

    async def main() -> Answer:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        async with TestServer(app, host="127.0.0.1") as server:
            adapter = HttpAdapter(Egress(host), {})
            try:
                executor = orjson.dumps({"kind": "http", "url": f"http://{host}:{server.port}/"})
                return await adapter.call(dispatch(1, executor=executor), 2)
            finally:
                await adapter.close()

    answer = asyncio.run(main())
    assert hits == []
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == ("egress_denied", False)


def test_rebinding() -> None:
    """The name answers with an outside address once, then with ours: only checked addresses are connected to."""
    asked: list[str] = []
    hits: list[str] = []

    async def rebind(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1" if len(asked) == 1 else "127.0.0.1"]

    async def handler(request: web.Request) -> web.StreamResponse:
        hits.append(request.path)
        return web.Response(body=b"1")

    async def main() -> list[Answer]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        async with TestServer(app, host="127.0.0.1") as server:
            answers = []
            for _ in range(2):
                url = f"http://rebind.example.com:{server.port}/"
                answers.append(await _resolved(url, "rebind.example.com", rebind, timeout_s=0.3))
            return answers

    answers = asyncio.run(main())
    assert len(asked) == 2
    assert hits == []
    assert [a.sent for a in answers if isinstance(a, Failed)] == [False, False]
    assert isinstance(answers[1], Failed)
    assert answers[1].error_class == "egress_denied"


def test_connects_to_the_checked_address_with_the_name_as_host() -> None:
    """One look-up, and what it answered is what is connected to: there is no second look-up to poison."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(request.host)

    async def main() -> tuple[Answer, str]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        async with TestServer(app, host="127.0.0.1") as server:
            place = f"tools.invalid:{server.port}"
            return await _resolved(f"http://{place}/", place, lookup), place

    answer, place = asyncio.run(main())
    assert isinstance(answer, Finished)
    assert json.loads(answer.result) == place
    assert asked == ["tools.invalid"]


@pytest.mark.parametrize(
    ("patterns", "host", "port", "allowed"),
    [
        ("", "api.example.com", 443, False),
        ("api.example.com", "api.example.com", 8443, True),
        ("api.example.com", "API.example.com.", 443, True),
        ("api.example.com:443", "api.example.com", 8443, False),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "evilexample.com", 443, False),
        ("example.com", "api.example.com", 443, False),
        ("a.com, b.com:80", "b.com", 80, True),
        ("127.0.0.1:8900", "127.0.0.1", 8900, True),
        ("127.0.0.1:8900", "127.0.0.1", 8901, False),
        ("127.0.0.1", "127.0.0.1", 80, False),
        ("[::1]:8900", "::1", 8900, True),
        ("[::1]:8900", "0:0:0:0:0:0:0:1", 8900, True),
        ("[::1]", "::1", 8900, False),
        ("93.184.216.34", "93.184.216.34", 80, True),
    ],
)
def test_allow_list(patterns: str, host: str, port: int, allowed: bool) -> None:
    egress = Egress(patterns)
    if allowed:
        egress.check_host(host, port)
    else:
        with pytest.raises(Denied):
            egress.check_host(host, port)


@pytest.mark.parametrize("pattern", ["*", "http://a.com", "a.com/x", "a.*.com", "a.com:http", ":80"])
def test_allow_list_refuses_what_it_would_not_understand(pattern: str) -> None:
    with pytest.raises(Terminal, match="SLUICEGATE_EGRESS"):
        Egress(pattern)


# -- settings and secrets -----------------------------------------------------------------------------------------------


def test_from_env_takes_tool_variables_only() -> None:
    async def main() -> Answer:
        environ = {"SLUICEGATE_TOOL_A": "http://a.example.com", "OTHER": "http://b.example.com"}
        adapter = HttpAdapter.from_env(environ)
        try:
            executor = b'{"kind":"http","url":"${A}/x"}'
            return await adapter.call(dispatch(1, executor=executor), 1)
        finally:
            await adapter.close()

    answer = asyncio.run(main())
    assert isinstance(answer, Failed)
    assert "`a.example.com:80` is not on the egress list" in answer.error


def test_secret_reaches_the_tool_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tool that echoes everything it was told, as a result, as a refusal, escaped, and by breaking off."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text("file-" + CANARY + "\n")
    seen: list[str] = []
    answers: list[Answer] = []

    async def echo(request: web.Request) -> web.StreamResponse:
        told = request.headers["Authorization"] + " " + request.headers["X-Key"]
        seen.append(told)
        match request.path:
            case "/json":
                return web.json_response({"headers": told})
            case "/escaped":
                return web.Response(
                    text=json.dumps(told).replace("/", "\\/"), content_type="application/json"
                )
            case "/text":
                return web.Response(text=told)
            case "/refused":
                return web.Response(status=403, text="x" * 250 + told)
            case _:
                assert request.transport is not None
                request.transport.close()
                return web.Response()

    async def scenario(tool: Tool) -> None:
        headers = {"authorization": "Bearer ${secret:env:API_TOKEN}", "X-Key": f"${{secret:file:{file}}}"}
        for path in ("/json", "/escaped", "/text", "/refused", "/broken"):
            answers.append(await tool.call(url="${TOOLS_URL}" + path, headers=headers))

    Tool(echo, {"API_TOKEN": CANARY}).run(scenario)
    assert seen == [f"Bearer {CANARY} file-{CANARY}"] * 5
    assert [type(a) for a in answers] == [Finished] * 3 + [Failed] * 2
    text = repr(answers) + caplog.text
    for form in ("canary", CANARY, json.dumps(CANARY)):
        assert form not in text
    assert b"***" in answers[0].result  # type: ignore[union-attr]


def test_half_a_secret_is_no_answer_either() -> None:
    """A refusal made of nothing but a long secret: where reading stops, half of one is left."""
    long = "canary-" * 290
    answers: list[Answer] = []

    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text=request.headers["X-Key"] * 40)

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(headers={"X-Key": "${secret:env:API_TOKEN}"}))

    Tool(echo, {"API_TOKEN": long}).run(scenario)
    assert isinstance(answers[0], Failed)
    assert answers[0].error.startswith("400:")
    assert "canary" not in answers[0].error


@pytest.mark.parametrize(
    ("reference", "environ"),
    [
        ("env:MISSING", {}),
        ("env:SHORT", {"SHORT": "short"}),
        ("env:LINES", {"LINES": CANARY + "\r\nX-Evil: 1"}),
        ("env:SLUICEGATE_KAFKA_PASSWORD", {"SLUICEGATE_KAFKA_PASSWORD": CANARY}),
        ("file:/no/such/file", {}),
        ("file:relative", {}),
        ("vault:x", {}),
        ("env:", {"": CANARY}),
    ],
)
def test_unusable_secret_sends_nothing_and_says_its_name_only(
    reference: str, environ: dict[str, str]
) -> None:
    tool = Tool(answering(body=b"1"), environ)
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(headers={"X-Key": f"${{secret:{reference}}}"}))

    tool.run(scenario)
    assert tool.requests == []
    assert isinstance(answers[0], Failed)
    assert (answers[0].error_class, answers[0].sent) == ("crashed", False)
    assert reference in answers[0].error
    assert "canary" not in answers[0].error


def test_rotated_secret_counts_from_the_next_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    tool = Tool(answering(body=b"1"))

    async def scenario(tool: Tool) -> None:
        for value in ("first-secret", "second-secret"):
            file.write_text(value)
            await tool.call(headers={"X-Key": f"${{secret:file:{file}}}"})

    tool.run(scenario)
    assert [request.headers["X-Key"] for request in tool.requests] == ["first-secret", "second-secret"]


def test_secret_stands_in_headers_only() -> None:
    tool = Tool(answering(body=b"1"), {"API_TOKEN": CANARY})
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(url="${TOOLS_URL}/x?key=${secret:env:API_TOKEN}"))

    tool.run(scenario)
    assert tool.requests == []
    assert isinstance(answers[0], Failed)
    assert answers[0].error_class == "crashed"
