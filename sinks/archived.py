"""A ledger partition as the sink reads it, the old part from the archive: what Kafka has let go of comes from there.

    seek(0) ▸ below Kafka's first record ▸ the archive's bundles, then Kafka
            ▸ else Kafka

So a ClickHouse that is filled anew after `archive trim` has all of the ledger. The archive is read with a consumer of its
own, since the group's is busy with other partitions. Where archive and Kafka do not meet it raises, which is waited for
and shown: never a silent gap. Next: `source.py` (the port), `streams/archive/archive.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.sinks.rows import Record
from sluicegate.sinks.source import KafkaSource
from sluicegate.streams import kafka
from sluicegate.streams.archive import archive
from sluicegate.streams.sdk.transport import stop_consumer

Reader = Callable[[], AIOKafkaConsumer]
"""A consumer of no group, not started."""


class ArchivedSource:
    """`Source` on Kafka and the archive below it."""

    def __init__(self, inner: KafkaSource, place: TopicPartition, reader: Reader) -> None:
        self.topic, self.partition = inner.topic, inner.partition
        self._inner, self._place, self._reader = inner, place, reader
        self._looked = True
        self._at = 0
        self._begin = 0
        self._old: AsyncIterator[list[ConsumerRecord]] | None = None

    def seek(self, offset: int) -> None:
        """Read from there on: from where, is found out by the next fetch."""
        self._at, self._looked, self._old, self._begin = offset, False, None, 0
        self._inner.seek(offset)

    async def fetch(self, timeout_s: float) -> list[Record]:
        """The next records: a bundle at a time as long as they are archived ones. Raises `Terminal` where what is between is gone."""
        if not self._looked:
            await self._look()
            self._looked = True
        if self._old is None:
            return await self._inner.fetch(timeout_s)
        try:
            batch = await anext(self._old, None)
        except Exception:  # its iterator has ended: without looking again what follows would be passed over
            self._looked, self._old = False, None
            raise
        if batch is None:  # the rest is in kafka
            self._old = None
            self._inner.seek(max(self._begin, self._at))
            return []
        self._at = batch[-1].offset + 1
        return [Record(self.topic, self.partition, one.offset, one.value or b"") for one in batch]

    async def _look(self) -> None:
        """Whether what comes next is in the archive only."""
        if self._at >= await self._inner.begin():
            return
        reader = await kafka.connect(self._reader())
        try:
            below = await archive.below(reader, self._place, self._at)
        finally:
            await stop_consumer(reader)
        if below is not None:
            self._begin = below.begin
            self._old = archive.records(below.archive, self._place, self._at, below.begin)

    async def metadata(self) -> str:
        """What is written down with the group's offset."""
        return await self._inner.metadata()

    async def commit(self, offset: int, metadata: str) -> None:
        """Write it down."""
        await self._inner.commit(offset, metadata)

    def unread(self) -> int:
        """Records not taken yet, those that are archived among them."""
        archived = max(0, self._begin - self._at) if self._old is not None else 0
        return self._inner.unread() + archived + (not self._looked)
