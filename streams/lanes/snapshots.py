"""Snapshots: a partition's state in Kafka, so that a takeover folds the records after it and no others.

A cache of the ledger and nothing else: each names the ledger record it was taken at, and `lanes/recovery.py` uses it only
where the ledger holds exactly that. Written in a transaction of its own, by the partition's owner.
Next: `processors/snapshot.py` (the bytes), `lanes/recovery.py` (who reads).
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib

from aiokafka import AIOKafkaProducer
from sluicegate.processors.snapshot import encode_parts
from sluicegate.processors.state import PartitionState
from sluicegate.processors.work import ENGINE
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import full_name
from sluicegate.streams.transactions import COMMIT_LIMIT_S, Transaction, cloud_event

SNAPSHOT_EVENTS = 200_000
"""Ledger records between snapshots: folding so many takes about ten seconds, the longest a takeover waits."""
SNAPSHOT_CHUNK_BYTES = 768 * 1024
MAX_SNAPSHOT_CHUNKS = 1_000
"""768 MB compressed: far above a state at its bounds."""


async def store(producer: AIOKafkaProducer, space: str, state: PartitionState, ledger_offset: int) -> None:
    """Store the committed state, which must not change meanwhile. It holds up this partition only."""
    parts = []
    for part in encode_parts(state):
        parts.append(part)
        await asyncio.sleep(0)
    chunks = await asyncio.to_thread(snapshot_chunks, state, parts, ledger_offset)
    transaction = Transaction(producer)
    for chunk in chunks:
        key = f"{state.partition}/{chunk.index}".encode()
        headers = cloud_event(chunk.state_sha256[:16], b"/snapshots", b"ai.sluicegate.snapshot")
        transaction.add(
            full_name(space, "snapshots"),
            state.partition,
            key,
            codec.encode(chunk),
            state.now // 1000,
            headers,
        )
    if transaction.records:
        async with asyncio.timeout(COMMIT_LIMIT_S):
            await transaction.append()
            await transaction.commit()


def snapshot_chunks(state: PartitionState, parts: list[bytes], ledger_offset: int) -> list[r.SnapshotChunk]:
    """The records of a snapshot. `parts` are the canonical bytes of exactly this state."""
    total = hashlib.sha256()
    packer = zlib.compressobj(level=1)
    packed = bytearray()
    for part in parts:
        total.update(part)
        packed += packer.compress(part)
    packed += packer.flush()
    pieces = [
        bytes(packed[i : i + SNAPSHOT_CHUNK_BYTES]) for i in range(0, len(packed), SNAPSHOT_CHUNK_BYTES)
    ]
    if len(pieces) > MAX_SNAPSHOT_CHUNKS:
        return []
    return [
        r.SnapshotChunk(
            state.log_id, state.partition, state.seq - 1, state.prev_hash, ledger_offset, ENGINE, i, len(pieces),
            total.digest(), piece,
        )
        for i, piece in enumerate(pieces)
    ]  # fmt: skip
