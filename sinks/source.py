"""A ledger partition as the sink reads it: the port, and its adapter on aiokafka.

Never decodes a record and never decides when to commit. Next: `archived.py` (what Kafka has let go), `clickhouse.py`, which
reads and commits.
"""

from __future__ import annotations

from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from sluicegate.sinks.rows import Record

FETCH_MAX = 2_000  # records decoded without letting other tasks run: 20 ms


class Source(Protocol):
    """One ledger partition of Kafka, and its place in the group's offsets."""

    topic: str
    """Without the environment's prefix."""
    partition: int

    async def fetch(self, timeout_s: float) -> list[Record]:
        """The next records, committed ones only; none after the time-out."""
        ...

    def seek(self, offset: int) -> None:
        """Read from there on."""
        ...

    async def metadata(self) -> str:
        """What is written down with the group's offset."""
        ...

    async def commit(self, offset: int, metadata: str) -> None:
        """Write it down; raises when this process is no longer the partition's owner."""
        ...

    def unread(self) -> int:
        """Records (and commit markers) not taken yet: those of the last fetch count until the next one begins."""
        ...


class KafkaSource:
    """`Source` on a consumer of a group that shares it with other partitions."""

    def __init__(
        self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient, group: str, place: TopicPartition
    ) -> None:
        self.topic, self.partition = place.topic.rpartition(".")[2], place.partition
        self._consumer, self._admin, self._group, self._place = consumer, admin, group, place
        self._next = self._fetched = 0

    async def fetch(self, timeout_s: float) -> list[Record]:
        self._next = self._fetched  # what the last fetch brought has been taken by now
        found = await self._consumer.getmany(
            self._place, timeout_ms=int(timeout_s * 1000), max_records=FETCH_MAX
        )
        topic, partition = self.topic, self.partition
        self._fetched = await self._consumer.position(self._place)  # it passes commit markers, too
        return [Record(topic, partition, r.offset, r.value) for r in found.get(self._place, ())]

    def seek(self, offset: int) -> None:
        self._consumer.seek(self._place, offset)
        self._next = self._fetched = offset

    async def begin(self) -> int:
        """The first offset that Kafka still has."""
        return int((await self._consumer.beginning_offsets([self._place]))[self._place])

    async def metadata(self) -> str:
        offsets = await self._admin.list_consumer_group_offsets(self._group, partitions=[self._place])
        return str(offsets[self._place].metadata) if self._place in offsets else ""

    async def commit(self, offset: int, metadata: str) -> None:
        await self._consumer.commit({self._place: (offset, metadata)})

    def unread(self) -> int:
        if self._place not in self._consumer.assignment():
            return 0
        end = self._consumer.last_stable_offset(self._place)
        return 1 if end is None else max(0, int(end) - self._next)  # None: nobody has looked yet
