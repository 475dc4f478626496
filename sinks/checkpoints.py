"""The topic `checkpoints` into the table of that name, for analysts and for who looks for a signed head by time.

A few rows a second at most, so no ranges and no manifest: it goes on behind the highest offset that the table has, and the table
replaces what is there twice. Never verifies: `sluicegate checkpoint verify` does. Next: `tables.py` (the columns).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.topics import full_name
from sluicegate.sinks import ddl
from sluicegate.sinks.clickhouse import Counters, retrying
from sluicegate.sinks.embedded import database as database_of
from sluicegate.sinks.tables import CHECKPOINTS
from sluicegate.streams import kafka
from sluicegate.streams.client_transport import stop_consumer
from sluicegate.streams.recovery import read_one
from sluicegate.streams.settings import Settings

POLL_S = 1.0
MAX_ROWS = 5_000
"""Of one insert, 5 MB."""

log = logging.getLogger(__name__)

Row = tuple[object, ...]


class Client(Protocol):
    """What is used of a clickhouse-connect client."""

    def insert(self, table: str, data: Sequence[Row], column_names: Sequence[str], database: str) -> Any:
        """Insert rows."""
        ...

    def query(self, query: str) -> Any:
        """Run a SELECT."""
        ...


def row(offset: int, value: bytes) -> Row | None:
    """A record's row; None for what is no checkpoint."""
    try:
        found = codec.decode_as(r.Checkpoint, value)
    except Unreadable:
        log.warning("record %d of checkpoints is none, it is passed over", offset)
        return None
    topic, partition = ("control", 0) if found.partition < 0 else ("outcomes", found.partition)
    return (
        found.log_id, topic, partition, found.size, found.root, found.kid,
        datetime.fromtimestamp(found.signed_at / 1e6, UTC), found.witnesses,
        found.note, offset,
    )  # fmt: skip


class CheckpointCopier:
    """The copier of one process."""

    def __init__(self, settings: Settings, connect: Callable[[], Client], counters: Counters) -> None:
        self._settings, self._connect, self._counters = settings, connect, counters
        self._database = ddl.check_database(database_of(settings))
        self._place = TopicPartition(full_name(settings.space, "checkpoints"), 0)
        self.rows = 0

    async def run(self) -> None:
        """Until cancelled. ClickHouse or Kafka being away is waited for."""
        consumer: AIOKafkaConsumer | None = None
        try:
            consumer = await self._retrying(self._reader)
            start = await self._retrying(partial(self._start, consumer))
            consumer.assign([self._place])
            consumer.seek(self._place, start)
            while True:
                batch = await self._retrying(partial(self._fetch, consumer))
                rows = [one for record in batch if (one := row(record.offset, record.value)) is not None]
                if rows:
                    await self._retrying(partial(asyncio.to_thread, self._insert, rows))
                    self.rows += len(rows)
        finally:
            await stop_consumer(consumer)

    async def _retrying(self, work: Callable[[], Any]) -> Any:
        return await retrying(work, self._counters, "the checkpoints")

    async def _reader(self) -> AIOKafkaConsumer:
        return await kafka.connect(kafka.consumer(self._settings))

    async def _fetch(self, consumer: AIOKafkaConsumer) -> list[ConsumerRecord]:
        batch = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=MAX_ROWS)
        return [record for records in batch.values() for record in records]

    async def _start(self, consumer: AIOKafkaConsumer) -> int:
        """Behind the last row, where that is still this topic's: a broker that was wiped begins anew."""
        last = await asyncio.to_thread(self._last)
        if last is None:
            return 0
        offset, log_id, size = last
        record = await read_one(consumer, self._place, offset)
        found = None if record is None else row(offset, record.value)
        return offset + 1 if found is not None and (found[0], found[3]) == (log_id, size) else 0

    def _last(self) -> tuple[int, bytes, int] | None:
        name = f"`{self._database}`.`{CHECKPOINTS.name}`"
        rows = (
            self._connect()
            .query(
                f"SELECT src_offset, lower(hex(log_id)), size FROM {name} ORDER BY signed_at DESC, src_offset DESC LIMIT 1"
            )
            .result_rows
        )
        if not rows:
            return None
        offset, log_id, size = rows[0]
        return int(offset), bytes.fromhex(log_id), int(size)

    def _insert(self, rows: list[Row]) -> None:
        self._connect().insert(
            CHECKPOINTS.name, rows, column_names=CHECKPOINTS.names, database=self._database
        )
