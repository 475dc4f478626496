"""The http executor against a tool that fails on purpose: effects by key, bounds, and requests made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import orjson
import pytest
from aiohttp.test_utils import TestServer
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.egress import Egress
from sluicegate.executors.http import HttpAdapter
from sluicegate.executors.retries import retry_after_s
from sluicegate.executors.wire import Answered

from tests.executor_fakes import dispatch
from tests.servers.faults import KINDS, FaultyServer, Journal
from tests.servers.tool_server import tool_server

CLASSES = ("read_only", "idempotent", "queryable", "irreversible")


class Tool:
    """The server and an adapter that may reach it."""

    def __init__(self, server: FaultyServer | None = None) -> None:
        self.server = server or tool_server()
        self.journal: Journal = self.server.journal
        self.port = 0

    def run(self, scenario: Callable[[Tool], Awaitable[None]]) -> Journal:
        async def main() -> None:
            async with TestServer(self.server.app, host="127.0.0.1") as server:
                place = f"127.0.0.1:{server.port}"
                self.adapter = HttpAdapter(Egress(place), {"TOOL": f"http://{place}"}, environ={})
                try:
                    await scenario(self)
                finally:
                    await self.adapter.close()

        asyncio.run(main())
        return self.journal

    async def call(
        self, fault: str, *, number: int = 1, tool_class: str = "read_only", timeout_s: float = 2.0, **executor: object
    ) -> Answer:  # fmt: skip
        contract = {"kind": "http", "url": f"${{TOOL}}/{fault}/x", **executor}
        arguments = orjson.dumps({"number": number})
        work = dispatch(number, executor=orjson.dumps(contract), arguments=arguments, tool_class=tool_class)
        return await self.adapter.call(work, timeout_s)


def call(fault: str, **more: object) -> tuple[Answer, Journal]:
    answers: list[Answer] = []

    async def scenario(tool: Tool) -> None:
        answers.append(await tool.call(fault, **more))  # type: ignore[arg-type]

    journal = Tool().run(scenario)
    return answers[0], journal


def requests(journal: Journal) -> int:
    return sum(journal.requests.values())


# -- what a tool can do to a call -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error_class", "effects"),
    [
        ("status=500", "tool_broke", 0),
        ("error_after_acting", "tool_broke", 1),
        ("acts_then_drops", "unreachable", 1),
        ("acts_late,wait_s=0.4", "timeout", 0),
        ("slow,wait_s=5", "timeout", 0),
        ("never", "timeout", 0),
        ("cut", "unreachable", 1),
        ("wrong_json", "malformed_result", 1),
        ("huge", "result_too_large", 1),
    ],
)
def test_a_fault_is_said_as_it_was_and_met_once(fault: str, error_class: str, effects: int) -> None:
    answer, journal = call(fault, timeout_s=0.25, tool_class="irreversible")
    assert isinstance(answer, Failed)
    assert (answer.error_class, answer.sent) == (error_class, True)
    assert (requests(journal), sum(journal.effects.values())) == (1, effects)
    assert journal.sent_bytes < 64 * 1024 * 1024  # of 2 GB


def test_a_tool_that_acts_after_the_deadline_acts_once() -> None:
    async def scenario(tool: Tool) -> None:
        answer = await tool.call("acts_late,wait_s=0.2", timeout_s=0.05, tool_class="irreversible")
        assert isinstance(answer, Failed)
        assert (answer.error_class, answer.sent) == ("timeout", True)
        async with asyncio.timeout(10):
            while not tool.journal.effects:
                await asyncio.sleep(0.01)

    assert list(Tool().run(scenario).effects.values()) == [1]


def test_a_tool_that_answers_twice() -> None:
    """The second answer waits on the idle connection; the next call must not get it for its own."""

    async def scenario(tool: Tool) -> None:
        for number in range(1, 6):
            answer = await tool.call("twice", number=number)
            assert isinstance(answer, Finished)
            assert orjson.loads(answer.result)["did"] == {"number": number}
            await asyncio.sleep(0)

    Tool().run(scenario)


def test_an_answer_nobody_asked_for_waits_for_nobody() -> None:
    """The same with the unasked answer coming once the connection is idle, and the connection kept open."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            writer.write(answer % (len(body), body))
            await asyncio.sleep(0.02)
            writer.write(answer % (7, b'"other"'))

    async def main() -> list[Answer]:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append((asyncio.create_task(serve(reader, writer)), writer))

        served: list[tuple[asyncio.Task[None], asyncio.StreamWriter]] = []
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        adapter = HttpAdapter(Egress(place), {}, environ={})
        answers = []
        try:
            for number in range(4):
                executor = orjson.dumps({"kind": "http", "url": f"http://{place}/x"})
                work = dispatch(number, executor=executor, arguments=orjson.dumps({"number": number}))
                answers.append(await adapter.call(work, 5))
                await asyncio.sleep(0.06)
        finally:
            await adapter.close()
            server.close()
            for task, writer in served:
                task.cancel()
                writer.close()
            await asyncio.gather(*(task for task, _ in served), return_exceptions=True)
        return answers

    answers = asyncio.run(main())
    assert answers == [Finished(orjson.dumps({"number": number})) for number in range(4)]
    assert len(heads) == 4


