"""How the agent SDK reaches the gate: the port it uses, and Kafka behind it.

One idempotent producer, one consumer that is assigned the agent's partition of `replies` and belongs to no group, and a second
one on `pieces` from the first streamed answer on.
Never decodes a record, and never keeps trying behind the caller's back: a producer that Kafka did not answer for
`STUCK_S` is thrown away with all it holds, and the next send connects anew. Read next: `client.py`, `kafka.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka
from sluicegate.streams.repartition.generation import newest
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 500
"""How long the broker holds an empty fetch; a new record ends it at once."""
REPLAY_FETCH_WAIT_MS = 5
"""As above while reading old replies: an empty fetch, such as one before the first seek, must not hold it up."""
POLL_MS = 1_000
STUCK_S = 5.0
"""A record unacknowledged for this long means that Kafka is away."""
STOP_LIMIT_S = 1.0
"""For closing one Kafka client, which may wait for a broker that is not there."""
SENDER_CANCELS = 4
READ_RETRY_S = 0.5

_NOT_TAKEN = (ClusterAuthorizationFailedError, MessageSizeTooLargeError, TopicAuthorizationFailedError)
"""Answers that prove that the record is not in the log."""

Deliver = Callable[[bytes | None, bytes], None]
Acknowledged = Callable[[], Awaitable[None]]
Headers = list[tuple[str, bytes]]

log = logging.getLogger("sluicegate.client")


class InProcess:
    """Marks a transport whose gate is in this process: no command and no other process knows what it holds."""


class Transport(Protocol):
    """What the client needs of a message bus. Every method may be cancelled at any time."""

    async def start(self, deliver: Deliver) -> None:
        """Connect, and hand every new record of the agent's `replies` partition to `deliver` as (key, value).

        When it returns, no reply to anything sent later can be missed. Raises `Retryable` or `Terminal`.
        """

    async def send(self, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        """Hand a record over. While this has not returned, nothing was sent: `Retryable` or `Terminal` is proof.

        The answer is called to wait for the bus: it raises `Terminal` when the bus refused the record and
        `Retryable` when nobody knows whether it has it.
        """

    async def replay(self, deliver: Callable[[bytes | None, bytes], bool], intent_id: str) -> None:
        """Hand over the replies kept so far, oldest first, until `deliver` answers True: all, or those about `intent_id`.

        Raises `Retryable`.
        """

    async def listen(self, deliver: Deliver) -> None:
        """Hand every new record of the agent's `pieces` partition to `deliver`, until `stop`. A second time does nothing.

        When it returns, no piece of anything sent later can be missed. Raises `Retryable` or `Terminal`.
        """

    async def stop(self) -> None:
        """Close everything within seconds. Never raises for a bus that is away."""


class KafkaTransport:
    """`Transport` on Kafka. Belongs to one event loop."""

    def __init__(self, settings: Settings, agent_id: str) -> None:
        self._settings = settings
        self._key = agent_id.encode()
        self._agent_id = agent_id
        self._replies = TopicPartition(full_name(settings.space, "replies"), -1)
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._pieces: AIOKafkaConsumer | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._connecting_pieces = asyncio.Lock()
        self._unacknowledged: dict[asyncio.Future[object], float] = {}

    async def start(self, deliver: Deliver) -> None:
        try:
            producer = await self._connected()
            await self._choose(producer)
            # Known now, so that the first call need not ask.
            await producer.partitions_for(full_name(self._settings.space, "intents"))
            partitions = len(await producer.partitions_for(self._replies.topic))
            self._replies = self._replies._replace(partition=partition_of(self._agent_id, partitions))
            self._consumer = await self._reader(FETCH_WAIT_MS)
            end = await self._consumer.end_offsets([self._replies])
            # Seek, not `seek_to_end`: that one is lazy, and a reply could slip by before it resolves.
            self._consumer.seek(self._replies, end[self._replies])
        except KafkaError as error:
            raise away(error) from error
        self._reading = asyncio.create_task(
            self._read(self._consumer, deliver, self._replies), name="sluicegate-replies"
        )

    async def send(self, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        return await self.send_keyed(topic, value, headers, self._key, self._replies.partition)

    async def send_keyed(
        self, topic: str, value: bytes, headers: Headers, key: bytes, partition: int
    ) -> Acknowledged:
        """`send`, for the agent that `key` names."""
        try:
            producer = await self._connected()
            future: asyncio.Future[object] = await producer.send(
                full_name(self._settings.space, topic),
                value,
                key=key,
                partition=partition,
                headers=headers,
            )
        except _NOT_TAKEN as error:
            raise Terminal(f"kafka refuses the record: {error}: ask for an ACL that allows it") from error
        except KafkaError as error:
            raise away(error) from error
        self._unacknowledged[future] = asyncio.get_running_loop().time()
        future.add_done_callback(self._acknowledged)
        return partial(self._acknowledgement, future)

    async def replay(self, deliver: Callable[[bytes | None, bytes], bool], intent_id: str) -> None:
        consumer: AIOKafkaConsumer | None = None
        place = self._replies
        try:
            consumer = await self._reader(REPLAY_FETCH_WAIT_MS)
            end = (await consumer.end_offsets([place]))[place]
            consumer.seek(place, (await consumer.beginning_offsets([place]))[place])
            while await consumer.position(place) < end:
                batch = await consumer.getmany(place, timeout_ms=POLL_MS)
                if any(deliver(record.key, record.value or b"") for record in batch.get(place, ())):
                    return
        except KafkaError as error:
            raise away(error) from error
        finally:
            await stop_consumer(consumer)

    async def listen(self, deliver: Deliver) -> None:
        async with self._connecting_pieces:
            if self._pieces is not None:
                return
            places = [p._replace(topic=full_name(self._settings.space, "pieces")) for p in self._heard()]
            consumer: AIOKafkaConsumer | None = None
            try:
                await kafka.known((await self._connected()).client, places[0].topic)
                consumer = await self._reader(FETCH_WAIT_MS, *places)
                for place, end in (await consumer.end_offsets(places)).items():
                    consumer.seek(place, end)
            except BaseException as error:
                await stop_consumer(consumer)
                if isinstance(error, TopicAuthorizationFailedError):
                    raise Terminal(
                        "kafka does not let this user read topic `pieces`: ask for an ACL"
                    ) from error
                if isinstance(error, KafkaError):
                    raise away(error) from error
                raise
            self._pieces = consumer
            self._hearing = asyncio.create_task(
                self._read(consumer, deliver, *places), name="sluicegate-pieces"
            )

    def _heard(self) -> list[TopicPartition]:
        """Where the replies are that this client reads."""
        return [self._replies]

    async def stop(self) -> None:
        for reading in (self._reading, self._hearing):
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])
        consumer, self._consumer = self._consumer, None
        pieces, self._pieces = self._pieces, None
        producer, self._producer = self._producer, None
        await asyncio.gather(stop_consumer(consumer), stop_consumer(pieces), _stop_producer(producer))

    # -- Kafka --------------------------------------------------------------------------------------------------

    async def _connected(self) -> AIOKafkaProducer:
        """The producer; a new one when Kafka did not answer the old one."""
        if self._producer is not None and not self._stuck():
            return self._producer
        async with self._connecting:
            if self._producer is not None and self._stuck():
                old, self._producer = self._producer, None
                self._unacknowledged.clear()
                await _stop_producer(old)
            if self._producer is None:
                self._producer = await kafka.connect(kafka.producer(self._settings))
            return self._producer

    async def _choose(self, producer: AIOKafkaProducer) -> None:
        """The generation that takes intents now, unless the settings name one: agents cannot read control."""
        if self._settings.generation is None and (now := await newest(producer.client, self._settings.env)):
            self._settings = replace(self._settings, generation=now)
            self._replies = self._replies._replace(topic=full_name(self._settings.space, "replies"))

    def _stuck(self) -> bool:
        now = asyncio.get_running_loop().time()
        return any(now - since > STUCK_S for since in self._unacknowledged.values())

    async def _reader(self, fetch_wait_ms: int, *places: TopicPartition) -> AIOKafkaConsumer:
        consumer = kafka.consumer(self._settings, from_offset="latest", fetch_wait_ms=fetch_wait_ms)
        await kafka.connect(consumer)
        consumer.assign(places or [self._replies])
        return consumer

    async def _read(self, consumer: AIOKafkaConsumer, deliver: Deliver, *places: TopicPartition) -> None:
        while True:
            try:
                for records in (await consumer.getmany(*places, timeout_ms=POLL_MS)).values():
                    for record in records:
                        deliver(record.key, record.value or b"")
            except Exception as error:  # it must never end: every call waits for it
                log.warning("`%s` cannot be read, trying again: %r", places[0].topic, error)
                await asyncio.sleep(READ_RETRY_S)

    def _acknowledged(self, future: asyncio.Future[object]) -> None:
        self._unacknowledged.pop(future, None)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.info("a record was not acknowledged: %s", error)  # perhaps nobody waits for it any more

    async def _acknowledgement(self, future: asyncio.Future[object]) -> None:
        try:
            await asyncio.shield(future)
        except KafkaError as error:
            if isinstance(error, _NOT_TAKEN):
                raise Terminal(f"kafka refused the record: {error}: ask for an ACL that allows it") from error
            raise Retryable(f"kafka did not confirm the record: {error}") from error


def away(error: KafkaError) -> Retryable:
    """What a client says of a Kafka that does not answer."""
    return Retryable(
        f"kafka does not answer: {error or type(error).__name__}: check that it is up and SLUICEGATE_KAFKA"
    )


async def stop_consumer(consumer: AIOKafkaConsumer | None) -> None:
    """Close a reader, its connections too, within seconds. Never raises for a broker that is away."""
    if consumer is not None and not await _bounded(consumer.stop()):
        # aiokafka cancels its own requests in flight, trips over them, and leaves its connections open.
        await _bounded(consumer._client.close())


async def _stop_producer(producer: AIOKafkaProducer | None) -> None:
    """Flush and close; without an answer from Kafka, throw away what it still holds."""
    if producer is None:
        return
    if await _bounded(producer.flush()):
        await _bounded(producer.stop())
        return
    # `stop` would wait for ever, and a time-out in it leaves a task behind. The futures of what is thrown away
    # stay pending; whoever waits for one has a time-out of its own.
    producer._closed = True
    await _bounded(producer.client.close())
    sender = producer._sender.sender_task
    for _ in range(SENDER_CANCELS):  # the first ends the loop, the next ones the requests it then waits for
        if sender is None or sender.done():
            break
        sender.cancel()
        await asyncio.wait([sender], timeout=STOP_LIMIT_S / SENDER_CANCELS)


async def _bounded(step: Coroutine[object, object, object]) -> bool:
    """Run a step of closing for at most `STOP_LIMIT_S`; True when it came to its end. Never raises what it raises."""
    task = asyncio.ensure_future(step)
    done, _ = await asyncio.wait([task], timeout=STOP_LIMIT_S)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=STOP_LIMIT_S)
        return False
    if task.cancelled():
        return False
    if (error := task.exception()) is not None:
        log.info("closing a kafka client: %s", error)
    return error is None
