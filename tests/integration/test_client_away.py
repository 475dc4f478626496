"""The agent SDK when Kafka or the workers are away: a refusal within the time-out, no noise, and back again.

A real broker that is stopped, killed and started again; the gate behind it is `tests/driver.py` in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from sluicegate.gateway.context import CONFIRM_WAIT_S
from sluicegate.gateway.server import Gateway
from sluicegate.processors.control.api_keys import digest_of, token_of
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka, topics
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.client import AgentClient, Refused, Unanswered
from sluicegate.streams.control import log as control_log
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.sdk import session as client_session
from sluicegate.streams.sdk import transport as client_transport
from sluicegate.streams.settings import Settings

from tests.client_gate import Gate, run
from tests.driver import AGENT
from tests.integration import gate as gates

TIMEOUT_S = 1.0
SLACK_S = 20.0
"""On top of a time-out: closing what does not answer, and a loaded machine; aiokafka itself would take 40 s."""
READY_S = 60.0


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Fail when the block takes longer than its time-out and some slack."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < limit_s + SLACK_S


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are made and nothing ever answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker of this module's own: it is stopped and killed."""
    broker = EmbeddedBroker(tmp_path_factory.mktemp("kafka-away"))
    yield broker  # each test calls `start`, which waits until it answers again
    broker.stop()
    broker.wipe()


async def environment(bootstrap: str, home: Path) -> Settings:
    """A fresh environment's topics."""
    settings = Settings(env=f"away-{uuid.uuid4().hex[:8]}", kafka=bootstrap, home=home, partitions=2)
    await topics.create(settings)
    return settings


