"""One Kafka transaction, done so that aiokafka cannot lose a record silently.

aiokafka 0.14 commits a transaction whose batch was refused unless each future is awaited, and retries EndTxn after
a time-out without telling anybody, so that a delayed EndTxn can decide a later transaction (KAFKA-17754). Here
every future is awaited, and any trouble while ending a transaction fails it: the caller then replaces the producer.
Never reuses a producer after an error. Next: `ledger.py`, `executors/dispatcher.py`.
"""

from __future__ import annotations

import asyncio
import logging

import aiokafka.producer.sender as _sender
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from sluicegate.streams.failpoints import hit_if

COMMIT_LIMIT_S = 20.0
"""For appending and committing one transaction; below the 60 s after which the broker aborts it."""

CLOSE_LIMIT_S = 5.0
"""For closing a producer that failed: it may wait for a broker that is not there."""

CLOUDEVENTS_VERSION = b"1.0"
CONTENT_TYPE = b"application/avro"

TRANSFERS = ".transfers"
"""How the name of that topic ends."""

Headers = list[tuple[str, bytes]]

log = logging.getLogger("sluicegate.transactions")


class _StrictEndTxnHandler(_sender.EndTxnHandler):  # type: ignore[misc]
    """EndTxn, once: an answer that does not come fails the transaction instead of being asked for again."""

    async def do(self, node_id: int) -> bool:
        request = self.create_request()
        try:
            response = await self._sender.client.send(node_id, request, group=self.group)
        except KafkaError as error:
            self._sender._txn_manager.error_transaction(error)
            return True
        backoff = self.handle_response(response)
        if backoff is not None:
            await asyncio.sleep(backoff)
            return False
        return True


_sender.EndTxnHandler = _StrictEndTxnHandler


def cloud_event(event_id: bytes, source: bytes, kind: bytes, traceparent: str = "") -> Headers:
    """CloudEvents 1.0 binary-mode headers (Kafka protocol binding) and W3C trace context."""
    headers: Headers = [
        ("ce_specversion", CLOUDEVENTS_VERSION),
        ("ce_id", event_id.hex().encode()),
        ("ce_source", source),
        ("ce_type", kind),
        ("content-type", CONTENT_TYPE),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return headers


class Transaction:
    """The records of one transaction, gathered into batches before it begins.

    Attributes:
        records: how many.
        decides_transfer: whether they come of a record of another partition.
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._open: dict[tuple[str, int], object] = {}
        self._full: list[tuple[str, int, object]] = []
        self._counts: dict[tuple[str, int], int] = {}
        self.records = 0
        self.decides_transfer = False

    def add(
        self, topic: str, partition: int, key: bytes | None, value: bytes, timestamp_ms: int, headers: Headers
    ) -> None:
        """Append a record; order within a partition is kept."""
        place = (topic, partition)
        builder = self._open.get(place)
        if builder is None:
            builder = self._open[place] = self._producer.create_batch()
        if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:  # type: ignore[attr-defined]
            self._full.append((topic, partition, builder))
            builder = self._open[place] = self._producer.create_batch()
            builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers)
        self._counts[place] = self._counts.get(place, 0) + 1
        self.records += 1

    def hit(self, sending: str, deciding: str) -> None:
        """Pass a failpoint of transactions that send a transfer, and one of those that decide one."""
        hit_if(sending, lambda: any(topic.endswith(TRANSFERS) for topic, _ in self._counts))
        hit_if(deciding, lambda: self.decides_transfer)

    async def append(self) -> dict[tuple[str, int], int]:
        """Begin, send everything, and wait until the broker has it. Returns the last offset by partition.

        One transaction's records in a partition of which this producer is the only transactional writer are
        contiguous: its marker comes after them.
        """
        await self._producer.begin_transaction()
        batches = [*self._full, *((t, p, b) for (t, p), b in self._open.items())]
        futures = [
            (topic, partition, await self._producer.send_batch(batch, topic, partition=partition))
            for topic, partition, batch in batches
        ]
        first: dict[tuple[str, int], int] = {}
        # INVARIANT: every future is awaited before the commit (tests/unit/test_transactions.py).
        for topic, partition, future in futures:
            metadata = await future
            first.setdefault((topic, partition), metadata.offset)
        return {place: offset + self._counts[place] - 1 for place, offset in first.items()}

    async def offsets(self, offsets: dict[TopicPartition, int], group: str) -> None:
        """Put a group's next offsets into the open transaction. Never `consumer.commit`: see decision 0002."""
        await self._producer.send_offsets_to_transaction(
            {place: OffsetAndMetadata(offset, "") for place, offset in offsets.items()}, group
        )

    async def commit(self) -> None:
        """End the transaction. Any error leaves the producer unusable."""
        await self._producer.commit_transaction()


async def close_quietly(producer: AIOKafkaProducer | None) -> None:
    """Close a producer that may be broken, within a limit. The next owner's start aborts what it left open."""
    if producer is None:
        return
    try:
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await producer.stop()
    except Exception as error:  # it is replaced, and fenced by the start of its successor
        log.info("a producer did not close well: %r", error)
