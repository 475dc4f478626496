"""The topic `releases` into the table of that name: the files of every release, so that a decision can be read in SQL
beside the policy and the prompt that made it.

The topic is read from its first record at each start, since a release's chunks may lie anywhere in it; what the table has by
digest is passed over unread. What does not give the digest it is named by is not copied. Bounded by what one release
may have. Next: `copier.py` (the loop), `streams/control/releases.py` (who writes the topic), `views.sql` (`release_names`).
"""

from __future__ import annotations

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from sluicegate.processors.releases.file import MAX_PACKED_BYTES
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.records import ReleaseChunk
from sluicegate.sinks.copier import Row, TopicCopier
from sluicegate.sinks.tables import RELEASES
from sluicegate.streams.control.releases import unpack

log = logging.getLogger(__name__)

MAX_PARTS = MAX_PACKED_BYTES // 1024
"""Of one release: none is cut into smaller parts than 1 kB."""


class Assembly:
    """Releases of which parts are missing, the one that was begun last at the end: together no more than one may have."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], dict[int, bytes]] = {}
        self._bytes = 0

    def add(self, chunk: ReleaseChunk) -> bytes | None:
        """The whole bytes when this was the last part. Whoever published it twice may have cut it differently."""
        if not 0 <= chunk.index < chunk.count <= MAX_PARTS:
            return None
        key = chunk.digest, chunk.count
        parts = self._parts.setdefault(key, {})
        self._bytes += len(chunk.data) - len(parts.get(chunk.index, b""))
        parts[chunk.index] = chunk.data
        if len(parts) == chunk.count:
            self._forget(key)
            return b"".join(parts[i] for i in range(chunk.count))
        while self._bytes > MAX_PACKED_BYTES and len(self._parts) > 1:
            self._forget(next(iter(self._parts)))
        return None

    def _forget(self, key: tuple[str, int]) -> None:
        self._bytes -= sum(map(len, self._parts.pop(key).values()))


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
        return [(chunk.digest, path, body) for path, body in sorted(files.items())]
