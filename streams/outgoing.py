"""What goes out beside the outcomes, in their transaction: dispatches, replies, transfers, dead letters, snapshots.

Never decides what goes out, and never sends anything: records are added to an open transaction.
Next: `ledger.py` (who calls this), `transactions.py`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

from sluicegate.processors.outcomes import Decision
from sluicegate.processors.snapshot import encode_parts
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.recovery import snapshot_chunks
from sluicegate.streams.transactions import Transaction, cloud_event


@dataclass(slots=True)
class LaneMetrics:
    """Counters of one partition, read by `/metrics` and tests."""

    inputs: int = 0
    outcomes: int = 0
    transactions: int = 0
    taints: int = 0
    dead_letters: int = 0
    machinery_failed: int = 0
    recovered_events: int = 0
    recovery_s: float = 0.0
    progress_at: float = field(default_factory=time.monotonic)


class Signer(Protocol):
    """Signs what the pipeline says, where the environment is signed."""

    def sign_dispatch(self, record: bytes) -> bytes:
        """The dispatch in its envelope, or as it is."""
        ...

    def sign_transfer(self, record: bytes) -> bytes:
        """The transfer in its envelope, or as it is."""
        ...


def add_beside(transaction: Transaction, decision: Decision, state: PartitionState, signer: Signer) -> None:
    """Add all that a decision sends besides its outcomes."""
    env, index, stamp = state.env, state.partition, state.now // 1000
    source = f"/{env}/outcomes/{index}".encode()
    for work in decision.dispatches:
        headers = cloud_event(work.dispatch_id, source, b"ai.sluicegate.dispatch", work.traceparent)
        value = signer.sign_dispatch(codec.encode(work))
        transaction.add(f"{env}.dispatches", index, work.agent_id.encode(), value, stamp, headers)
    for reply in decision.replies:
        # A misrouted intent is answered where its agent reads.
        partition = partition_of(reply.agent_id, state.partitions)
        headers = cloud_event(reply.event_id, source, b"ai.sluicegate.reply")
        transaction.add(
            f"{env}.replies", partition, reply.agent_id.encode(), codec.encode(reply), stamp, headers
        )
    for transfer in decision.transfers:
        partition = partition_of(transfer.agent_id, state.partitions)
        headers = cloud_event(transfer.transfer_id, source, b"ai.sluicegate.transfer", transfer.traceparent)
        value = signer.sign_transfer(codec.encode(transfer))
        transaction.add(f"{env}.transfers", partition, transfer.agent_id.encode(), value, stamp, headers)
    for letter in decision.dead_letters:
        key = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
        headers = cloud_event(letter.sha256[:16], source, b"ai.sluicegate.dead-letter")
        transaction.add(f"{env}.dead-letters", 0, key, codec.encode(letter), stamp, headers)


async def add_snapshot(transaction: Transaction, state: PartitionState, last_offset: int) -> None:
    """Add the committed state, in chunks. Nobody may change it meanwhile; other partitions go on."""
    parts = []
    for part in encode_parts(state):
        parts.append(part)
        await asyncio.sleep(0)
    for chunk in await asyncio.to_thread(snapshot_chunks, state, parts, last_offset):
        key = f"{state.partition}/{chunk.index}".encode()
        headers = cloud_event(chunk.state_sha256[:16], b"/snapshots", b"ai.sluicegate.snapshot")
        transaction.add(
            f"{state.env}.snapshots", state.partition, key, codec.encode(chunk), state.now // 1000, headers
        )