# -- made again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_passes_is_met_again(status: int) -> None:
    answer, journal = call(f"status={status},times=2", retries=2)
    assert isinstance(answer, Finished)
    assert (list(journal.requests.values()), list(journal.effects.values())) == ([3], [1])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 501])
def test_a_status_that_stays_is_met_once(status: int) -> None:
    answer, journal = call(f"status={status},times=1", retries=2)
    assert isinstance(answer, Failed)
    assert requests(journal) == 1


@pytest.mark.parametrize("tool_class", CLASSES)
@pytest.mark.parametrize("fault", ["status=503,times=1", "acts_then_drops,times=1"])
def test_only_repeatable_classes(tool_class: str, fault: str) -> None:
    answer, journal = call(fault, retries=3, tool_class=tool_class)
    again = tool_class in ("read_only", "idempotent")
    assert isinstance(answer, Finished) == again
    assert list(journal.requests.values()) == [2 if again else 1]  # under one key


@pytest.mark.parametrize(("honours", "effects"), [("", 2), (",keyed", 1)])
@pytest.mark.parametrize("fault", ["acts_then_drops,times=1", "error_after_acting,times=1"])
def test_a_tool_that_honours_the_key_acts_once(fault: str, honours: str, effects: int) -> None:
    answer, journal = call(fault + honours, retries=1, tool_class="idempotent")
    assert isinstance(answer, Finished)
    assert (requests(journal), sum(journal.effects.values())) == (2, effects)


def test_the_number_of_requests_is_bounded() -> None:
    answer, journal = call("status=503", retries=1)
    assert isinstance(answer, Failed) and answer.error.startswith("503")
    assert requests(journal) == 2
    answer, journal = call("status=503", retries=1_000_000, timeout_s=20)
    assert isinstance(answer, Failed)
    assert requests(journal) == 6


@pytest.mark.parametrize("retries", [None, 0, -1, True, "2", 1.5, [1]])
def test_nothing_usable_is_no_retry(retries: object) -> None:
    _, journal = call("status=503,times=1", retries=retries)
    assert requests(journal) == 1


def test_retry_after_is_obeyed_inside_the_time() -> None:
    began = time.monotonic()
    answer, _ = call("status=429,retry_after=1,times=1", retries=1, timeout_s=20)
    assert isinstance(answer, Finished)
    assert time.monotonic() - began >= 1  # it waited; how much longer is the machine's business


def test_a_wait_that_does_not_fit_is_not_begun() -> None:
    began = time.monotonic()
    answer, journal = call("status=429,retry_after=60,times=1", retries=3, timeout_s=30)
    assert isinstance(answer, Failed) and answer.error.startswith("429")
    assert requests(journal) == 1
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("0", 0, 0), ("7", 7, 7), (" 7 ", 7, 7), ("999999999999", 600, 600), ("-1", 0, 0), ("soon", 0, 0), ("1.5", 0, 0),
        ("", 0, 0), ("²", 0, 0), ("in 100 s", 1, 101), (formatdate(0, usegmt=True), 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600, 600), ("Xyz, 99 Foo 9999 99:99:99 GMT", 0, 0),
    ],
)  # fmt: skip
def test_retry_after(text: str, least: float, most: float) -> None:
    if text == "in 100 s":
        text = formatdate(time.time() + 100, usegmt=True)
    answered = Answered(429, {"Retry-After": text}, "text/plain", b"", True)
    assert least <= retry_after_s(answered) <= most


def test_every_fault_is_used() -> None:
    """A fault nobody meets here proves nothing."""
    used = {
        "ok",
        "status",
        "slow",
        "wrong_json",
        "cut",
        "huge",
        "never",
        "twice",
        "acts_then_drops",
        "acts_late",
    }
    assert used | {"error_after_acting"} == set(KINDS)
