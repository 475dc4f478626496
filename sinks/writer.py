"""Steps 3 and 4 of the sink: a frozen range into ClickHouse, once, and its row in the manifest.

Blocking: `clickhouse.py` gives it a thread. Never deletes, never decides what a range is, never reads Kafka.
Next: `clickhouse.py` (the five steps), `ddl.py` (the tables).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, cast

from sluicegate.schemas.errors import Terminal
from sluicegate.sinks import ddl, tables
from sluicegate.sinks.avro import Values
from sluicegate.sinks.contents import readable
from sluicegate.sinks.ranges import RANGE_BYTES, RANGE_ROWS, Range
from sluicegate.sinks.rows import AT, HEAD_BYTES, SEALED, ContentOpener
from sluicegate.streams.failpoints import hit

REPEATS_MAX = (
    4  # inserts of a range whose rows do not appear, each under another token; then somebody must look
)

# Every setting that decides about repetition, since servers' defaults differ. One block an insert: with several the
# token would cover them one by one.
INSERT_SETTINGS = {
    "insert_deduplicate": "1",
    "async_insert": "0",
    "wait_end_of_query": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "max_insert_block_size": str(2 * RANGE_ROWS),
    "min_insert_block_size_rows": str(2 * RANGE_ROWS),
    "min_insert_block_size_bytes": str(16 * RANGE_BYTES),
    "max_insert_threads": "1",
}


Columns = Sequence[Sequence[Any]]


class Client(Protocol):
    """What is used of a clickhouse-connect client."""

    def insert(self, table: str, data: Sequence[Sequence[object]], **kwargs: Any) -> Any:
        """Insert columns."""
        ...

    def query(self, query: str) -> Any:
        """Run a SELECT; the answer has `result_rows`."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """What ClickHouse holds of a partition: the manifest's end, and rows beyond it (killed between 3 and 4)."""

    last_seq: int = -1
    last_offset: int = -1
    rows_until: int = -1


