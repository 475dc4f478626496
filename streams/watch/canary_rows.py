"""What a canary is judged on, from ClickHouse as it arrives or from the ledger itself.

    1. manifest   which ranges of each partition are there, without a hole
    2. ends       a partition that says nothing new: is there nothing, or is the copy behind? Kafka knows
    3. rows       the outcomes up to there, in each partition's order, and the moment before which nothing is missing

The view `sessions` is not asked: it counts what comes after a session's end too, and trails by seconds, and a verdict may
depend on neither (docs/decisions/0023). Never writes. Next: `watch/canary_watcher.py`, `processors/canary/progress.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.canary.scores import SCORED, SPENT, STATUSES, Row
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.scores import QUALITY
from sluicegate.schemas.topics import full_name
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams import kafka
from sluicegate.streams.scan import places, scan, since, stretches
from sluicegate.streams.settings import Settings

CHUNK_ROWS = 20_000
"""Rows of one partition in one look, about 20 ms of folding; a watcher that starts late catches up over several looks."""
BUSY_US = 3_000_000
"""A partition whose copy is younger than this needs no question to Kafka."""
READ_US = 15_000_000
"""A partition that holds everything up for so long is read, if it is not obvious that there is nothing."""
SKEW_US = 2_000_000
"""Clocks of workers differ by 1 s at most, and a batch is appended within another after it was decided."""
EARLIER_US = 60_000_000
"""Before the canary's first event by its clock: workers' clocks may be behind it."""
PEEK_MS = 100
_SPEND = codec.schema_of(r.SpendFacts).prefix

_MANIFEST = """
SELECT partition, first_seq, last_seq, last_offset, toUnixTimestamp64Micro(decided_until)
FROM `{database}`.ingest_batches WHERE log_id = unhex('{log}') AND topic = 'outcomes'
    AND decided_until >= fromUnixTimestamp64Micro({begin}) AND ({where})
ORDER BY partition, first_offset LIMIT 1 BY partition, first_offset
"""
_BEFORE = """
SELECT partition, max(last_seq), max(last_offset) FROM `{database}`.ingest_batches
WHERE log_id = unhex('{log}') AND topic = 'outcomes' AND decided_until < fromUnixTimestamp64Micro({begin}) GROUP BY partition
"""
_ROWS = """
SELECT toUnixTimestamp64Micro(decided_at), src_partition, seq, status, reason, policies, intent_id, agent_id, session_id,
    control_head, release, facts_type = 'spend_facts', if(status = 'scored', intDiv(ifNull(score, 0) + 50, 100), ifNull(money, 0))
FROM `{database}`.events WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND ({where})
    AND session_id != '' AND (status IN ({statuses}) OR facts_type = 'spend_facts') AND (status != 'scored' OR metric = '{quality}')
