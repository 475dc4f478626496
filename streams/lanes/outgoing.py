"""Outgoing: what a decision sends, as records of one transaction: its outcomes, and what goes out beside them.

Dispatches and dead letters stay in the partition; replies go where their agent reads, hand-offs to the partition of the
agent that receives, exchanges to the partition they name. Topic, key, CloudEvents headers and signature of every kind
stand here and nowhere else. Never sends anything before it is recorded. Next: `ledger.py`, `transactions.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.outcomes import Decision, Outcome
from sluicegate.processors.state import PartitionState
from sluicegate.schemas import codec
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams.transactions import Transaction, cloud_event

Sign = Callable[[bytes], bytes]


class Outgoing:
    """What the decisions of one partition send."""

    def __init__(self, space: str, partition: int, sign_dispatch: Sign, sign_transfer: Sign) -> None:
        self._partition = partition
        self._source = f"/{space}/outcomes/{partition}".encode()
        self._sign_dispatch, self._sign_transfer = sign_dispatch, sign_transfer
        self._outcomes, self._dispatches, self._replies, self._transfers, self._letters = (
            full_name(space, topic)
            for topic in ("outcomes", "dispatches", "replies", "transfers", "dead-letters")
        )

    def outcome(self, transaction: Transaction, outcome: Outcome, value: bytes) -> None:
        """One sealed outcome: the ledger's record."""
        o = outcome.origin
        transaction.add(
            self._outcomes, self._partition, o.agent_id.encode(), value, o.decided_at // 1000,
            cloud_event(outcome.event_id, self._source, b"ai.sluicegate.outcome"),
        )  # fmt: skip

    def beside(self, transaction: Transaction, decision: Decision, state: PartitionState) -> None:
        """Everything else of a decision, as of the state its outcomes led to."""
        stamp, source = state.now // 1000, self._source
        for work in decision.dispatches:
            headers = cloud_event(work.dispatch_id, source, b"ai.sluicegate.dispatch", work.traceparent)
            transaction.add(
                self._dispatches, self._partition, work.agent_id.encode(),
                self._sign_dispatch(codec.encode(work)), stamp, headers,
            )  # fmt: skip
        for reply in decision.replies:
            # A misrouted intent is answered where its agent reads.
            partition = partition_of(reply.agent_id, state.partitions)
            headers = cloud_event(reply.event_id, source, b"ai.sluicegate.reply")
            transaction.add(
                self._replies, partition, reply.agent_id.encode(), codec.encode(reply), stamp, headers
            )
        for transfer in decision.transfers:
            partition = partition_of(transfer.agent_id, state.partitions)
            headers = cloud_event(
                transfer.transfer_id, source, b"ai.sluicegate.transfer", transfer.traceparent
            )
            transaction.add(
                self._transfers, partition, transfer.agent_id.encode(),
                self._sign_transfer(codec.encode(transfer)), stamp, headers,
            )  # fmt: skip
        for exchange in decision.exchanges:
            headers = cloud_event(exchange.exchange_id, source, b"ai.sluicegate.exchange")
            transaction.add(
                self._transfers, exchange.to_partition, exchange.home.encode(),
                self._sign_transfer(codec.encode(exchange)), stamp, headers,
            )  # fmt: skip
        for letter in decision.dead_letters:
            key = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
            headers = cloud_event(letter.sha256[:16], source, b"ai.sluicegate.dead-letter")
            transaction.add(self._letters, 0, key, codec.encode(letter), stamp, headers)
