"""A ClickHouse that remembers tokens and can die at any point, and a Kafka partition, both in memory.

They outlive the projections that use them, as the real ones do. `Killed` is no `Exception`: nothing may survive it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from clickhouse_connect.driver.ctypes import RespBuffCls
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform
from sluicegate.processors import lifecycle
from sluicegate.sinks import clickhouse, native, tables
from sluicegate.sinks.rows import Record
from sluicegate.sinks.writer import Sink

from tests.ledger_records import PlainOpener

LIMIT_S = 20.0
TYPES = {table.name: dict(zip(table.names, table.types, strict=True)) for table in tables.TABLES}


class Killed(BaseException):
    """SIGKILL, as seen from inside."""


class Down(Exception):
    """ClickHouse does not answer."""


class FakeClickHouse:
    """Rows by table, tokens, and a `fault(point)` that may raise: `before T`, `half T` (token known, rows not), `after T`."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.tokens: set[str] = set()
        self.fault: Callable[[str], None] = lambda point: None
        self.settings: list[dict[str, Any]] = []
        self.statements: list[str] = []

    def command(self, cmd: str, *, settings: dict[str, str]) -> None:
        """Minutes are computed by SQL, which is tested on a real one: here it is only written down."""
        self.fault("command")
        self.statements.append(cmd)

    def raw_insert(
        self,
        table: str,
        *,
        column_names: Sequence[str],
        insert_block: memoryview,
        settings: dict[str, str],
        fmt: str,
    ) -> None:
        assert fmt == "Native"
        table = table.split("`")[3]
        assert list(column_names) == list(TYPES[table])
        self.fault(f"before {table}")
        token = settings["insert_deduplication_token"]
        self.settings.append(settings)
        if token not in self.tokens:
            self.tokens.add(token)
            self.fault(f"half {table}")
            columns, kinds = read_block(bytes(insert_block)), TYPES[table]
            assert columns.keys() <= kinds.keys()
            zeros = {name: native.column(kind).zero for name, kind in kinds.items()}  # as ClickHouse fills in
            rows = [
                zeros | dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
            self.tables.setdefault(table, []).extend(rows)
        self.fault(f"after {table}")

    def query(self, query: str) -> Any:
        self.fault("query")
        table = re.search(r"FROM `\w+`\.`(\w+)`", query)[1]
        if "until_seq" in query or "toStartOfMinute" in query:
            return _Answer([(0, 0)])
        if "call_tool" in query:
            return _Answer(self.began(query))
        place = re.search(r"log_id = unhex\('(\w+)'\) AND (\w*?)topic = '(\w+)' AND \w+ = (\d+)", query)
        rows = [
            r
            for r in self.tables.get(table, [])
            if (r["log_id"].hex(), _text(r[place[2] + "topic"]), r[place[2] + "partition"])
            == (place[1], place[3], int(place[4]))
        ]
        if between := re.search(r"AND (\w+) BETWEEN (-?\d+) AND (-?\d+)", query):
            key, low, high = between[1], int(between[2]), int(between[3])
            return _Answer([(v,) for v in {r[key] for r in rows if low <= r[key] <= high}])
        if beyond := re.search(r"toInt64\(seq\) > (-?\d+)", query):
            found = [r["seq"] for r in rows if r["seq"] > int(beyond[1])]
            return _Answer([(max(found, default=0), len(found))])
        last = [max((r[name] for r in rows), default=0) for name in ("last_seq", "last_offset")]
        return _Answer([(*last, len(rows))])

    def began(self, query: str) -> list[tuple[Any, ...]]:
        """Calls before a seq, or the last tools of sessions."""
        below = int(re.search(r"BETWEEN -?\d+ AND (-?\d+)", query)[1])
        rows = sorted((r for r in self.tables.get("events", []) if r["seq"] <= below), key=lambda r: r["seq"])
        rows = [r for r in rows if _text(r["call_tool"])]
        if "session_id" in query:
            rows = [r for r in rows if _text(r["facts_type"]) == "intent_facts"]
            names = {(_text(r["agent_id"]), _text(r["session_id"])): _text(r["call_tool"]) for r in rows}
        else:
            names = {(_text(r["agent_id"]), _text(r["intent_id"])): _text(r["call_tool"]) for r in rows}
            for r in rows:
                if _text(r["status"]) in lifecycle.TERMINAL:
                    names.pop((_text(r["agent_id"]), _text(r["intent_id"])), None)
        return [(*key, tool) for key, tool in names.items()]

    def counted(self, table: str = "events") -> Counter[tuple[bytes, int, int]]:
        """How often each row is there."""
        return Counter((r["log_id"], r["src_partition"], r["seq"]) for r in self.tables.get(table, []))


def read_block(block: bytes) -> dict[str, Sequence[Any]]:
    """The columns of a Native block, as clickhouse-connect reads them: strings are bytes, times microseconds."""
    source = SimpleNamespace(gen=iter([block]), close=lambda: None)
    context = QueryContext(query_formats={"*String": "bytes", "DateTime64": "int"}, column_oriented=True)
    found = NativeTransform().parse_response(RespBuffCls(source), context)
    return dict(zip(found.column_names, found.result_columns, strict=True))


class _Answer:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.result_rows = rows


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class FakePartition:
    """One partition of Kafka: its records and what was committed; `owner` is the one whose commits are taken."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.committed = (0, "")
        self.owner: object = None
        self.fault: Callable[[str], None] = lambda point: None


class FakeSource:
    """A projection's view of a `FakePartition`."""

    topic, partition = "outcomes", 0

    def __init__(self, kafka: FakePartition, at_once: int = 100) -> None:
        self._kafka, self._at_once = kafka, at_once
        self._next = self._fetched = 0
        self.fetched = 0
        kafka.owner = self

    async def fetch(self, timeout_s: float) -> list[Record]:
        self._next = self._fetched
        records = [r for r in self._kafka.records if r.offset >= self._next][: self._at_once]
        if records:
            self._fetched = records[-1].offset + 1
            self.fetched += len(records)
        await asyncio.sleep(0 if records else 0.001)
        return records

    def seek(self, offset: int) -> None:
        self._next = self._fetched = offset

    async def metadata(self) -> str:
        return self._kafka.committed[1]

    async def commit(self, offset: int, metadata: str) -> None:
        name = "freeze" if metadata else "done"
        self._kafka.fault(f"before {name}")
        if self._kafka.owner is not self:
            raise Down("the group has another generation")
        self._kafka.committed = (offset, metadata)
        self._kafka.fault(f"after {name}")

    def unread(self) -> int:
        return sum(r.offset >= self._next for r in self._kafka.records)


class Run:
    """One life of a projection."""

    def __init__(self, kafka: FakePartition, server: FakeClickHouse, at_once: int = 100) -> None:
        self.counters = clickhouse.Counters()
        self.source = FakeSource(kafka, at_once)
        self.opener = PlainOpener()
        self._sink = Sink(lambda: server, "test", self.opener)
        self.projection: Any = None

    async def until(self, done: Callable[[], bool]) -> None:
        """Run until `done`, or until it is killed, which raises `Killed`."""
        self.projection = clickhouse.Projection(self.source, self._sink, self.counters, asyncio.Semaphore(2))
        task = asyncio.create_task(self.projection.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while not done():
                    if task.done():
                        task.result()
                    writing = self.projection._writing
                    if writing is not None and writing.done():
                        writing.result()
                    await asyncio.sleep(0.001)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def to_the_end(self) -> None:
        """Until nothing is left to do."""
        await self.until(lambda: self.projection.lag == 0)
