"""Find the ledger records of an intent or a session: by ClickHouse's index where it answers, else by reading the
partition.

What is returned always comes from Kafka: ClickHouse only says where to look, and what its sink has not reached is read
here. Offsets of two generations are told apart by the log id. Never writes. Next: `inspect/explain.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import topics
from sluicegate.streams.lanes.recovery import read_one
from sluicegate.streams.repartition import generation
from sluicegate.streams.scan import Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings

_OFFSETS = """
SELECT DISTINCT lower(hex(log_id)), src_partition, src_offset FROM `{{database}}`.events
WHERE src_topic = 'outcomes' AND {column} = {{{{name:String}}}} ORDER BY 1, 2, 3
"""
_BY_INTENT, _BY_SESSION = _OFFSETS.format(column="intent_id"), _OFFSETS.format(column="session_id")
_UNTIL = (
    "SELECT lower(hex(log_id)), src_partition, toInt64(max(src_offset)) FROM `{database}`.events "
    "WHERE src_topic = 'outcomes' GROUP BY 1, 2"
)
_OPENED = """
SELECT lower(hex(log_id)), src_offset FROM `{database}`.events
WHERE src_topic = 'outcomes' AND src_partition = {{partition:UInt32}} AND event_id = unhex({{event:String}}) LIMIT 1
"""


MAX_EVENTS = 400
"""Of a session, read one by one where ClickHouse named them, a few milliseconds each: the middle of a longer one is
left out."""
FIRST_EVENTS = 20


@dataclass(slots=True)
class LedgerEvent:
    """One ledger record, decoded; `sealed` is its content as it stands there. `generation`: whose partition it is."""

    partition: int
    offset: int
    header: r.Header
    facts: object
    sealed: bytes | None
    generation: int = 0


Log = tuple[str, int]
"""Log id in hex, and partition."""


def decode(partition: int, offset: int, value: bytes, generation: int | None = 0) -> LedgerEvent:
    """A ledger record taken apart."""
    outcome = codec.decode_as(r.Outcome, value)
    header = codec.decode_as(r.Header, outcome.header)
    facts = codec.decode(outcome.facts)
    return LedgerEvent(partition, offset, header, facts, outcome.content, generation or 0)


def _ends(offsets: list[int]) -> list[int]:
    if len(offsets) <= MAX_EVENTS:
        return offsets
    return [*offsets[:FIRST_EVENTS], *offsets[FIRST_EVENTS - MAX_EVENTS :]]


class Finder:
    """Looks in one environment's ledger. `source` says afterwards where the places came from.

    `seams`: in every generation up to the one that the settings name, else in that one alone.
    """

    def __init__(self, settings: Settings, consumer: AIOKafkaConsumer, *, seams: bool = False) -> None:
        self._settings, self._consumer = settings, consumer
        self._where = generation.up_to(settings) if seams else [settings]
        self._logs: dict[TopicPartition, str] = {}
        self._only = ""
        """The log id, where ClickHouse knows one, and there never was a repartition as far as the settings know."""
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
        """Every record that names the intent, in ledger order, generation by generation and partition by partition."""
        found = await self._naming(_BY_INTENT, intent_id, agent)
        return [e for e in found if e.header.intent_id == intent_id and agent in ("", e.header.agent_id)]

    async def session(self, session_id: str, agent: str, *, whole: bool = False) -> list[LedgerEvent]:
        """The records of a session, in ledger order: without `whole` about `MAX_EVENTS` at most where ClickHouse names them."""
        found = await self._naming(_BY_SESSION, session_id, agent, cut=not whole)
        return [e for e in found if e.header.session_id == session_id and agent in ("", e.header.agent_id)]

    async def _naming(self, query: str, name: str, agent: str, *, cut: bool = False) -> list[LedgerEvent]:
        known, until = await self._places(query, name)
        needle, found = name.encode(), list[LedgerEvent]()
        for where in self._where:
            count = await topics.partitions_of(where)
            wanted = [partition_of(agent, count)] if agent else list(range(count))
            for stretch in await stretches(self._consumer, places(where.space, "outcomes", wanted)):
                index = stretch.place.partition
                log = (await self._log(stretch), index) if until else ("", index)
                offsets = known.get(log, [])
                for offset in _ends(offsets) if cut else offsets:
                    record = await read_one(self._consumer, stretch.place, offset)
                    if record is not None:
                        found.append(decode(index, offset, record.value, where.generation))
                start = max(stretch.begin, until.get(log, -1) + 1)
                async for batch in scan(self._consumer, stretch.place, start, stretch.end):
                    some = [b for b in batch if needle in b.value]
                    found += [decode(index, b.offset, b.value, where.generation) for b in some]
        return found

    async def _log(self, stretch: Stretch) -> str:
        """Which log a partition is of, by its first record: ClickHouse holds those of all generations."""
        if self._only:
            return self._only
        if stretch.place not in self._logs:
            # INVARIANT: no offset of another log is taken for one of this (tests/integration/test_rebuild.py).
            self._logs[stretch.place] = ""
            async with aclosing(scan(self._consumer, stretch.place, stretch.begin, stretch.end)) as batches:
                async for batch in batches:
                    self._logs[stretch.place] = decode(0, 0, batch[0].value).header.log_id.hex()
                    break
        return self._logs[stretch.place]

    async def event(self, after: LedgerEvent, event_id: bytes) -> LedgerEvent | None:
        """The record of an event id, which stands before another one of the same agent."""
        for where in reversed([one for one in self._where if (one.generation or 0) <= after.generation]):
            same = (where.generation or 0) == after.generation
            agent = after.header.agent_id
            index = after.partition if same else partition_of(agent, await topics.partitions_of(where))
            place = TopicPartition(full_name(where.space, "outcomes"), index)
            [stretch] = await stretches(self._consumer, [place])
            rows = await self._query(_OPENED, {"partition": index, "event": event_id.hex()})
            for log, offset in rows or []:
                if log == await self._log(stretch):
                    record = await read_one(self._consumer, place, int(offset))
                    if record is not None:
                        return decode(index, record.offset, record.value, where.generation)
            end = min(after.offset, stretch.end) if same else stretch.end
            async for batch in scan(self._consumer, place, stretch.begin, end):
                for record in batch:
                    if event_id in record.value:
                        event = decode(index, record.offset, record.value, where.generation)
                        if event.header.event_id == event_id:
                            return event
        return None

    async def _places(self, query: str, name: str) -> tuple[dict[Log, list[int]], dict[Log, int]]:
        """Offsets by log and partition that ClickHouse knows, and up to where it knows everything."""
        until = await self._query(_UNTIL, {})
        rows = await self._query(query, {"name": name}) if until else None
        if not until or rows is None:
            return {}, {}
        self.source = "clickhouse, kafka"
        logs = {log for log, _, _ in until}
        self._only = logs.pop() if len(logs) == 1 and not self._settings.generation else ""
        known: dict[Log, list[int]] = {}
        for log, partition, offset in rows:
            known.setdefault((log, int(partition)), []).append(int(offset))
        return known, {(log, int(p)): int(o) for log, p, o in until}

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