class Sink:
    """Writes ranges. `opener` None keeps contents out of ClickHouse; `suffix` names the tables of a rebuild."""

    def __init__(
        self, connect: Callable[[], Client], database: str, opener: ContentOpener | None, suffix: str = ""
    ) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._database = ddl.check_database(database)
        self._opener = opener
        self._suffix = suffix

    def position(self, log_id: bytes, topic: str, partition: int) -> Position:
        """Where the partition stands in ClickHouse."""
        manifest, events = tables.INGEST_BATCHES, tables.EVENTS
        place = log_id, topic, partition
        last_seq, last_offset, ranges = self._query(
            f"SELECT max(last_seq), max(last_offset), count() FROM {self._name(manifest)} WHERE {_where(manifest, *place)}"
        )[0]
        if not ranges:
            last_seq, last_offset = -1, -1
        until, rows = self._query(
            f"SELECT max(toInt64(seq)), count() FROM {self._name(events)} "
            f"WHERE {_where(events, *place)} AND toInt64(seq) > {last_seq}"
        )[0]
        return Position(last_seq, last_offset, until if rows else last_seq)

    def write(self, frozen: Range, certain: bool) -> None:
        """Insert a range. `certain`: nobody can have tried before; else rows that are there are left out.

        INVARIANT: when this returns, every row of the range is in ClickHouse once, and the manifest says so.
        """
        events, contents = frozen.columns[:SEALED], self._contents(frozen)
        place = frozen.log_id, frozen.topic, frozen.partition
        rejects = _columns(
            (
                *place,
                r.offset,
                r.reason,
                r.detail,
                len(r.value),
                sha256(r.value).digest(),
                r.value[:HEAD_BYTES],
            )
            for r in frozen.rejects
        )
        manifest: Values = (
            *place, frozen.first_seq, frozen.last_seq, frozen.n, _count(contents), len(frozen.rejects),
            sha256(b"".join(events[AT["header_hash"]])).digest(), frozen.first_offset, frozen.last_offset,
            events[AT["decided_at"]][-1] if frozen.n else 0,
        )  # fmt: skip
        # Step 3.
        self._put(tables.EVENTS, "seq", events, frozen, certain)
        self._put(tables.CONTENTS, "seq", contents, frozen, certain)
        self._put(tables.INGEST_REJECTS, "offset", rejects, frozen, certain)
        hit("sink.3.inserted")
        # Step 4.
        self._put(tables.INGEST_BATCHES, "first_offset", _columns([manifest]), frozen, certain)
        hit("sink.4.listed")

    def _contents(self, frozen: Range) -> Columns:
        """Of `contents`: what can still be opened."""
        opener, opened = self._opener, []
        for i, sealed in enumerate(frozen.columns[SEALED] if opener else ()):
            if sealed is not None and opener is not None:
                ids = [frozen.columns[place][i] for place in _IDS]
                plain = opener.open(ids[_SUBJECT].decode("utf-8", "replace"), ids[_EVENT_ID], sealed)
                if plain is not None:
                    opened.append((*ids, *readable(plain)))
        return _columns(opened)

    def _put(self, table: tables.Table, key: str, data: Columns, frozen: Range, certain: bool) -> None:
        """Have these rows in a table exactly once."""
        token = f"{frozen.token}:{table.name}"
        for repeat in range(REPEATS_MAX if _count(data) else 0):
            missing = data if certain else self._missing(table, key, data, frozen)
            if not _count(missing):
                return
            self._insert(table, missing, token if repeat == 0 else f"{token}+{repeat}")
            if certain:
                return
        if _count(data) and _count(self._missing(table, key, data, frozen)):
            raise Terminal(
                f"rows of `{token}` do not appear in ClickHouse, look at its log and at who deletes rows"
            )

    def _missing(self, table: tables.Table, key: str, data: Columns, frozen: Range) -> Columns:
        """Those rows that are not there."""
        keys = data[table.names.index(key)]
        there = {found for (found,) in self._query(
            f"SELECT DISTINCT toInt64({key}) FROM {self._name(table)} "
            f"WHERE {_where(table, frozen.log_id, frozen.topic, frozen.partition)} "
            f"AND {key} BETWEEN {keys[0]} AND {keys[-1]}"
        )}  # fmt: skip
        keep = [i for i, value in enumerate(keys) if value not in there]
        return [[column[i] for i in keep] for column in data]

    def _query(self, query: str) -> Sequence[Sequence[Any]]:
        return cast(Sequence[Sequence[Any]], self._call(lambda client: client.query(query)).result_rows)

    def _call(self, work: Callable[[Client], Any]) -> Any:
        """Every failure drops the client: the embedded server may come back at another port."""
        client = self._client or self._connect()
        try:
            answer = work(client)
        except BaseException:
            self._client = None
            raise
        self._client = client
        return answer

    def _insert(self, table: tables.Table, data: Columns, token: str) -> None:
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        self._call(
            lambda client: client.insert(
                table.name + self._suffix,
                data,
                database=self._database,
                column_names=table.names,
                column_type_names=table.types,
                column_oriented=True,
                settings=settings,
            )
        )

    def _name(self, table: tables.Table) -> str:
        return f"`{self._database}`.`{table.name}{self._suffix}`"


def _where(table: tables.Table, log_id: bytes, topic: str, partition: int) -> str:
    prefix = "src_" if table in (tables.EVENTS, tables.CONTENTS) else ""
    return f"log_id = unhex('{log_id.hex()}') AND {prefix}topic = {tables.quote(topic)} AND {prefix}partition = {partition}"


def _columns(rows: Iterable[Values]) -> Columns:
    return list(zip(*rows, strict=True))


def _count(data: Columns) -> int:
    return len(data[0]) if data else 0


_IDS = [
    AT[name] for name in tables.CONTENTS.names[:-2]
]  # of `contents`, all but the record's name and the text
_SUBJECT, _EVENT_ID = (tables.CONTENTS.names.index(name) for name in ("subject", "event_id"))
