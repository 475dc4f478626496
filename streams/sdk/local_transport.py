"""A gate in memory as the client's transport: records are decided as they are sent, and permitted work runs here.

The `Transport` of `sdk/transport.py` without Kafka, for one event loop. A tool is a Python function; what has no function
fails and says so. The client's clock is the machine's, the gate's may be another (`FakeClock`): times are moved when a
record crosses. Never decides. Next: `local.py` (who makes it), `processors/replay/one_partition.py` (who decides).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import cast

import orjson
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.replay.one_partition import OnePartition
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch, Intent, Message, Receipt, Reply
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.sdk import json as client_json
from sluicegate.streams.sdk.in_process import LocalFunction, now_us
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.transport import Deliver, Headers, InProcess

EXECUTOR = "local"
MAX_REPLIES = 100_000
"""Replies kept for `agent.result`, about 1 kB each: 100 MB; the oldest are forgotten first."""

log = logging.getLogger("sluicegate.local")

Clock = Callable[[], int]
"""Microseconds since the epoch."""


class Switchboard:
    """The one ledger of a local gate, the agents that are connected to it, and the tools it may call."""

    def __init__(
        self, ledger: OnePartition, clock: Clock, tools: Mapping[str, Callable[..., object]]
    ) -> None:
        self.ledger, self.clock = ledger, clock
        self.tools = {name: LocalFunction(function) for name, function in tools.items()}
        self.replies: list[tuple[bytes, bytes]] = []
        self._inboxes: list[Deliver] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def connect(self, deliver: Deliver) -> Callable[[], None]:
        """Hand new replies to `deliver`, until the answer is called."""
        self._inboxes.append(deliver)

        def leave() -> None:
            self._inboxes.remove(deliver)
            if not self._inboxes and self._timer is not None:
                self._timer.cancel()
                self._timer = None

        return leave

    @property
    def now(self) -> int:
        """The gate's time: its clock's, and never before what was decided."""
        return max(self.clock(), self.ledger.state.now)

    def take(self, topic: str, record: object) -> list[Decision]:
        """Decide a record, tell what came of it, and begin permitted work."""
        decisions = self.ledger.take(topic, codec.encode(record), self.now)
        self._tell(decisions)
        return decisions

    def restore(self) -> None:
        """Take in what control orders by now, and end what that withdrew."""
        decisions = self.ledger.restore(self.now)
        if decisions:
            self._tell(decisions)
            self.tick()

    def tick(self) -> int:
        """Act on every deadline that is due; how many outcomes that made."""
        made = 0
        while decisions := self.ledger.tick(self.now):
            made += sum(len(d.outcomes) for d in decisions)
            self._tell(decisions)
        return made

    async def settle(self) -> None:
        """Wait until no work is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _tell(self, decisions: list[Decision]) -> None:
        behind = now_us() - self.now
        for decision in decisions:
            for reply in decision.replies:
                # What runs in the client measures a permit's age by the client's clock.
                told = replace(reply, decided_at=reply.decided_at + behind)
                pair = (reply.agent_id.encode(), codec.encode(told))
                self.replies.append(pair)
                del self.replies[:-MAX_REPLIES]
                for deliver in list(self._inboxes):
                    deliver(*pair)
            for dispatch in decision.dispatches:
                self._begin(dispatch)
        self._wake()

    def _begin(self, dispatch: Dispatch) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # asked without a loop: what was permitted is known, and nothing runs
        task = loop.create_task(self._run(dispatch), name=f"local tool `{dispatch.tool}`")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, dispatch: Dispatch) -> None:
        """As an executor: claim where the class needs it, call once, report."""
        receipt = Receipt(
            dispatch.dispatch_id, dispatch.intent_id, dispatch.agent_id, dispatch.session_id, "claimed",
            dispatch.attempt, EXECUTOR, self.now, 0,
        )  # fmt: skip
        if dispatch.tool_class != "read_only":
            self.take("receipts", receipt)
        function = self.tools.get(dispatch.tool)
        if function is None:
            said = f"no function stands for `{dispatch.tool}`: pass tools={{'{dispatch.tool}': function}}"
            end = replace(receipt, kind="failed", error_class="unreachable", error=said, sent=False)
        else:
            end = await _called(function, dispatch, receipt)
        self.take("receipts", replace(end, finished_at=self.now))

    def _wake(self) -> None:
        """Have the next deadline acted on when the machine's clock reaches it; a fake clock is moved by hand."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.ledger.due_at()
        if due is None or self.clock is not now_us or not self._inboxes:
            return
        self._timer = asyncio.get_running_loop().call_later(max(0.0, (due - self.now) / 1e6), self.tick)


async def _called(function: LocalFunction, dispatch: Dispatch, receipt: Receipt) -> Receipt:
    try:
        async with asyncio.timeout(dispatch.timeout_ms / 1_000):
            value = await function(cast("dict[str, Json]", orjson.loads(dispatch.arguments)))
        result = client_json.dumps(value)
    except TimeoutError:
        return replace(receipt, kind="failed", error_class="timeout", error="the function took too long")
    except ValueError as error:
        return replace(receipt, kind="failed", error_class="malformed_result", error=str(error)[:300])
    except Exception as error:  # a tool's own failure is an outcome
        log.info("the function of `%s` raised", dispatch.tool, exc_info=True)
        said = f"{type(error).__name__}: {error}"[:300].encode("utf-8", "replace").decode()
        return replace(receipt, kind="failed", error_class="crashed", error=said)
    if len(result) > MAX_RESULT_BYTES:
        said = f"the result has {len(result)} bytes"
        return replace(receipt, kind="failed", error_class="result_too_large", error=said)
    return replace(receipt, kind="finished", result=result)


class LocalTransport(InProcess):
    """`Transport` of one client of a local gate."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._leave: Callable[[], None] | None = None

    async def start(self, deliver: Deliver) -> None:
        """Connect."""
        self._leave = self._board.connect(deliver)

    async def send(self, topic: str, value: bytes, headers: Headers) -> Callable[[], Awaitable[None]]:
        """Decide it, once whoever sends waits for the answer."""
        record = codec.decode(value)
        ahead = self._board.now - now_us()
        if isinstance(record, Intent):
            deadline = None if record.deadline_at is None else record.deadline_at + ahead
            record = replace(record, issued_at=record.issued_at + ahead, deadline_at=deadline)
        elif isinstance(record, Message):
            record = replace(record, issued_at=record.issued_at + ahead)
        elif not isinstance(record, Receipt):
            raise Terminal(f"a local gate takes no `{type(record).__name__}`")
        asyncio.get_running_loop().call_soon(self._board.take, topic, record)
        return _taken

    async def replay(self, deliver: Callable[[bytes | None, bytes], bool], intent_id: str) -> None:
        """Every reply so far, oldest first, until `deliver` answers True."""
        for key, value in list(self._board.replies):
            if deliver(key, value):
                return

    async def listen(self, deliver: Deliver) -> None:
        """A function answers whole: there are no pieces, and a stream brings one message."""

    async def stop(self) -> None:
        """Disconnect, once what this gate runs has ended."""
        if self._leave is not None:
            self._leave()
            self._leave = None
        await self._board.settle()


async def _taken() -> None:
    """It is decided already."""


def told(decisions: list[Decision], intent_id: str) -> Reply | None:
    """The last reply to an intent."""
    found = [r for d in decisions for r in d.replies if r.intent_id == intent_id]
    return found[-1] if found else None
