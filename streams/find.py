"""Find the ledger records of an intent or a session: by ClickHouse's index where it answers, else by reading the
partition.

What is returned always comes from Kafka: ClickHouse only says where to look, and what its sink has not reached is read
here. Never writes. Next: `explain.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import topics
from sluicegate.streams.recovery import read_one
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings

_OFFSETS = """
SELECT DISTINCT src_partition, src_offset FROM `{{database}}`.events
WHERE src_topic = 'outcomes' AND {column} = {{{{name:String}}}} ORDER BY src_partition, src_offset
"""
_BY_INTENT, _BY_SESSION = _OFFSETS.format(column="intent_id"), _OFFSETS.format(column="session_id")
_UNTIL = "SELECT src_partition, toInt64(max(src_offset)) FROM `{database}`.events WHERE src_topic = 'outcomes' GROUP BY 1"
_OPENED = """
SELECT src_offset FROM `{database}`.events
WHERE src_topic = 'outcomes' AND src_partition = {{partition:UInt32}} AND event_id = unhex({{event:String}}) LIMIT 1
"""


MAX_EVENTS = 400
"""Of a session, read one by one where ClickHouse named them, a few milliseconds each: the middle of a longer one is
left out."""
FIRST_EVENTS = 20


@dataclass(slots=True)
class LedgerEvent:
    """One ledger record, decoded; `sealed` is its content as it stands there."""

    partition: int
    offset: int
    header: r.Header
    facts: object
    sealed: bytes | None


def decode(partition: int, offset: int, value: bytes) -> LedgerEvent:
    """A ledger record taken apart."""
    outcome = codec.decode_as(r.Outcome, value)
    header = codec.decode_as(r.Header, outcome.header)
    return LedgerEvent(partition, offset, header, codec.decode(outcome.facts), outcome.content)


def _ends(offsets: list[int]) -> list[int]:
    if len(offsets) <= MAX_EVENTS:
        return offsets
    return [*offsets[:FIRST_EVENTS], *offsets[FIRST_EVENTS - MAX_EVENTS :]]


class Finder:
    """Looks in one environment's ledger. `source` says afterwards where the places came from."""

    def __init__(self, settings: Settings, consumer: AIOKafkaConsumer) -> None:
        self._settings, self._consumer = settings, consumer
        self._client: Any = None
        self._database = ""
        self.source = "kafka"

    async def open(self) -> None:
        """Connect to ClickHouse if it is there."""
        from sluicegate.sinks.embedded import connect, database

        try:
            self._client = await asyncio.to_thread(connect, self._settings)
            self._database = database(self._settings)
        except (SluicegateError, OSError):
            self._client = None

    async def intent(self, intent_id: str, agent: str = "") -> list[LedgerEvent]:
        """Every record that names the intent, in ledger order, partition by partition."""
        found = await self._naming(_BY_INTENT, intent_id, agent)
        return [e for e in found if e.header.intent_id == intent_id and agent in ("", e.header.agent_id)]

    async def session(self, session_id: str, agent: str, *, whole: bool = False) -> list[LedgerEvent]:
        """The records of a session, in ledger order: without `whole` about `MAX_EVENTS` at most where ClickHouse names them."""
        found = await self._naming(_BY_SESSION, session_id, agent, cut=not whole)
        return [e for e in found if e.header.session_id == session_id and agent in ("", e.header.agent_id)]

    async def _naming(self, query: str, name: str, agent: str, *, cut: bool = False) -> list[LedgerEvent]:
        count = await topics.partitions_of(self._settings)
        wanted = [partition_of(agent, count)] if agent else list(range(count))
        known, until = await self._places(query, name)
        needle, found = name.encode(), []
        for stretch in await stretches(self._consumer, places(self._settings.space, "outcomes", wanted)):
            index = stretch.place.partition
            offsets = known.get(index, [])
            for offset in _ends(offsets) if cut else offsets:
                record = await read_one(self._consumer, stretch.place, offset)
                if record is not None:
                    found.append(decode(index, offset, record.value))
            start = max(stretch.begin, until.get(index, -1) + 1)
            async for batch in scan(self._consumer, stretch.place, start, stretch.end):
                found += [decode(index, b.offset, b.value) for b in batch if needle in b.value]
        return found

    async def event(self, partition: int, event_id: bytes, before: int) -> LedgerEvent | None:
        """The record of an event id, which stands before an offset."""
        place = TopicPartition(full_name(self._settings.space, "outcomes"), partition)
        rows = await self._query(_OPENED, {"partition": partition, "event": event_id.hex()})
        if rows:
            record = await read_one(self._consumer, place, int(rows[0][0]))
            return None if record is None else decode(partition, record.offset, record.value)
        [stretch] = await stretches(self._consumer, [place])
        async for batch in scan(self._consumer, place, stretch.begin, min(before, stretch.end)):
            for record in batch:
                if event_id in record.value:
                    event = decode(partition, record.offset, record.value)
                    if event.header.event_id == event_id:
                        return event
        return None

    async def _places(self, query: str, name: str) -> tuple[dict[int, list[int]], dict[int, int]]:
        """Offsets by partition that ClickHouse knows, and up to where it knows everything."""
        until = await self._query(_UNTIL, {})
        rows = await self._query(query, {"name": name}) if until else None
        if not until or rows is None:
            return {}, {}
        self.source = "clickhouse, kafka"
        known: dict[int, list[int]] = {}
        for partition, offset in rows:
            known.setdefault(int(partition), []).append(int(offset))
        return known, {int(p): int(o) for p, o in until}

    async def _query(self, query: str, parameters: dict[str, Any]) -> Any:
        """Rows, or None when ClickHouse does not answer: then Kafka is read."""
        if self._client is None:
            return None
        from clickhouse_connect.driver.exceptions import Error

        try:
            result = await asyncio.to_thread(
                self._client.query, query.format(database=self._database), parameters
            )
        except (Error, OSError):
            self._client = None
            return None
        return result.result_rows
