"""Long work on a real Kafka and a real http tool: polled and called back, over a restart of the executor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiokafka import TopicPartition
from sluicegate.executors.callbacks import Address, Callbacks
from sluicegate.executors.dispatcher import Executor
from sluicegate.executors.egress import Egress
from sluicegate.executors.http import HttpAdapter
from sluicegate.schemas.records import Receipt
from sluicegate.schemas.topics import TOPICS, full_name, partition_of
from sluicegate.streams import kafka as kafka_clients
from sluicegate.streams.client import AgentClient, Failed, Parked
from sluicegate.streams.lanes.service import wall_clock
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, release_files
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop
from tests.ports import unused
from tests.unit.test_jobs import contract

LIMIT_S = 60.0
CANARY = "canary-3b9d27c1-not-for-anybody"
HEADERS = {"X-Key": "${secret:env:TOOL_KEY}"}


class Tool:
    """Takes jobs, says how they stand, and remembers where to call back."""

    def __init__(self) -> None:
        [self.port] = unused(1)
        self.begun: dict[str, str] = {}
        self.state = "running"
        self.looks = 0
        self.callback = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/jobs", self._begin)
        app.router.add_get("/jobs/{job}", self._look)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _begin(self, request: web.Request) -> web.Response:
        secret = request.headers["X-Key"]
        assert secret == CANARY
        if (await request.json()).get("value") == "refuse":
            return web.json_response({"your key": secret}, status=400)
        key = request.headers["Idempotency-Key"]
        self.callback = request.headers.get("Callback-Url", "")
        return web.json_response({"id": self.begun.setdefault(key, f"job-{len(self.begun)}")}, status=202)

    async def _look(self, request: web.Request) -> web.Response:
        self.looks += 1
        said = {"job": request.match_info["job"], "your key": request.headers["X-Key"]}
        return web.json_response({"state": self.state, "result": said})


def files(port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/jobs"
    job = {"id": "/id", "url": url + "/{job}", "state": "/state", "done": ["done"], "result": "/result"}
    poll = {"completion": "poll", "poll_every_s": 1}
    return {
        **release_files(),
        "contracts/long.poll.json": contract(
            "long.poll", "irreversible", poll, kind="http", headers=HEADERS, url=url, job=job
        ),
        "contracts/long.call.json": contract(
            "long.call", "irreversible", {"completion": "callback"}, kind="http", headers=HEADERS, url=url
        ),
        "policies/long.cedar": '@id("long") permit (principal, action in [Action::"long.poll", Action::"long.call"], '
        "resource);",
    }


class Executors:
    """One executor after the other, each with an endpoint of its own at the same address."""

    def __init__(self, settings: Settings, tool: Tool) -> None:
        self._settings, self._tool = settings, tool
        [port] = unused(1)
        self._address = Address(f"http://127.0.0.1:{port}", "127.0.0.1", port, b"k" * 40)
        self._executor: Executor | None = None
        self._callbacks: Callbacks | None = None

    async def start(self, name: str) -> None:
        self._callbacks = Callbacks(self._address, self._settings.env, name, wall_clock)
        egress = Egress(f"127.0.0.1:{self._tool.port}")
        adapter = HttpAdapter(egress, {}, environ={"TOOL_KEY": CANARY}, callback_url=self._callbacks.url_for)
        self._executor = Executor(self._settings, {"http": adapter}, name=name)
        await self._executor.start()
        await self._callbacks.start(self._send)

    async def _send(self, receipt: Receipt) -> None:
        assert self._executor is not None
        await self._executor.report(partition_of(receipt.agent_id, self._settings.partitions), receipt)

    async def stop(self) -> None:
        assert self._executor is not None and self._callbacks is not None
        await self._callbacks.stop()
        await self._executor.stop()


@pytest.fixture
def world(kafka: str, tmp_path: Path) -> Iterator[tuple[Loop, Gate, Tool, Executors]]:
    tool = Tool()
    settings = gates.new_settings(kafka, tmp_path)
    with gates.running(settings, files=files(tool.port), executor=False) as (loop, gate):
        loop.run(tool.start())
        executors = Executors(settings, tool)
        yield loop, gate, tool, executors
        loop.run(executors.stop())
        loop.run(tool.stop())


async def records(settings: Settings) -> bytes:
    """Every record of every topic, one after the other."""
    found: list[bytes] = []
    reader = await kafka_clients.connect(kafka_clients.consumer(settings, fetch_wait_ms=20))
    counts = {full_name(settings.env, t.name): settings.partitions if t.keyed else 1 for t in TOPICS}
    places = [TopicPartition(name, index) for name, count in counts.items() for index in range(count)]
    reader.assign(places)
    for place, end in (await reader.end_offsets(places)).items():
        reader.seek(place, 0)
        while await reader.position(place) < end:
            for record in (await reader.getmany(place, timeout_ms=200)).get(place, ()):
                found.append(record.value or b"")
    await reader.stop()
    return b"".join(found)


def test_polled_and_called_back_over_a_restart(
    world: tuple[Loop, Gate, Tool, Executors], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    loop, gate, tool, executors = world

    async def scenario() -> None:
        await executors.start("one")
        async with AgentClient(AGENT, settings=gate.settings) as agent:
            async with agent.session("long work") as session:
                polled = await session.submit("long.poll", {})
            await gates.until(lambda: tool.looks >= 1 and "parked" in gate.life(polled), "a look")
            await executors.stop()
            await executors.start("two")  # it knows of nothing
            with pytest.raises(Parked):
                await agent.result(
                    polled, 3.0
                )  # what it finds is old; that nothing newer comes takes all of the time
            tool.state = "done"
            assert await agent.result(polled, LIMIT_S) == {"job": "job-0", "your key": "***"}
            async with agent.session("more of it") as session:
                with pytest.raises(Failed) as refused:
                    await session.call_tool("long.poll", {"value": "refuse"})
                assert "***" in str(refused.value) and CANARY not in str(refused.value)
                called = await session.submit("long.call", {})
                await gates.until(lambda: "parked" in gate.life(called), "the job to be parked")
            await executors.stop()
            await executors.start("three")
            async with aiohttp.ClientSession() as web_session:
                for body in ({"state": "running"}, {"result": {"n": 1}}, {"result": {"n": 2}}):
                    async with web_session.post(tool.callback, json=body) as response:
                        assert response.status == 202
                async with web_session.post(tool.callback[:-3] + "AAA", json={"result": 1}) as response:
                    assert response.status == 404
            assert await agent.result(called, LIMIT_S) == {"n": 1}
            await gates.until(lambda: gate.life(called)[-1] == "noted", "the second end to be noted")
        assert len(tool.begun) == 2, "nothing was begun twice"
        token = tool.callback.rpartition("/")[2]
        # INVARIANT: no secret is on any topic or in any log; contents on `outcomes` are those of `receipts`.
        everything = await records(gate.settings)
        assert (
            b"job-0" in everything and CANARY.encode() not in everything and token.encode() not in everything
        )
        assert CANARY not in caplog.text and token not in caplog.text
        assert gate.life(called)[-4:] == ["parked", "parked", "released", "noted"]
        await gate.intact()

    loop.run(asyncio.wait_for(scenario(), 2 * LIMIT_S), 3 * LIMIT_S)