@contextlib.asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[Gate]:
    """Decide what comes on `intents`, as a worker would, and answer on `replies`."""
    gate, names = Gate(), [full_name(settings.env, name) for name in ("intents", "replies")]
    consumer = await kafka.connect(kafka.consumer(settings, names[0], fetch_wait_ms=50))
    producer = await kafka.connect(kafka.producer(settings))
    answered = 0

    async def serve() -> None:
        nonlocal answered
        async for record in consumer:
            gate.driver.now = max(gate.driver.now, time.time_ns() // 1000)
            gate.after(gate.driver.feed("intents", record.value))
            for key, value in gate.log[answered:]:
                await producer.send(names[1], value, key=key)
            answered = len(gate.log)

    serving = asyncio.create_task(serve())
    try:
        yield gate
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        await asyncio.gather(consumer.stop(), producer.stop())


def connecting_is_refused(bootstrap: str, home: Path) -> Refused:
    async def main() -> Refused:
        settings = Settings(kafka=bootstrap, home=home)
        with within(TIMEOUT_S), pytest.raises(Refused) as raised:
            async with AgentClient(AGENT, settings=settings, connect_timeout_s=TIMEOUT_S):
                pytest.fail("it connected")
        return raised.value

    return run(main())


def test_a_port_that_refuses(closed_port: int, tmp_path: Path) -> None:
    error = connecting_is_refused(f"127.0.0.1:{closed_port}", tmp_path)
    assert (error.reason, error.stage, error.published) == ("unavailable", "client", False)
    assert "sluicegate up" in error.for_developer and str(closed_port) in error.for_developer
    assert error.for_model == "The gate is not available, so nothing was done."


def test_a_port_that_swallows_everything(silent_port: int, tmp_path: Path) -> None:
    error = connecting_is_refused(f"127.0.0.1:{silent_port}", tmp_path)
    assert (type(error), error.reason, error.published) == (Refused, "unavailable", False)


def test_a_kafka_without_our_topics(kafka: str, tmp_path: Path) -> None:
    error = connecting_is_refused(kafka, tmp_path)
    assert (error.reason, error.published) == ("unavailable", False)


def test_kafka_without_workers(kafka: str, tmp_path: Path) -> None:
    async def main() -> None:
        settings = await environment(kafka, tmp_path)
        async with AgentClient(AGENT, settings=settings) as agent:
            with within(TIMEOUT_S), pytest.raises(Unanswered) as raised:
                async with agent.session(timeout_s=TIMEOUT_S):
                    pytest.fail("it opened")
            assert (raised.value.reason, raised.value.published) == ("unavailable", True)
            with within(TIMEOUT_S), pytest.raises(Unanswered):
                await agent.result("nobody-knows", TIMEOUT_S)

    run(main())


def test_replies_of_an_earlier_client_are_found(kafka: str, tmp_path: Path) -> None:
    async def main() -> None:
        settings = await environment(kafka, tmp_path)
        async with worker(settings):
            async with AgentClient(AGENT, settings=settings) as agent, agent.session() as session:
                assert await session.call_tool("desk.read", {}, intent_id="before") == {"ok": True}
            async with AgentClient(AGENT, settings=settings) as agent:
                assert await agent.result("before") == {"ok": True}
        async with AgentClient(AGENT, settings=settings) as agent:  # with nobody there either
            assert await agent.result("before") == {"ok": True}

    run(main())


def test_a_broker_that_hangs(broker: EmbeddedBroker, tmp_path: Path) -> None:
    async def main() -> None:
        settings = await environment(await asyncio.to_thread(broker.start), tmp_path)
        pid = broker.pid
        assert pid is not None
        async with worker(settings):
            stack = contextlib.AsyncExitStack()
            agent = await stack.enter_async_context(AgentClient(AGENT, settings=settings))
            session = await stack.enter_async_context(agent.session())
            assert await session.call_tool("desk.read", {}) == {"ok": True}
            os.kill(pid, signal.SIGSTOP)
            try:
                with within(TIMEOUT_S), pytest.raises(Unanswered) as raised:  # Kafka may have it
                    await session.call_tool("desk.read", {}, timeout_s=TIMEOUT_S)
                assert raised.value.reason == "unavailable"
                with within(TIMEOUT_S), pytest.raises(Refused):
                    await agent.result("any", TIMEOUT_S)
                with within(client_session.CLOSE_LIMIT_S):
                    await stack.aclose()
            finally:
                os.kill(pid, signal.SIGCONT)

    run(main())


def test_a_broker_that_dies_and_comes_back(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_transport, "STUCK_S", TIMEOUT_S / 2)  # so that it is over when a call is

    async def main() -> None:
        settings = await environment(await asyncio.to_thread(broker.start), tmp_path)
        async with AgentClient(AGENT, settings=settings) as agent:
            async with worker(settings):
                session = await agent.session().__aenter__()
                assert await session.call_tool("desk.read", {}) == {"ok": True}
            await asyncio.to_thread(broker.kill)
            with within(TIMEOUT_S), pytest.raises(Unanswered):  # handed over before anybody noticed
                await session.call_tool("desk.read", {}, timeout_s=TIMEOUT_S)
            with within(2 * TIMEOUT_S), pytest.raises(Refused) as raised:
                await session.call_tool("desk.read", {}, timeout_s=2 * TIMEOUT_S)
            assert (type(raised.value), raised.value.published) == (Refused, False)
            assert await asyncio.to_thread(broker.start) == settings.kafka
            async with worker(settings) as gate:
                gate.driver.open_session(session.session_id)
                deadline = time.monotonic() + READY_S
                while time.monotonic() < deadline:
                    try:
                        answer = await session.call_tool("desk.read", {}, timeout_s=2 * TIMEOUT_S)
                        break
                    except Refused:
                        continue
                assert answer == {"ok": True}
                await session.close()

    run(main())


def test_a_gateway_while_kafka_is_away(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Nobody is let in by an old control, nothing waits for long, and it serves again when Kafka does."""

    async def main() -> None:
        settings = await environment(await asyncio.to_thread(broker.start), tmp_path)
        keys = Keys(settings.home)
        await gates.prepare(settings, keys)
        key = {
            "key_id": "k",
            "sha256": digest_of("s"),
            "agent_id": AGENT,
            "scopes": ["agent"],
            "rate_per_s": 100,
            "not_after": 2**53 - 1,
        }
        await control_log.append(settings, keys, [("api_key.added", key)], who="a test", why="")
        keys.close()
        gateway = Gateway(settings)
        await gateway.start()
        headers = {"Authorization": f"Bearer {token_of(settings.env, 'k', 's')}"}
        async with aiohttp.ClientSession(gateway.url, headers=headers) as client:

            async def asked(method: str, path: str, body: object = None) -> tuple[int, str]:
                async with client.request(method, path, json=body) as answer:
                    await answer.read()
                    return answer.status, answer.headers.get("Retry-After", "")

            assert (await asked("GET", "/v1/models"))[0] == 200
            await asyncio.to_thread(broker.kill)
            gave_up = time.monotonic() + READY_S
            while (await asked("GET", "/healthz"))[0] != 503:
                assert time.monotonic() < gave_up
                await asyncio.sleep(0.1)
            doors = (
                ("POST", "/v1/sessions", {}), ("POST", "/v1/intents", {"session_id": "s", "tool": "desk.read"}),
                ("GET", "/v1/intents/any", None), ("GET", "/v1/sessions/s/events", None), ("POST", "/mcp", {}),
                ("POST", "/v1/chat/completions", {"model": "m"}), ("POST", "/v1/responses", {"model": "m"}),
                ("POST", "/access/v1/evaluation", {}), ("GET", "/v1/approvals", None),
            )  # fmt: skip
            with within(CONFIRM_WAIT_S):
                answers = await asyncio.gather(*(asked(*door) for door in doors))
            assert answers == [(503, "1")] * len(doors)
            assert await asyncio.to_thread(broker.start) == settings.kafka
            while (await asked("GET", "/v1/models"))[0] != 200:
                assert time.monotonic() < gave_up + READY_S
                await asyncio.sleep(0.1)
            await asyncio.to_thread(broker.kill)
        with within(TIMEOUT_S):
            await gateway.stop()

    run(main())


def test_a_broker_that_is_gone_at_the_end(broker: EmbeddedBroker, tmp_path: Path) -> None:
    async def main() -> None:
        settings = await environment(await asyncio.to_thread(broker.start), tmp_path)
        stack = contextlib.AsyncExitStack()
        async with worker(settings):
            agent = await stack.enter_async_context(AgentClient(AGENT, settings=settings))
            await stack.enter_async_context(agent.session())
        await asyncio.to_thread(broker.kill)
        with within(client_session.CLOSE_LIMIT_S):
            await stack.aclose()

    run(main())


def test_what_is_reached_inside_aiokafka_is_still_there(closed_port: int) -> None:
    async def main() -> None:
        producer = kafka.producer(f"127.0.0.1:{closed_port}")
        assert producer._closed is False and producer._sender.sender_task is None
        await producer.stop()
        consumer = kafka.consumer(f"127.0.0.1:{closed_port}")
        assert callable(consumer._client.close)
        await consumer.stop()

    run(main())
