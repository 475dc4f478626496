"""A gate in memory for the agent SDK: the real stages and the real fold (`driver.py`) behind the SDK's port.

    gate = Gate()
    in_session(gate, body)      # body(agent, session)
    gate.sent                   # what the client published

Never touches Kafka. `run` fails a test that leaves an exception nobody saw. Next: `unit/test_client.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.state import OpenIntent, intent_key
from sluicegate.schemas import codec
from sluicegate.schemas.records import Dispatch, Envelope, Piece, Reply, Review
from sluicegate.streams.client import (
    AgentClient,
    NotReleased,
    Session,
)
from sluicegate.streams.sdk.in_process import now_us
from sluicegate.streams.sdk.transport import Acknowledged, Deliver, Headers
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, OTHER_AGENT, PERSON, Driver

SHORT_S = 0.05
"""Time-out of what is expected not to be answered."""
LONG_S = 20.0
"""Time-out of what is expected to be answered at once: only a failing test waits so long."""
T = TypeVar("T")


@dataclass
class Gate:
    """`Transport` on a ledger partition in memory, and the executor behind it.

    Attributes:
        execute: what the executor reports for a dispatch; None leaves it unclaimed.
        silent: decide, but deliver nothing.
        sending, confirming: replace these steps of `send`.
    """

    driver: Driver = field(default_factory=Driver)
    execute: Callable[[Driver, Dispatch], Decision] | None = lambda d, work: d.finish(work)
    silent: bool = False
    sending: Callable[[], Coroutine[object, object, None]] | None = None
    confirming: Callable[[], Coroutine[object, object, None]] | None = None
    sent: list[tuple[str, object, dict[str, bytes]]] = field(default_factory=list)
    log: list[tuple[bytes, bytes]] = field(default_factory=list)
    deliver: Deliver | None = None
    pieces: Deliver | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        self.driver.now = self.driver.state.now = now_us()

    async def start(self, deliver: Deliver) -> None:
        self.deliver = deliver

    async def send(self, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        if self.sending is not None:
            await self.sending()
        record = codec.decode(value)
        if isinstance(record, Envelope):
            record = codec.decode(record.payload)
        self.sent.append((topic, record, dict(headers)))
        self.driver.now = max(self.driver.now, now_us())
        self.after(self.driver.feed(topic, value))
        return self.confirming or self.confirm

    async def confirm(self) -> None:
        await asyncio.sleep(0)

    async def replay(self, deliver: Callable[[bytes | None, bytes], bool], intent_id: str) -> None:
        for key, value in list(self.log):
            await asyncio.sleep(0)
            if deliver(key, value):
                return

    async def listen(self, deliver: Deliver) -> None:
        self.pieces = deliver

    def show(self, piece: Piece) -> None:
        """A piece arrives on topic `pieces`."""
        if self.pieces is not None:
            self.pieces(piece.agent_id.encode(), codec.encode(piece))

    async def stop(self) -> None:
        self.stopped = True

    def after(self, decision: Decision) -> None:
        """Deliver what a decision says, and let the executor do what it orders."""
        for reply in decision.replies:
            self.reply(reply)
        for work in decision.dispatches:
            if self.execute is not None:
                self.after(self.execute(self.driver, work))

    def reply(self, reply: Reply, key: bytes | None = None) -> None:
        record = (reply.agent_id.encode() if key is None else key, codec.encode(reply))
        self.log.append(record)
        if self.deliver is not None and not self.silent:
            # In a context of its own: the reader is nobody's caller.
            asyncio.get_running_loop().call_soon(self.deliver, *record, context=contextvars.Context())

    def of(self, kind: type[T]) -> list[T]:
        """What was sent, of one record type."""
        return [record for _, record, _ in self.sent if isinstance(record, kind)]

    async def until(self, kind: type[T], count: int = 1) -> T:
        """Wait until so many records of a type were sent; the last one."""
        async with asyncio.timeout(LONG_S):
            while len(self.of(kind)) < count:
                await asyncio.sleep(0.001)
        return self.of(kind)[count - 1]


def client(gate: Gate, agent_id: str = AGENT, **more: object) -> AgentClient:
    return AgentClient(agent_id, settings=Settings(env="test"), transport=gate, **more)  # type: ignore[arg-type]


def run(main: Coroutine[object, object, T]) -> T:
    """Run it; nothing may be left to complain about: no exception nobody saw, no coroutine nobody awaited."""
    noise: list[object] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
        try:
            return await main
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            noise.extend(others)

    before, sys.unraisablehook = sys.unraisablehook, lambda found: None
    gc.collect()  # what tests before this one left is not its noise
    sys.unraisablehook = lambda found: noise.append(found.exc_value)
    try:
        result = asyncio.run(watched())
        gc.collect()
    finally:
        sys.unraisablehook = before
    assert noise == [], noise
    return result


def in_session(
    gate: Gate, body: Callable[[AgentClient, Session], Coroutine[object, object, T]], **more: object
) -> T:
    async def main() -> T:
        async with client(gate, **more) as agent, agent.session("a test") as session:
            return await body(agent, session)

    return run(main())


def refusal_of(
    gate: Gate, tool: str, arguments: dict[str, object] | None = None, **more: object
) -> NotReleased:
    """What one call raises."""

    async def body(agent: AgentClient, session: Session) -> NotReleased:
        with pytest.raises(NotReleased) as raised:
            await session.call_tool(tool, arguments or {}, **more)  # type: ignore[arg-type]
        return raised.value

    return in_session(gate, body)


def approve(
    gate: Gate, intent_id: str, verdict: str = "approve", *, person: str = PERSON, edit: bytes | None = None
) -> Decision:
    """A person's word on a held intent."""
    entry = gate.driver.state.intents[intent_key(gate.driver.control.agents[AGENT].tenant, AGENT, intent_id)]
    assert isinstance(entry, OpenIntent)
    review = Review(
        "r-1", AGENT, intent_id, verdict, entry.action_digest, person, gate.driver.now, release=entry.hold_release,
        arguments=edit,
    )  # fmt: skip
    return gate.driver.feed("reviews", review)


def foreign(intent_id: str, agent_id: str = OTHER_AGENT) -> Reply:
    """A refusal that answers another request."""
    return Reply(bytes(16), intent_id, agent_id, "s", "refused", "route", "unknown_tool", [], 1)
