"""The topic `releases` into the table of that name: the files of every release, so that a decision can be read in SQL
beside the policy and the prompt that made it.

The topic is read from its first record at each start, since a release's chunks may lie anywhere in it; what the table has by
digest is passed over unread. What does not give the digest it is named by is not copied. Bounded by what one release
may have. Next: `copier.py` (the loop), `processors/releases/assembly.py`, `streams/control/releases.py` (who writes the topic), `views.sql` (`release_names`).
"""

from __future__ import annotations

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from sluicegate.processors.releases.assembly import Assembly
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.records import ReleaseChunk
from sluicegate.sinks.copier import Row, TopicCopier
from sluicegate.sinks.tables import RELEASES
from sluicegate.streams.control.releases import unpack

log = logging.getLogger(__name__)


class ReleaseCopier(TopicCopier):
    """The copier of one process."""

    TOPIC, TABLE = "releases", RELEASES
    MAX_RECORDS = 16
    """8 MB of chunks, and of rows what they complete."""

    _assembly: Assembly
    _known: set[str]

    async def _start(self, consumer: AIOKafkaConsumer) -> int:
        self._assembly = Assembly()
        self._known = await asyncio.to_thread(self._stored)
        return 0

    def _stored(self) -> set[str]:
        rows = self._connect().query(f"SELECT DISTINCT digest FROM {self._table}").result_rows
        return {str(digest) for (digest,) in rows}

    def _rows_of(self, record: ConsumerRecord) -> list[Row]:
        digest = (record.key or b"").decode(errors="replace")
        if digest in self._known:
            return []
        try:
            chunk = codec.decode_as(ReleaseChunk, record.value)
            data = self._assembly.add(chunk)
            files = unpack(data, chunk.digest) if data is not None else {}
        except (Unreadable, Terminal) as error:
            log.warning("record %d of releases is passed over: %s", record.offset, error)
            return []
        if files:
            self._known.add(chunk.digest)
            self._assembly.forget(chunk.digest)
        return [(chunk.digest, path, body) for path, body in sorted(files.items())]
