"""Committed records as offset and value alone, out of the batches that the broker sends: for who reads millions of them.

A consumer makes an object of eleven fields for each record, which costs more than reading the ledger's own bytes does, and asks
for more only when it is asked. Here a list of pairs is made, of answers to requests that are sent beside the consumer, on its
own connection. What is committed, which checksum holds and where to go on is as in aiokafka's consumer (tests/unit/test_batches.py).
Never assigns or seeks the consumer, never writes. Next: `scan.py`, `lanes/recovery.py`, `transparency/checkpointer.py` (who read).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    LeaderNotAvailableError,
    NotLeaderForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from sluicegate.schemas.errors import Retryable
from sluicegate.streams import kafka

FETCH_BYTES = 4 * 1024 * 1024
"""Of one partition in one answer: some 6,000 events of the ledger, so that an answer's own cost, about a millisecond, is nothing
beside theirs. A larger record comes alone."""
ANSWER_BYTES = 50 * 1024 * 1024
"""Of one answer in all, as aiokafka's own."""
RETRY_S = 0.1
_COMMITTED = 1
"""Isolation level of the protocol."""
_NOBODY = (None, -1)
_ELSEWHERE = (NotLeaderForPartitionError, UnknownTopicOrPartitionError, LeaderNotAvailableError)

Record = tuple[int, bytes]
"""Offset and value."""


class Answer(NamedTuple):
    """What a partition has from an offset on, and the offset after it: markers and what was aborted are passed over."""

    records: list[Record]
    next_offset: int


def committed(data: bytes, aborted: Iterable[tuple[int, int]] | None, start: int) -> Answer:
    """The committed records from `start` on. `aborted`: producers and where their aborted transactions begin, in the broker's
    words. Raises `CorruptRecordException`."""
    begins = sorted(aborted or (), key=lambda one: one[1], reverse=True)
    gone: set[int] = set()
    found: list[Record] = []
    after, batches = start, MemoryRecords(data)
    while (batch := batches.next_batch()) is not None:
        if not batch.validate_crc():
            raise CorruptRecordException("a batch has another checksum than it says")
        while begins and begins[-1][1] <= batch.base_offset:
            gone.add(begins.pop()[0])
        producer = batch.producer_id
        if batch.is_control_batch:
            if producer in gone and any(ControlRecord.parse(r.key or b"") == ABORT_MARKER for r in batch):
                gone.discard(producer)
        elif producer is None or producer not in gone or not batch.is_transactional:
            read = [(record.offset, record.value or b"") for record in batch]
            if batch.base_offset < start:
                read = [record for record in read if record[0] >= start]
            found += read
        after = max(after, batch.next_offset)
    return Answer(found, after)


async def fetch(
    consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int], wait_ms: int, least: int = 1
) -> dict[TopicPartition, Answer]:
    """What partitions have from these offsets on, one request for each broker; after `wait_ms` whatever there is, though it be
    less than `least` bytes.

    Nothing, too, where a broker is away or does not lead any more: ask again. Raises `Retryable` where an offset is not there
    any more, and aiokafka's errors for what does not pass by itself, such as rights.
    """
    client = kafka.client_of(consumer)
    asked: dict[int, dict[str, list[tuple[int, int, int]]]] = {}
    for place, offset in positions.items():
        leader = client.cluster.leader_for_partition(place)
        if leader in _NOBODY:  # or the consumer was assigned to another topic, and forgot this one
            client.add_topic(place.topic)
            await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(place)
        if leader in _NOBODY:
            await asyncio.sleep(RETRY_S)
            return {}
        asked.setdefault(leader, {}).setdefault(place.topic, []).append(
            (place.partition, offset, FETCH_BYTES)
        )
    requests = [
        client.send(node, FetchRequest(wait_ms, least, ANSWER_BYTES, _COMMITTED, list(topics.items())))
        for node, topics in asked.items()
    ]
    try:
        answers = await asyncio.gather(*requests)
    except KafkaError:  # the connection is made anew by the next one
        await asyncio.sleep(RETRY_S)
        return {}
    found: dict[TopicPartition, Answer] = {}
    for answer in answers:
        for topic, partitions in answer.topics:
            for partition, code, _, _, *more in partitions:
                place = TopicPartition(topic, partition)
                if code:
                    await _refused(consumer, place, positions[place], for_code(code))
                    continue
                *_, aborted, data = more if answer.API_VERSION < 11 else (*more[:-2], more[-1])
                found[place] = committed(data or b"", aborted, positions[place])
    return found


async def _refused(
    consumer: AIOKafkaConsumer, place: TopicPartition, offset: int, error: type[KafkaError]
) -> None:
    if error is OffsetOutOfRangeError:
        raise Retryable(f"`{place.topic}`/{place.partition} has no offset {offset} any more, try again")
    if not (error in _ELSEWHERE or error.retriable):
        raise error(f"`{place.topic}`/{place.partition}")
    await kafka.client_of(consumer).force_metadata_update()
    await asyncio.sleep(RETRY_S)
