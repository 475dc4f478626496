"""Outgoing: what a decision sends beside its outcomes, into the same transaction.

Dispatches and dead letters stay in the partition; replies go where their agent reads, hand-offs to the partition of the
agent that receives, exchanges to the partition they name. Never sends anything before it is recorded. Next: `ledger.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicegate.processors.outcomes import Decision
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.transactions import Transaction, cloud_event

if TYPE_CHECKING:
    from sluicegate.streams.ledger_service import LedgerService


def add_outgoing(
    decision: Decision, transaction: Transaction, service: LedgerService, source: bytes, state: PartitionState
) -> None:
    """Add everything but the outcomes. `source` is the CloudEvents source of this ledger partition."""
    env, index, count, stamp = service.settings.env, state.partition, state.partitions, state.now // 1000
    for work in decision.dispatches:
        headers = cloud_event(work.dispatch_id, source, b"ai.sluicegate.dispatch", work.traceparent)
        value = service.sign_dispatch(codec.encode(work))
        transaction.add(f"{env}.dispatches", index, work.agent_id.encode(), value, stamp, headers)
    for reply in decision.replies:
        # A misrouted intent is answered where its agent reads.
        partition = partition_of(reply.agent_id, count)
        headers = cloud_event(reply.event_id, source, b"ai.sluicegate.reply")
        transaction.add(
            f"{env}.replies", partition, reply.agent_id.encode(), codec.encode(reply), stamp, headers
        )
    for transfer in decision.transfers:
        partition = partition_of(transfer.agent_id, count)
        headers = cloud_event(transfer.transfer_id, source, b"ai.sluicegate.transfer", transfer.traceparent)
        value = service.sign_transfer(codec.encode(transfer))
        transaction.add(f"{env}.transfers", partition, transfer.agent_id.encode(), value, stamp, headers)
    for exchange in decision.exchanges:
        headers = cloud_event(exchange.exchange_id, source, b"ai.sluicegate.exchange")
        value = service.sign_transfer(codec.encode(exchange))
        transaction.add(
            f"{env}.transfers", exchange.to_partition, exchange.home.encode(), value, stamp, headers
        )
    for letter in decision.dead_letters:
        key = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
        headers = cloud_event(letter.sha256[:16], source, b"ai.sluicegate.dead-letter")
        transaction.add(f"{env}.dead-letters", 0, key, codec.encode(letter), stamp, headers)
