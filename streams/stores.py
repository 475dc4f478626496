"""The two places a ledger can be read from, as one: headers and facts of a partition in `seq` order.

    kafka        the topic `outcomes`, committed records only
    clickhouse   the table `events`, whose columns `header` and `facts` hold the very bytes

Both give what `apply` reads and no more. Every batch says where to go on. Reads only. Next: `rebuild/rebuild.py` (who folds).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from sluicegate.processors.state import HOUR_US
from sluicegate.processors.verify.reading import head, split_two
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.schemas.positions import varint
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.scan import scan, scan_values, stretches
from sluicegate.streams.settings import Settings

KAFKA, CLICKHOUSE = "kafka", "clickhouse"
FETCH_WAIT_MS = 20
FETCH_BYTES = 4 * 1024 * 1024
ROWS = 20_000
"""Of one query: some 10 MB, so that the next answer is on its way while this one is folded."""
EVERY_SEQ = 1 << 62

Event = tuple[bytes, bytes]
"""Header and facts."""


class Batch(NamedTuple):
    """Events in `seq` order; `cursor` is where the next batch begins, in this store's own count."""

    events: list[Event]
    cursor: int


class Store(Protocol):
    """Where a ledger is read from."""

    name: str

    async def open(self) -> None:
        """Connect. Raises `Retryable` when it does not answer."""

    async def close(self) -> None:
        """Let go."""

    async def count(self, partition: int) -> int:
        """About how many events it has, for a progress bar."""

    def events(self, partition: int, cursor: int = 0) -> AsyncIterator[Batch]:
        """All of a partition's events from a cursor on, up to the end as of now."""

    def between(self, partition: int, first: int, last: int) -> AsyncIterator[Batch]:
        """Those from seq `first` to `last`, both included."""


class KafkaStore:
    """The topic. A cursor is an offset."""

    name = KAFKA

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None

    async def open(self) -> None:
        """Connect."""
        self._consumer = await kafka.connect(
            kafka.consumer(self._settings, fetch_wait_ms=FETCH_WAIT_MS, fetch_bytes=FETCH_BYTES)
        )

    async def close(self) -> None:
        """Let go."""
        if self._consumer is not None:
            await self._consumer.stop()

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(full_name(self._settings.space, "outcomes"), partition)

    async def count(self, partition: int) -> int:
        """Offsets; commit markers count among them."""
        assert self._consumer is not None
        [stretch] = await stretches(self._consumer, [self._place(partition)])
        return stretch.end - stretch.begin

    async def events(self, partition: int, cursor: int = 0) -> AsyncIterator[Batch]:
        """From an offset on."""
        assert self._consumer is not None
        [stretch] = await stretches(self._consumer, [self._place(partition)])
        if stretch.begin > cursor:
            raise Terminal(
                f"`{stretch.place.topic}`/{partition} begins at {stretch.begin}, its genesis is gone from kafka, "
                "rebuild from clickhouse"
            )
        async for records in scan_values(self._consumer, stretch.place, cursor, stretch.end):
            yield Batch([split_two(value) for _, value in records], records[-1][0] + 1)

    async def between(self, partition: int, first: int, last: int) -> AsyncIterator[Batch]:
        """Found by halving: a later offset has a later seq."""
        assert self._consumer is not None
        [stretch] = await stretches(self._consumer, [self._place(partition)])
        low, high = stretch.begin, stretch.end
        while high - low > ROWS:
            middle = (low + high) // 2
            found = await self._seq_at(stretch.place, middle, high)
            low, high = (middle, high) if found is not None and found <= first else (low, middle)
        async for records in scan_values(self._consumer, stretch.place, low, stretch.end):
            events = [split_two(value) for _, value in records]
            yield Batch([e for e in events if first <= head(e[0]).seq <= last], records[-1][0] + 1)
            if head(events[-1][0]).seq >= last:
                return

    async def _seq_at(self, place: TopicPartition, offset: int, end: int) -> int | None:
        assert self._consumer is not None
        async for records in scan(self._consumer, place, offset, end):
            return head(split_two(records[0].value or b"")[0]).seq
        return None


_COLUMNS = "seq, header, facts"
_EVENTS = """
SELECT {columns} FROM `{database}`.events
WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND src_partition = {partition}
    AND seq >= {first} AND seq <= {last} ORDER BY seq FORMAT RowBinary
"""
_AGENT = """
SELECT seq, header, facts FROM `{database}`.events
PREWHERE agent_id = {{agent:String}}
WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND src_partition = {partition} AND seq <= {cut}
ORDER BY seq FORMAT RowBinary
"""
_HOURS = """
SELECT min(seq), toUnixTimestamp64Micro(min(decided_at)) FROM `{database}`.events
WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND src_partition = {partition} AND seq <= {cut}
GROUP BY intDiv(toUnixTimestamp64Micro(decided_at), {hour}) ORDER BY 1
"""
_CUT = """
SELECT toInt64(max(seq)), count() FROM `{database}`.events
WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND src_partition = {partition}
    AND toUnixTimestamp64Micro(decided_at) <= {until}
"""


