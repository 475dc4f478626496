"""The gateway's connection: one producer and one reader of every partition of `replies`, for any number of agents.

    agents' requests ▸ Asker ▸ Line ▸ Hub ▸ Kafka          replies ▸ Hub ▸ the Line and the listeners of their agent

INVARIANT: a reply is handed to those of its own agent only (tests/properties/test_gateway_lines.py).
Never decides, never keeps a reply. Next: `doors.py` (who asks), `events.py` (who listens).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.asking import Asker, Key
from sluicegate.streams.client_transport import (
    FETCH_WAIT_MS,
    POLL_MS,
    READ_RETRY_S,
    REPLAY_FETCH_WAIT_MS,
    Acknowledged,
    Deliver,
    Headers,
    KafkaTransport,
    away,
    stop_consumer,
)
from sluicegate.streams.settings import Settings

MAX_AGENTS = 10_000
"""Agents with an `Asker` at hand, about 5 kB each: 50 MB; one that nobody waits for leaves first."""

log = logging.getLogger("sluicegate.gateway")

Listener = Callable[[int, int, bytes], None]
"""(partition, offset, value) of a reply."""


@dataclass(slots=True)
class _Agent:
    """Who is told of an agent's replies."""

    deliver: Deliver | None = None
    pieces: Deliver | None = None
    listeners: list[Listener] = field(default_factory=list)


class Hub(KafkaTransport):
    """All replies, by agent. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "gateway")
        self._told: dict[bytes, _Agent] = {}
        self._askers: OrderedDict[str, Asker] = OrderedDict()
        self._places: list[TopicPartition] = []
        self.partitions = 0

    @property
    def stuck(self) -> bool:
        """Whether Kafka left something unanswered for long."""
        return self._stuck()

    async def open(self) -> None:
        """Connect. Raises `Retryable` or `Terminal`."""
        await self.start(lambda key, value: None)

    async def start(self, deliver: Deliver) -> None:
        """Read every partition from its end on."""
        producer = await self._connected()
        self.partitions = len(await producer.partitions_for(self._replies.topic))
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
                for place, records in batches.items():
                    for record in records:
                        self._tell(place.partition, record)
            except Exception as error:  # it must never end: every request waits for it
                log.warning("replies cannot be read, trying again: %r", error)
                await asyncio.sleep(READ_RETRY_S)

    def _tell(self, partition: int, record: ConsumerRecord) -> None:
        agent = self._told.get(record.key)
        if agent is None:
            return
        value = record.value or b""
        if agent.deliver is not None:
            agent.deliver(record.key, value)
        for listener in list(agent.listeners):
            listener(partition, record.offset, value)

    # -- by agent -----------------------------------------------------------------------------------------------

    async def asker(self, agent_id: str, agent_key: Key | None, channel_key: Key | None) -> Asker:
        """Who asks for this agent."""
        found = self._askers.get(agent_id)
        if found is None:
            line = Line(self, agent_id)
            found = Asker(agent_id, self._settings.env, line, agent_key, channel_key, {})
            await line.start(found.inbox.deliver)
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

    def hear(self, agent_id: str, deliver: Deliver) -> None:
        """From now on this agent's replies go to `deliver`."""
        self._told.setdefault(agent_id.encode(), _Agent()).deliver = deliver

    def leave(self, agent_id: str) -> None:
        """Nobody asks for this agent any more."""
        agent = self._told.get(agent_id.encode())
        if agent is not None:
            agent.deliver = agent.pieces = None
            if not agent.listeners:
                del self._told[agent_id.encode()]

    def watch(self, agent_id: str, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every reply to this agent, until the answer is called."""
        key = agent_id.encode()
        self._told.setdefault(key, _Agent()).listeners.append(listener)

        def stop() -> None:
            agent = self._told[key]
            agent.listeners.remove(listener)
            if agent.deliver is None and not agent.listeners:
                del self._told[key]

        return stop

    async def hear_pieces(self, agent_id: str, deliver: Deliver) -> None:
        """From now on this agent's pieces go to `deliver`, too. Raises as `Transport.listen`."""
        self._told.setdefault(agent_id.encode(), _Agent()).pieces = deliver
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

    async def kept(self, agent_id: str, after: int = -1) -> AsyncGenerator[tuple[int, bytes], None]:
        """(offset, value) of this agent's replies that are kept, those after `after`, oldest first.

        Raises `Retryable` when Kafka is away.
        """
        place, key = self.place_of(agent_id), agent_id.encode()
        consumer = await self._reader(REPLAY_FETCH_WAIT_MS)
        try:
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            first = (await consumer.beginning_offsets([place]))[place]
            consumer.seek(place, max(first, after + 1))
            while await consumer.position(place) < end:
                batch = await consumer.getmany(place, timeout_ms=POLL_MS)
                for record in batch.get(place, ()):
                    if record.key == key:
                        yield record.offset, record.value or b""
        except KafkaError as error:
            raise away(error) from error
        finally:
            await stop_consumer(consumer)


class Line:
    """One agent's `Transport` on the hub."""

    def __init__(self, hub: Hub, agent_id: str) -> None:
        self._hub, self._agent_id = hub, agent_id

    async def start(self, deliver: Deliver) -> None:
        """Hear this agent's replies."""
        self._hub.hear(self._agent_id, deliver)

    async def send(self, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        """See `Transport`."""
        return await self._hub.send_for(self._agent_id, topic, value, headers)

    async def replay(self, deliver: Callable[[bytes | None, bytes], bool]) -> None:
        """See `Transport`."""
        key = self._agent_id.encode()
        async with aclosing(self._hub.kept(self._agent_id)) as kept:
            async for _, value in kept:
                if deliver(key, value):
                    return

    async def listen(self, deliver: Deliver) -> None:
        """Hear this agent's pieces."""
        await self._hub.hear_pieces(self._agent_id, deliver)

    async def stop(self) -> None:
        """Leave."""
        self._hub.leave(self._agent_id)
