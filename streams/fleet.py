"""A fleet: many recorded sessions side by side, each step in order, as channels and agents would send them.

The demo and the benches publish with it, over one producer and one reader. It measures from publish to reply. It is
a load, not a client: an agent uses `client.py`. Next: `commands/demo.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from sluicegate.schemas import codec
from sluicegate.schemas.records import Intent, Message, Reply
from sluicegate.schemas.struct_reader import decode_as
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings

SESSIONS_AT_ONCE = 48
REPLY_LIMIT_S = 30.0
"""A step without a reply for this long is given up; the intent's own deadline is the same."""

TERMINAL = ("released", "withheld", "failed", "refused", "expired", "in_doubt", "resolved", "held")


@dataclass(slots=True)
class Step:
    """One recorded step: what the user said (`text`), or a tool call."""

    seq: int
    tool: str = ""
    arguments: dict[str, object] = field(default_factory=dict)
    text: str = ""


@dataclass(slots=True)
class Script:
    """One session's steps, for one agent."""

    session_id: str
    agent_id: str
    steps: list[Step]


@dataclass(slots=True)
class Result:
    """What came back for one tool call. `waited_s`: publish to reply."""

    reply: Reply | None
    tool: str
    waited_s: float


class Fleet:
    """Plays scripts against a running gate."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._env = settings.space
        self._settings = settings
        self._partitions = partitions
        self._producer: AIOKafkaProducer | None = None
        self._reader: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[tuple[str, str], asyncio.Future[Reply]] = {}
        self.results: list[Result] = []

    async def __aenter__(self) -> Fleet:
        self._producer = await kafka.connect(kafka.producer(self._settings))
        self._reader = await kafka.connect(kafka.consumer(self._settings))
        places = [TopicPartition(full_name(self._env, "replies"), p) for p in range(self._partitions)]
        self._reader.assign(places)
        await self._reader.seek_to_end(*places)
        for place in places:
            await self._reader.position(place)
        self._task = asyncio.create_task(self._read(), name="fleet-replies")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._reader is not None:
            await self._reader.stop()
        if self._producer is not None:
            await self._producer.stop()

    async def _read(self) -> None:
        assert self._reader is not None
        while True:
            for records in (await self._reader.getmany(timeout_ms=1_000)).values():
                for record in records:
                    reply = decode_as(Reply, record.value)
                    future = self._waiting.get((reply.agent_id, reply.intent_id))
                    if future is not None and not future.done():
                        future.set_result(reply)

    async def ask(
        self, topic: str, record: Intent | Message, ident: str, limit_s: float = REPLY_LIMIT_S
    ) -> Reply | None:
        """Publish, and wait for the reply."""
        assert self._producer is not None
        key = (record.agent_id, ident)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            await self._producer.send(
                full_name(self._env, topic), codec.encode(record), key=record.agent_id.encode()
            )
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._waiting[key]

    async def play(
        self,
        scripts: Iterable[Script],
        on_step: Callable[[int], None],
        at_once: int = SESSIONS_AT_ONCE,
        *,
        close: bool = False,
    ) -> None:
        """Play all scripts, `at_once` sessions at a time; `on_step(1)` after every step. `close` ends each, as the SDK does."""
        queue = iter(scripts)

        async def runner() -> None:
            for script in queue:  # one shared iterator: each script is played once
                await self._play_one(script, on_step)
                if close:
                    ident = f"{script.session_id}:close"
                    message = Message(ident, script.agent_id, script.session_id, "session.close", _now())
                    await self.ask("messages", message, ident)

        await asyncio.gather(*(runner() for _ in range(at_once)))

    async def _play_one(self, script: Script, on_step: Callable[[int], None]) -> None:
        agent, session = script.agent_id, script.session_id
        ident = f"{session}:open"
        await self.ask(
            "messages",
            Message(
                ident,
                agent,
                session,
                "session.open",
                _now(),
                goal="recorded session",
                on_behalf_of=f"user-of-{agent}",
            ),
            ident,
        )
        for step in script.steps:
            ident = f"{session}:{step.seq}"
            if step.text:
                await self.ask(
                    "messages",
                    Message(ident, agent, session, "session.user_said", _now(), text=step.text),
                    ident,
                )
            else:
                arguments = orjson.dumps(step.arguments, option=orjson.OPT_SORT_KEYS)
                started, now = time.perf_counter(), _now()
                intent = Intent(
                    ident,
                    agent,
                    session,
                    "tool_call",
                    step.tool,
                    arguments,
                    now,
                    now + int(REPLY_LIMIT_S * 1e6),
                )
                reply = await self.ask("intents", intent, ident)
                self.results.append(Result(reply, step.tool, time.perf_counter() - started))
            on_step(1)


def _now() -> int:
    return time.time_ns() // 1000