class ClickHouseStore:
    """The table. A cursor is a `seq`."""

    name = CLICKHOUSE

    def __init__(self, settings: Settings, log_id: bytes) -> None:
        self._settings, self._log = settings, log_id.hex()
        self._client: Any = None
        self._database = ""

    async def open(self) -> None:
        """Connect."""
        from sluicegate.sinks.embedded import connect, database  # the sinks need chDB only when they are used

        self._client = await asyncio.to_thread(connect, self._settings)
        self._database = database(self._settings)

    async def close(self) -> None:
        """Let go."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    async def _ask(self, query: str, partition: int, parameters: dict[str, object] | None = None, **given: object) -> bytes:  # fmt: skip
        text = query.format(database=self._database, log=self._log, partition=partition, **given)
        try:
            answer: bytes = await asyncio.to_thread(self._client.raw_query, text, parameters=parameters)
        except (SluicegateError, ClickHouseError, OSError) as error:
            raise Retryable(f"clickhouse did not answer: {' '.join(str(error).split())[:200]}") from error
        return answer

    async def cut(self, partition: int, until: int) -> tuple[int, int]:
        """(the last seq decided up to then, -1 when none; how many events there are up to it)."""
        answer = (await self._ask(_CUT, partition, until=until)).split()
        return (int(answer[0]), int(answer[1])) if int(answer[1]) else (-1, 0)

    async def count(self, partition: int) -> int:
        """Rows."""
        return (await self.cut(partition, EVERY_SEQ))[1]

    async def events(self, partition: int, cursor: int = 0) -> AsyncIterator[Batch]:
        """From a seq on."""
        last, _ = await self.cut(partition, EVERY_SEQ)
        async for batch in self.between(partition, cursor, last):
            yield batch

    async def between(self, partition: int, first: int, last: int) -> AsyncIterator[Batch]:
        """In ranges; the next one is asked for while this one is folded."""
        waiting: asyncio.Task[bytes] | None = None
        try:
            for begin in range(first, last + 1, ROWS):
                answer = await (waiting or self._range(partition, begin, last))
                after = begin + ROWS
                waiting = asyncio.create_task(self._range(partition, after, last)) if after <= last else None
                await asyncio.sleep(0)  # the task begins now: who folds does not wait for anything
                yield Batch(_rows(answer), min(after, last + 1))
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    async def _range(self, partition: int, begin: int, last: int) -> bytes:
        end = min(last, begin + ROWS - 1)
        return await self._ask(_EVENTS, partition, columns=_COLUMNS, first=begin, last=end)

    async def of_agent(self, partition: int, agent_id: str, cut: int) -> list[Event]:
        """One agent's events up to a seq, with the genesis first."""
        first = _rows(await self._ask(_EVENTS, partition, columns=_COLUMNS, first=0, last=0))
        return first + _rows(await self._ask(_AGENT, partition, {"agent": agent_id}, cut=cut))

    async def hours(self, partition: int, cut: int) -> list[tuple[int, int]]:
        """(seq, `decided_at`) of the first event of every hour up to a seq."""
        answer = (await self._ask(_HOURS, partition, cut=cut, hour=HOUR_US)).decode().split()
        return [(int(seq), int(at)) for seq, at in zip(answer[::2], answer[1::2], strict=True)]


def _rows(data: bytes) -> list[Event]:
    """`seq, header, facts` in RowBinary. A row that stands twice, until its parts merge, is taken once."""
    events: list[Event] = []
    p, size, before = 0, len(data), b""
    while p < size:
        seq = data[p : p + 8]
        p += 8
        n = data[p]
        if n < 0x80:
            p += 1
        else:
            n, p = varint(data, p)
        header = data[p : p + n]
        p += n
        m = data[p]
        if m < 0x80:
            p += 1
        else:
            m, p = varint(data, p)
        if seq != before:
            events.append((header, data[p : p + m]))
            before = seq
        p += m
    return events


def make_store(name: str, settings: Settings, log_id: bytes) -> Store:
    """The store of this name."""
    return KafkaStore(settings) if name == KAFKA else ClickHouseStore(settings, log_id)
