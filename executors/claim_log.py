"""One partition of `dispatches` as an executor sees it: read, claim, and be fenced.

A port (`ClaimLog`) and its Kafka side. Everything an executor commits goes through one transactional producer under
the fixed id `sluicegate.<env>.claims.<partition>`, the group's offsets too: so whoever lost the partition can neither
claim nor move the offset back under its successor. Each partition has a consumer of its own: in a shared one a fetch
that waits for other partitions would hold up the next dispatch of this one.
Never calls a tool, never decides what to claim. Next: `lane.py` (who uses it), `dispatcher.py` (membership).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Envelope, Receipt
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.failpoints import hit
from sluicegate.streams.scan import scan, stretches
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import Headers, Transaction, close_quietly

FETCH_WAIT_MS = 500
"""How long an empty fetch lasts. New dispatches end it at once, so it costs no latency."""
CLAIM_LIMIT_S = 5.0
"""For one claim; a lease is 5 s, so what takes longer is of no use any more."""
CLAIM_TRANSACTION_TIMEOUT_MS = 10_000
"""Above the limit of a claim; below, the receipts of this partition would wait a minute for a claim whose executor
died and has no successor (the broker looks every 10 s)."""
COMMITTED_LIMIT_S = 10.0
"""For asking where to go on: aiokafka asks for ever while the group has no coordinator. Then the lane begins again."""


CLAIMS_SINCE_MS = 60_000
"""How far back claims are looked for when the group's offset is gone: a lease (5 s), and clocks that differ (5 s), with room."""
READ_WAIT_MS = 20


def group_of(env: str) -> str:
    """The executors' consumer group."""
    return f"sluicegate.{env}.executor"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A record of `dispatches`. `appended_at`: microseconds, the ledger's clock."""

    offset: int
    appended_at: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """A `claimed` receipt, ready to send."""

    key: bytes
    value: bytes
    headers: Headers


class ClaimLog(Protocol):
    """One partition of `dispatches`, owned."""

    claimed_before: frozenset[bytes]
    """Dispatches that were claimed already, by id, though `open` could not tell by the offset; else empty."""

    async def open(self) -> int:
        """Fence every predecessor; only then find out where to read on. Returns that offset."""
        ...

    async def fetch(self, limit: int) -> list[Fetched]:
        """The next committed records, at most `limit`; empty after a while without any."""
        ...

    async def claim(self, claims: list[Claim], offset: int, token: str) -> None:
        """Append the claims and the group's next offset in one transaction; `token` is unique to it.

        Returns only when it is known to be committed; any exception leaves that unknown, and this log unusable.
        """
        ...

    async def last_token(self) -> str:
        """The token of the last committed transaction, whoever made it."""
        ...

    async def close(self) -> None:
        """Let go. What is open is aborted by the successor's `open`."""
        ...


class KafkaClaimLog:
    """`ClaimLog` on Kafka, from `open` to `close`, once."""

    def __init__(self, settings: Settings, index: int) -> None:
        self._settings = settings
        self._place = TopicPartition(full_name(settings.space, "dispatches"), index)
        self._receipts = full_name(settings.space, "receipts")
        self._group = group_of(settings.env)
        self._producer: AIOKafkaProducer | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self.claimed_before: frozenset[bytes] = frozenset()

    async def open(self) -> int:
        # INVARIANT: the producer starts before the offset is read: until then a predecessor may still commit a claim
        # beyond it, and that call would be made twice (tests/integration/test_executor.py::test_zombie).
        self._producer = await kafka.connect(
            kafka.producer(
                self._settings,
                transactional_id=f"sluicegate.{self._settings.env}.claims.{self._place.partition}",
                transaction_timeout_ms=CLAIM_TRANSACTION_TIMEOUT_MS,
            )
        )
        consumer = kafka.consumer(self._settings, group=self._group, fetch_wait_ms=FETCH_WAIT_MS)
        self._consumer = await kafka.connect(consumer)
        consumer.assign([self._place])
        async with asyncio.timeout(COMMITTED_LIMIT_S):
            offset = await consumer.committed(self._place)
        if offset is None:  # nobody ever claimed here, or somebody deleted the group
            self.claimed_before = await self._claimed_lately()
            offset = (await consumer.beginning_offsets([self._place]))[self._place]
        consumer.seek(self._place, offset)
        return int(offset)

    async def _claimed_lately(self) -> frozenset[bytes]:
        """What `receipts` has as claimed in the time in which a dispatch can still be claimed."""
        # INVARIANT: without the group's offset nothing is claimed a second time
        # (tests/integration/test_executor.py::test_group_deleted).
        place = TopicPartition(self._receipts, self._place.partition)
        found: set[bytes] = set()
        reader = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=READ_WAIT_MS))
        try:
            since = time.time_ns() // 1_000_000 - CLAIMS_SINCE_MS
            first = (await reader.offsets_for_times({place: since}))[place]
            [stretch] = await stretches(reader, [place])
            start = stretch.end if first is None else first.offset
            async for batch in scan(reader, place, start, stretch.end):
                for record in batch:
                    receipt = _receipt(record.value)
                    if receipt is not None and receipt.kind == "claimed":
                        found.add(receipt.dispatch_id)
        finally:
            await reader.stop()
        return frozenset(found)

    async def fetch(self, limit: int) -> list[Fetched]:
        assert self._consumer is not None
        found = await self._consumer.getmany(self._place, timeout_ms=FETCH_WAIT_MS, max_records=limit)
        return [Fetched(r.offset, r.timestamp * 1000, r.value or b"") for r in found.get(self._place, ())]

    async def claim(self, claims: list[Claim], offset: int, token: str) -> None:
        assert self._producer is not None
        transaction = Transaction(self._producer)
        for claim in claims:
            stamp = time.time_ns() // 1_000_000
            transaction.add(
                self._receipts, self._place.partition, claim.key, claim.value, stamp, claim.headers
            )
        async with asyncio.timeout(CLAIM_LIMIT_S):
            await transaction.append()
            await self._producer.send_offsets_to_transaction(
                {self._place: OffsetAndMetadata(offset, token)}, self._group
            )
            hit("claim.2.sent")
            await transaction.commit()

    async def last_token(self) -> str:
        # aiokafka's consumer leaves the metadata of an offset out; its admin client does not.
        admin = await kafka.connect(kafka.admin(self._settings))
        try:
            found = await admin.list_consumer_group_offsets(self._group, partitions=[self._place])
        finally:
            await admin.close()
        return str(found[self._place].metadata) if self._place in found else ""

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        # Bounded, and without an exception: after an outage a lane that cannot let go would never begin again.
        await stop_consumer(consumer)
        await close_quietly(self._producer)
        self._producer = None


def _receipt(value: bytes | None) -> Receipt | None:
    """The receipt in a record of `receipts`, signed or not; None when there is none."""
    try:
        record = codec.decode(value or b"")
        if isinstance(record, Envelope):
            record = codec.decode(record.payload)
    except Unreadable:
        return None
    return record if isinstance(record, Receipt) else None
