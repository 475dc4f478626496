"""The gateway's connection: one producer and one reader of every partition of `replies`, for any number of agents.

    agents' requests ▸ Asker ▸ Line ▸ Hub ▸ Kafka          replies ▸ Hub ▸ the Line and the listeners of their agent

INVARIANT: a reply is handed to those of its own agent only, and of its own session (tests/properties/test_gateway_lines.py).
Never decides, never keeps a reply: `kept.py` knows where the newest ones are. Next: `doors.py` (who asks), `events.py` (who listens).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import ConsumerRecord, TopicPartition
from sluicegate.gateway.kept import MAX_KNOWN, MAX_SCANNED, Known, Page, Readers
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Reply
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams.lanes.content_store import keeper
from sluicegate.streams.sdk.asking import Asker, Key
from sluicegate.streams.sdk.in_process import Errands
from sluicegate.streams.sdk.replies import ENDS, PARKED, RESTS
from sluicegate.streams.sdk.transport import (
    FETCH_WAIT_MS,
    POLL_MS,
    READ_RETRY_S,
    REPLAY_FETCH_WAIT_MS,
    Acknowledged,
    Deliver,
    Headers,
    KafkaTransport,
)
from sluicegate.streams.settings import Settings

MAX_AGENTS = 10_000
"""Agents with an `Asker` at hand, about 5 kB each: 50 MB; one that nobody waits for leaves first. What they ask for is bounded for all
of them together: `MAX_ERRANDS` of `sdk/in_process.py`, about 450 bytes each, 4 MB."""

log = logging.getLogger("sluicegate.gateway")

Take = Callable[[Reply], None]
Listener = Callable[[int, Reply], None]
"""(offset, reply)."""
When = Callable[[str, str], Awaitable[int | None]]
"""(agent, intent) -> when its newest answer was decided, in microseconds; None where nobody knows."""
_TELLING = ENDS | RESTS | {PARKED}
"""Statuses that say how an intent stands."""


def read(value: bytes | None) -> Reply | None:
    """A reply, or None for one of a newer version."""
    try:
        return codec.decode_as(Reply, value or b"")
    except Unreadable:
        return None


def _tells(reply: Reply) -> bool:
    """Whether it says how its intent stands; a conflict is about another request that used the id."""
    return reply.status in _TELLING and reply.reason != "id_conflict"


async def _nobody(agent_id: str, intent_id: str) -> int | None:
    return None


@dataclass(slots=True)
class _Agent:
    """Who is told of an agent's replies."""

    heard: int
    """Which time this agent is listened to: what was noted before an absence may not be its newest any more."""
    take: Take | None = None
    pieces: Deliver | None = None
    listeners: dict[str, list[Listener]] = field(default_factory=dict)  # by session