ORDER BY src_partition, seq LIMIT {limit} BY src_partition
"""


@dataclass(slots=True)
class _Copy:
    """One partition in ClickHouse: without a hole up to `seq`, which is at `offset`; nothing before `until` is missing."""

    seq: int = -1
    offset: int = -1
    until: int = 0
    read: int = -1
    hole: bool = False


@dataclass(slots=True)
class ClickHouseRows:
    """Rows since a moment, each once. Blocks: call it in a thread.

    Attributes:
        begin: microseconds; earlier rows are not read.
    """

    settings: Settings
    log_id: bytes
    partitions: int
    begin: int
    copies: dict[int, _Copy] = field(default_factory=dict)
    _client: Any = None

    def manifest(self) -> Mapping[int, _Copy]:
        """Step 1: what is there by now."""
        if not self.copies:
            copies = {p: _Copy() for p in range(self.partitions)}
            for partition, seq, offset in self._query(_BEFORE, begin=self.begin):
                copies[partition] = _Copy(seq, offset, 0, seq)
            self.copies = copies
        where = " OR ".join(f"(partition = {p} AND last_offset > {c.offset})" for p, c in self.copies.items())
        for copy in self.copies.values():
            copy.hole = False
        for partition, first, last, offset, until in self._query(_MANIFEST, begin=self.begin, where=where):
            copy = self.copies[partition]
            copy.hole = copy.hole or first > copy.seq + 1
            if not copy.hole:
                copy.seq, copy.offset, copy.until = max(last, copy.seq), offset, until
        return self.copies

    def rows(
        self, quiet: Iterable[int], asked_at: int, until: Mapping[int, int] | None = None
    ) -> tuple[list[Row], int]:
        """Step 3: new rows, and the moment before which none is missing. `until`: no row behind these."""
        ends = {
            p: min(c.seq, until.get(p, -1)) if until is not None else c.seq for p, c in self.copies.items()
        }
        wanted = {p: (c.read + 1, ends[p]) for p, c in self.copies.items() if ends[p] > c.read}
        found: list[Row] = []
        if wanted:
            where = " OR ".join(
                f"(src_partition = {p} AND seq BETWEEN {a} AND {b})" for p, (a, b) in wanted.items()
            )
            statuses = ", ".join(f"'{status}'" for status in STATUSES)
            found = [
                Row(at, p, seq, SPENT if spent else status, reason, tuple(policies), intent, agent, session, head, release, money)
                for at, p, seq, status, reason, policies, intent, agent, session, head, release, spent, money in self._query(
                    _ROWS, where=where, statuses=statuses, quality=QUALITY, limit=CHUNK_ROWS
                )
            ]  # fmt: skip
        complete = {p: asked_at - SKEW_US if p in quiet else c.until for p, c in self.copies.items()}
        full = {p: n for p, n in _count(found).items() if n >= CHUNK_ROWS}
        last = {row.partition: row for row in found}
        for p in wanted:
            if p in full:  # there is more: the next look goes on behind it
                self.copies[p].read, complete[p] = last[p].seq, last[p].at
            else:
                self.copies[p].read = wanted[p][1]
        return found, min(complete.values())

    def _query(self, sql: str, **filled: object) -> list[Any]:
        name = database(self.settings)
        if self._client is None:
            self._client = connect(self.settings, "reader", name)
        query = sql.format(database=name, log=self.log_id.hex(), **filled)
        return cast("list[Any]", self._client.query(query).result_rows)


class Ends:
    """Step 2: asks Kafka whether a partition has committed records behind an offset. Transaction markers are none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._nothing_until: dict[int, int] = {}

    async def quiet(self, copies: Mapping[int, _Copy], now: int) -> set[int]:
        """Partitions of which ClickHouse has everything that was committed when this was asked."""
        asked = {p: c.offset for p, c in copies.items() if now - c.until > BUSY_US and not c.hole}
        if not asked:
            return set()
        if self._consumer is None:
            self._consumer = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=PEEK_MS))
        consumer = self._consumer
        at = {p: TopicPartition(full_name(self._settings.space, "outcomes"), p) for p in asked}
        ends = await consumer.end_offsets(list(at.values()))
        found = set()
        for p, offset in asked.items():
            # The last record is followed by its transaction's marker; a further transaction has a record and a marker.
            if (
                ends[at[p]] <= offset + 2
                or self._nothing_until.get(p) == ends[at[p]]
                or (
                    now - copies[p].until > READ_US
                    and await self._nothing(consumer, at[p], offset + 1, ends[at[p]])
                )
            ):
                found.add(p)
        return found

    async def _nothing(self, consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int) -> bool:
        """Whether what is behind it was all aborted. It takes reading it, so only who waits for long is asked so."""
        async with aclosing(scan(consumer, place, start, end)) as batches:
            async for _ in batches:
                return False
        self._nothing_until[place.partition] = end
        return True

    async def close(self) -> None:
        """Stop the consumer."""
        if self._consumer is not None:
            await self._consumer.stop()


async def from_ledger(
    settings: Settings, partitions: int, begin: int, until: Mapping[int, int]
) -> AsyncIterator[list[Row]]:
    """The same rows from Kafka's ledger, up to these places, in batches; the ledger keeps them for ever."""
    consumer = await kafka.connect(kafka.consumer(settings))
    try:
        ledgers = await stretches(consumer, places(settings.space, "outcomes", range(partitions)))
        starts = await since(consumer, ledgers, begin // 1000)
        for stretch in ledgers:
            async for batch in scan(consumer, stretch.place, starts[stretch.place], stretch.end):
                rows = [row_of(stretch.place.partition, record.value) for record in batch]
                yield [row for row in rows if row is not None and row.seq <= until.get(row.partition, -1)]
    finally:
        await consumer.stop()


def row_of(partition: int, value: bytes) -> Row | None:
    """A ledger record as a row, if it is one that counts."""
    outcome = codec.decode_as(r.Outcome, value)
    h = codec.decode_as(r.Header, outcome.header)
    status, amount = h.status, 0
    if outcome.facts[: codec.PREFIX_BYTES] == _SPEND:
        status, amount = SPENT, max(0, codec.decode_as(r.SpendFacts, outcome.facts).money)
    elif status == SCORED:
        score = codec.decode_as(r.ScoreFacts, outcome.facts)
        if score.metric != QUALITY:
            return None
        amount = (score.value + 50) // 100
    if not h.session_id or status not in (*STATUSES, SPENT):
        return None
    return Row(
        h.decided_at, partition, h.seq, status, h.reason, tuple(h.policies), h.intent_id, h.agent_id, h.session_id,
        h.control_head, h.release, amount,
    )  # fmt: skip


async def look(rows: ClickHouseRows, ends: Ends) -> tuple[list[Row], int]:
    """The three steps, now."""
    copies = await asyncio.to_thread(rows.manifest)
    asked_at = time.time_ns() // 1000
    quiet = await ends.quiet(copies, asked_at)
    return await asyncio.to_thread(rows.rows, quiet, asked_at)


def _count(rows: Iterable[Row]) -> dict[int, int]:
    found: dict[int, int] = {}
    for row in rows:
        found[row.partition] = found.get(row.partition, 0) + 1
    return found
