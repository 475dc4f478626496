"""Recovery: a partition's state, folded from a snapshot and the ledger after it.

The ledger alone is the truth. A snapshot is a cache: it is used only if the ledger holds, at the offset it names,
a record with its header hash; otherwise the whole partition is folded. Every fold checks `seq` and the hash chain.
Never writes the ledger. Next: `ledger.py`, `processors/snapshot.py`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.processors import snapshot
from sluicegate.processors.folding import Folder
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.state import PartitionState
from sluicegate.processors.work import ENGINE
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import full_name
from sluicegate.streams.archive import archive
from sluicegate.streams.scan import scan_values

POLL_MS = 20
"""A poll that finds only transaction markers returns nothing, and waits this long for it."""


@dataclass(slots=True)
class Recovered:
    """A folded partition.

    Attributes:
        last_offset: Kafka offset of the last record, -1 for an empty ledger.
        folded: how many records were folded after the snapshot.
        from_snapshot: whether a snapshot was used.
    """

    state: PartitionState
    last_offset: int
    folded: int
    from_snapshot: bool


async def read_range(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int
) -> AsyncIterator[list[ConsumerRecord]]:
    """Committed records from `start` to the end as of now, in batches."""
    end = (await consumer.end_offsets([place]))[place]
    begin = (await consumer.beginning_offsets([place]))[place]
    old = await archive.below(consumer, place, start, begin)
    if old is not None:
        async for batch in archive.records(old.archive, place, start, old.begin):
            yield batch
        begin = old.begin
    consumer.assign([place])
    consumer.seek(place, max(start, begin))
    try:
        while await consumer.position(place) < end:
            batch = await consumer.getmany(place, timeout_ms=POLL_MS)
            records = [record for record in batch.get(place, []) if record.offset < end]
            if records:
                yield records
    finally:
        consumer.pause(place)  # unsubscribing would end aiokafka's fetch task in mid-flight


def fold_record(state: PartitionState, value: bytes) -> PartitionState:
    """Fold one ledger record. Raises `Terminal` when it does not continue the chain."""
    Folder(state).add(value)
    return state


async def recover(
    consumer: AIOKafkaConsumer, env: str, partition: int, *, use_snapshot: bool = True
) -> Recovered:
    """The state of a partition at its committed end. `consumer` belongs to the caller and reads nothing else."""
    place = TopicPartition(full_name(env, "outcomes"), partition)
    found = await load_snapshot(consumer, env, place) if use_snapshot else None
    state, start = found if found else (PartitionState(b"", partition), 0)
    last, folded = start - 1, 0
    folder = Folder(state)
    end = (await consumer.end_offsets([place]))[place]
    begin = (await consumer.beginning_offsets([place]))[place]
    start = start if await archive.below(consumer, place, start, begin) is not None else max(start, begin)
    async for batch in scan_values(consumer, place, start, end):
        for _, value in batch:
            folder.add(value)
        last, folded = batch[-1][0], folded + len(batch)
    return Recovered(state, last, folded, found is not None)


async def load_snapshot(
    consumer: AIOKafkaConsumer, env: str, place: TopicPartition
) -> tuple[PartitionState, int] | None:
    """(state, offset to go on at), or None when there is no usable snapshot."""
    chunks: dict[int, r.SnapshotChunk] = {}
    source = TopicPartition(full_name(env, "snapshots"), place.partition)
    try:
        async for batch in read_range(consumer, source, 0):
            for record in batch:
                chunk = codec.decode_as(r.SnapshotChunk, record.value)
                if chunk.index == 0:
                    chunks.clear()
                chunks[chunk.index] = chunk
        if not chunks or len(chunks) != chunks[0].count:
            return None
        first = chunks[0]
        data = zlib.decompress(b"".join(chunks[i].data for i in range(first.count)))
        if hashlib.sha256(data).digest() != first.state_sha256 or first.engine != ENGINE:
            return None
        if not await _ledger_agrees(consumer, place, first):
            return None
        return snapshot.decode(data), first.ledger_offset + 1
    except (SluicegateError, KeyError, zlib.error):
        return None  # a cache that cannot be read is no cache


async def _ledger_agrees(consumer: AIOKafkaConsumer, place: TopicPartition, chunk: r.SnapshotChunk) -> bool:
    record = await read_one(consumer, place, chunk.ledger_offset)
    if record is None:
        return False
    outcome = codec.decode_as(r.Outcome, record.value)
    return header_hash(outcome.header) == chunk.header_hash


async def read_one(consumer: AIOKafkaConsumer, place: TopicPartition, offset: int) -> ConsumerRecord | None:
    """The committed record at exactly this offset, or None."""
    found = await read_at(consumer, place, offset, 1)
    return found[0] if found else None


async def read_at(
    consumer: AIOKafkaConsumer, place: TopicPartition, offset: int, limit: int
) -> list[ConsumerRecord]:
    """The committed record at exactly this offset and up to `limit` - 1 of those that follow; empty without the first."""
    end = (await consumer.end_offsets([place]))[place]
    begin = (await consumer.beginning_offsets([place]))[place]
    if (old := await archive.below(consumer, place, offset, begin)) is not None:
        async for batch in archive.records(old.archive, place, offset, old.begin):
            return batch[:limit] if batch[0].offset == offset else []
    if not begin <= offset < end:
        return []
    consumer.assign([place])
    consumer.seek(place, offset)
    try:
        while await consumer.position(place) <= offset:
            batch = await consumer.getmany(place, timeout_ms=POLL_MS, max_records=limit)
            found: list[ConsumerRecord] = batch.get(place, [])
            if found:
                return found if found[0].offset == offset else []
        return []
    finally:
        consumer.pause(place)  # unsubscribing would end aiokafka's fetch task in mid-flight
