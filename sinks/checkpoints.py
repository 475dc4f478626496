"""The topic `checkpoints` into the table of that name, for analysts and for who looks for a signed head by time.

A few rows a second at most; it goes on behind the highest offset that the table has, and the table replaces what is there
twice. Never verifies: `sluicegate checkpoint verify` does. Next: `copier.py` (the loop), `tables.py` (the columns).
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.sinks.copier import Row, TopicCopier
from sluicegate.sinks.tables import CHECKPOINTS
from sluicegate.streams.lanes.recovery import read_one

log = logging.getLogger(__name__)


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


class CheckpointCopier(TopicCopier):
    """The copier of one process."""

    TOPIC, TABLE = "checkpoints", CHECKPOINTS
    MAX_RECORDS = 5_000
    """5 MB."""

    def _rows_of(self, record: ConsumerRecord) -> list[Row]:
        one = row(record.offset, record.value)
        return [] if one is None else [one]

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
        query = f"SELECT src_offset, lower(hex(log_id)), size FROM {self._table} ORDER BY signed_at DESC, src_offset DESC LIMIT 1"
        rows = self._connect().query(query).result_rows
        if not rows:
            return None
        offset, log_id, size = rows[0]
        return int(offset), bytes.fromhex(log_id), int(size)