class Hub(KafkaTransport):
    """All replies, by agent. Belongs to one event loop."""

    def __init__(self, settings: Settings, when: When = _nobody, known: int = MAX_KNOWN) -> None:
        super().__init__(settings, "gateway")
        self._keep = keeper(settings)
        self._known = Known(known)
        self._errands: Errands = OrderedDict()
        self._readers = Readers(lambda: self._reader(REPLAY_FETCH_WAIT_MS))
        self._when = when
        self._told: dict[bytes, _Agent] = {}
        self._times = 0
        self._askers: OrderedDict[str, Asker] = OrderedDict()
        self._places: list[TopicPartition] = []
        self.partitions = 0

    @property
    def stuck(self) -> bool:
        """Whether Kafka left something unanswered for long."""
        return self._stuck()

    def sizes(self) -> dict[str, int]:
        """How many entries each of its bounded structures holds now."""
        return {"known": len(self._known), "agents": len(self._askers), "errands": len(self._errands)}

    async def open(self) -> None:
        """Connect. Raises `Retryable` or `Terminal`."""
        await self.start(lambda key, value: None)

    async def start(self, deliver: Deliver) -> None:
        """Read every partition from its end on."""
        producer = await self._connected()
        await self._choose(producer)
        self.partitions = len(await producer.partitions_for(self._replies.topic))
        for topic in ("intents", "messages"):  # known now: else the first requests all ask for them at once
            await producer.partitions_for(full_name(self._settings.space, topic))
        places = [TopicPartition(self._replies.topic, p) for p in range(self.partitions)]
        consumer = self._consumer = await self._reader(FETCH_WAIT_MS)
        consumer.assign(places)
        for place, end in (await consumer.end_offsets(places)).items():
            consumer.seek(place, end)
        self._places = places
        self._reading = asyncio.create_task(self._read_all(places), name="gateway-replies")

    def _heard(self) -> list[TopicPartition]:
        return self._places

    async def _read_all(self, places: list[TopicPartition]) -> None:
        assert self._consumer is not None
        while True:
            try:
                batches = await self._consumer.getmany(*places, timeout_ms=POLL_MS)
                for records in batches.values():
                    for record in records:
                        self._tell(record)
            except Exception as error:  # it must never end: every request waits for it
                log.warning("replies cannot be read, trying again: %r", error)
                await asyncio.sleep(READ_RETRY_S)

    def _tell(self, record: ConsumerRecord) -> None:
        agent = self._told.get(record.key)
        if agent is None:
            return
        reply = read(record.value)
        if reply is None or reply.agent_id.encode() != record.key:
            return
        if _tells(reply):
            self._known.note((record.key, agent.heard, reply.intent_id), record.offset)
        if agent.take is not None:
            agent.take(reply)
        for listener in list(agent.listeners.get(reply.session_id, ())):
            listener(record.offset, reply)

    # -- by agent -----------------------------------------------------------------------------------------------

    async def asker(self, agent_id: str, agent_key: Key | None, channel_key: Key | None) -> Asker:
        """Who asks for this agent."""
        found = self._askers.get(agent_id)
        if found is None:
            line = Line(self, agent_id)
            found = Asker(
                agent_id, self._settings.env, line, agent_key, channel_key, {}, self._errands, 0, self._keep
            )
            self.hear(agent_id, found.inbox.take)
            self._askers[agent_id] = found
            self._make_room()
        # INVARIANT: a key that was rotated is not signed with any more (tests/unit/test_gateway_access.py).
        found.sign_with(agent_key, channel_key)
        self._askers.move_to_end(agent_id)
        return found

    def _make_room(self) -> None:
        for name in list(self._askers)[: max(0, len(self._askers) - MAX_AGENTS)]:
            if not len(self._askers[name].inbox):
                self.leave(name)
                del self._askers[name]

    def _agent(self, agent_id: str) -> _Agent:
        key = agent_id.encode()
        found = self._told.get(key)
        if found is None:
            self._times += 1
            found = self._told[key] = _Agent(self._times)
        return found

    def hear(self, agent_id: str, take: Take) -> None:
        """From now on this agent's replies go to `take`."""
        self._agent(agent_id).take = take

    def leave(self, agent_id: str) -> None:
        """Nobody asks for this agent any more."""
        agent = self._told.get(agent_id.encode())
        if agent is not None:
            agent.take = agent.pieces = None
            if not agent.listeners:
                del self._told[agent_id.encode()]

    def watch(self, agent_id: str, session_id: str, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every reply in this session of this agent, until the answer is called."""
        key = agent_id.encode()
        self._agent(agent_id).listeners.setdefault(session_id, []).append(listener)

        def stop() -> None:
            agent = self._told[key]
            agent.listeners[session_id].remove(listener)
            if not agent.listeners[session_id]:
                del agent.listeners[session_id]
            if agent.take is None and not agent.listeners:
                del self._told[key]

        return stop

    async def hear_pieces(self, agent_id: str, deliver: Deliver) -> None:
        """From now on this agent's pieces go to `deliver`, too. Raises as `Transport.listen`."""
        self._agent(agent_id).pieces = deliver
        await self.listen(self._tell_piece)

    def _tell_piece(self, key: bytes | None, value: bytes) -> None:
        agent = self._told.get(key or b"")
        if agent is not None and agent.pieces is not None:
            agent.pieces(key, value)

    def place_of(self, agent_id: str) -> TopicPartition:
        """Where an agent's replies are."""
        return TopicPartition(self._replies.topic, partition_of(agent_id, self.partitions))

    async def send_for(self, agent_id: str, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        """Hand a record of this agent over, as `Transport.send`."""
        return await self.send_keyed(
            topic, value, headers, agent_id.encode(), self.place_of(agent_id).partition
        )

    async def kept(self, agent_id: str, after: int) -> Page:
        """The next of this agent's replies that are kept, behind the offset `after`. Raises `Retryable` when Kafka is away."""
        return await self._readers.page(self.place_of(agent_id), agent_id.encode(), after + 1)

    async def behind(self, agent_id: str, after: int) -> int:
        """How many records of the partition came behind `after` beyond those that are looked through at once."""
        return await self._readers.start(self.place_of(agent_id), None) - after

    async def about(self, agent_id: str, intent_id: str) -> AsyncGenerator[bytes, None]:
        """What is kept about an intent, as far as it can be found cheaply. Raises `Retryable` when Kafka is away."""
        place, key = self.place_of(agent_id), agent_id.encode()
        name = (key, self._agent(agent_id).heard, intent_id)
        found = self._known.of(name)
        if found is not None:
            page = await self._readers.page(place, key, found)
            if page.records and page.records[0].offset == found:
                yield page.records[0].value
            return
        # INVARIANT: nobody's question reads all that is kept (tests/unit/test_gateway_kept.py).
        decided = await self._when(agent_id, intent_id)
        start = await self._readers.start(place, None if decided is None else decided // 1_000)
        needle, limit = intent_id.encode(), start + MAX_SCANNED
        while start < limit:
            page = await self._readers.page(place, key, start)
            for record in page.records:
                reply = read(record.value) if needle in (record.value or b"") else None
                if reply is not None and reply.intent_id == intent_id:
                    if _tells(reply):
                        self._known.note(name, record.offset)
                    yield record.value
            if page.done:
                return
            start = page.next

    async def stop(self) -> None:
        """Close everything."""
        await self._readers.stop()
        await super().stop()


class Line:
    """One agent's `Transport` on the hub."""

    def __init__(self, hub: Hub, agent_id: str) -> None:
        self._hub, self._agent_id = hub, agent_id

    async def start(self, deliver: Deliver) -> None:
        """The hub hears this agent's replies already."""

    async def send(self, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        """See `Transport`."""
        return await self._hub.send_for(self._agent_id, topic, value, headers)

    async def replay(self, deliver: Callable[[bytes | None, bytes], bool], intent_id: str) -> None:
        """See `Transport`."""
        key = self._agent_id.encode()
        async with aclosing(self._hub.about(self._agent_id, intent_id)) as kept:
            async for value in kept:
                if deliver(key, value):
                    return

    async def listen(self, deliver: Deliver) -> None:
        """Hear this agent's pieces."""
        await self._hub.hear_pieces(self._agent_id, deliver)

    async def stop(self) -> None:
        """Leave."""
        self._hub.leave(self._agent_id)
