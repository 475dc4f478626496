"""A small topic into a table of its own, for analysts: one reader in each projector, without ranges and without a manifest.

What is written twice is replaced by the table, so any number of projectors may copy. Never verifies what it copies against
control. Next: `checkpoints.py`, `releases.py` (the two that do it), `clickhouse.py` (the ledger's own way).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.schemas.topics import full_name
from sluicegate.sinks import ddl
from sluicegate.sinks.clickhouse import Counters, retrying
from sluicegate.sinks.columns import Table
from sluicegate.sinks.embedded import database as database_of
from sluicegate.streams import kafka
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings

POLL_S = 1.0

Row = tuple[object, ...]


class Client(Protocol):
    """What is used of a clickhouse-connect client."""

    def insert(self, table: str, data: Sequence[Row], column_names: Sequence[str], database: str) -> Any:
        """Insert rows."""
        ...

    def query(self, query: str) -> Any:
        """Run a SELECT."""
        ...


class TopicCopier(ABC):
    """The copier of one process. A subclass says where to begin and what a record's rows are.

    Attributes:
        rows: that were inserted since it started.
    """

    TOPIC: ClassVar[str]
    TABLE: ClassVar[Table]
    MAX_RECORDS: ClassVar[int]
    """Of one insert."""

    def __init__(self, settings: Settings, connect: Callable[[], Client], counters: Counters) -> None:
        self._settings, self._connect, self._counters = settings, connect, counters
        self._database = ddl.check_database(database_of(settings))
        self._place = TopicPartition(full_name(settings.space, self.TOPIC), 0)
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
                rows = [row for record in batch for row in self._rows_of(record)]
                if rows:
                    await self._retrying(partial(asyncio.to_thread, self._insert, rows))
                    self.rows += len(rows)
        finally:
            await stop_consumer(consumer)

    @abstractmethod
    async def _start(self, consumer: AIOKafkaConsumer) -> int:
        """The offset to begin at."""

    @abstractmethod
    def _rows_of(self, record: ConsumerRecord) -> list[Row]:
        """What a record adds to the table."""

    @property
    def _table(self) -> str:
        return f"`{self._database}`.`{self.TABLE.name}`"

    async def _retrying(self, work: Callable[[], Any]) -> Any:
        return await retrying(work, self._counters, f"the {self.TOPIC}")

    async def _reader(self) -> AIOKafkaConsumer:
        return await kafka.connect(kafka.consumer(self._settings))

    async def _fetch(self, consumer: AIOKafkaConsumer) -> list[ConsumerRecord]:
        batch = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=self.MAX_RECORDS)
        return [record for records in batch.values() for record in records]

    def _insert(self, rows: list[Row]) -> None:
        self._connect().insert(self.TABLE.name, rows, column_names=self.TABLE.names, database=self._database)
