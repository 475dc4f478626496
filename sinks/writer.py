"""Steps 3 and 4 of the sink: a frozen range into ClickHouse, once, and its row in the manifest.

Blocking: `clickhouse.py` gives it a thread. Never deletes, never decides what a range is, never reads Kafka.
Next: `clickhouse.py` (the five steps), `ddl.py` (the tables).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, cast

from sluicegate.processors import lifecycle
from sluicegate.processors.work import SYSTEM
from sluicegate.schemas.errors import Terminal
from sluicegate.sinks import ddl, native, tables
from sluicegate.sinks.avro import Values
from sluicegate.sinks.block import SEALED_IDS
from sluicegate.sinks.calls import OPEN_MAX, SESSIONS_MAX, Calls
from sluicegate.sinks.contents import readable
from sluicegate.sinks.ranges import RANGE_BYTES, RANGE_ROWS, Range
from sluicegate.sinks.rollup import Rollup
from sluicegate.sinks.rows import HEAD_BYTES, ContentOpener
from sluicegate.streams.failpoints import hit

REPEATS_MAX = (
    4  # inserts of a range whose rows do not appear, each under another token; then somebody must look
)

CALLS_ROWS = 2_000_000
"""Rows looked through after a restart for calls without an end: a second, and 2 million ids at 100 bytes. Of a call that was
held since longer the later outcomes have an empty `call_tool`."""

# Every setting that decides about repetition, since servers' defaults differ. One block an insert: with several the
# token would cover them one by one.
INSERT_SETTINGS = {
    "insert_deduplicate": "1",
    "optimize_on_insert": "0",  # a range holds no row twice: replacing within it costs a fifth of the server's work
    "async_insert": "0",
    "wait_end_of_query": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "max_insert_block_size": str(2 * RANGE_ROWS),
    "min_insert_block_size_rows": str(2 * RANGE_ROWS),
    "min_insert_block_size_bytes": str(16 * RANGE_BYTES),
    "max_insert_threads": "1",
}


Encode = Callable[[Collection[int]], bytes]
"""The block of the rows with these keys."""


class Client(Protocol):
    """What is used of a clickhouse-connect client."""

    def raw_insert(
        self,
        table: str,
        *,
        column_names: Sequence[str],
        insert_block: memoryview,
        settings: dict[str, str],
        fmt: str,
    ) -> Any:
        """Send a block."""
        ...

    def query(self, query: str) -> Any:
        """Run a SELECT; the answer has `result_rows`."""
        ...

    def command(self, cmd: str, *, settings: dict[str, str]) -> Any:
        """Run a statement."""
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

    def rollup(self, log_id: bytes, partition: int) -> Rollup:
        """What computes a partition's minutes from its rows here."""
        return Rollup(self._call, self._database, self._suffix, log_id, partition)

    def calls(self, log_id: bytes, topic: str, partition: int, next_seq: int) -> Calls:
        """What the rows before `next_seq` began: calls without an end, and the last tools of sessions."""
        events = self._name(tables.EVENTS)
        near = (
            f"{_where(tables.EVENTS, log_id, topic, partition)} AND call_tool != '' "
            f"AND toInt64(seq) BETWEEN {next_seq - CALLS_ROWS} AND {next_seq - 1}"
        )
        ends = ", ".join(map(tables.quote, sorted(lifecycle.TERMINAL)))
        began = self._query(
            f"SELECT agent_id, intent_id, any(call_tool) FROM {events} WHERE {near} GROUP BY agent_id, intent_id "
            f"HAVING countIf(status IN ({ends})) = 0 ORDER BY min(seq) DESC LIMIT {OPEN_MAX}"
        )
        last = self._query(
            f"SELECT agent_id, session_id, argMax(call_tool, seq) FROM {events} "
            f"WHERE {near} AND facts_type = 'intent_facts' GROUP BY agent_id, session_id "
            f"ORDER BY max(seq) DESC LIMIT {SESSIONS_MAX}"
        )
        return Calls(_keyed(reversed(began)), _keyed(reversed(last)))

    def write(self, frozen: Range, certain: bool) -> None:
        """Insert a range. `certain`: nobody can have tried before; else rows that are there are left out.

        INVARIANT: when this returns, every row of the range is in ClickHouse once, and the manifest says so
        (tests/unit/test_sink.py::test_killed_anywhere_every_record_is_there_once).
        """
        place = frozen.log_id, frozen.topic.encode(), frozen.partition
        contents = self._contents(frozen)
        rejects = [
            (
                *place, r.offset, r.reason.encode(), r.detail.encode(), len(r.value), sha256(r.value).digest(),
                r.value[:HEAD_BYTES],
            )
            for r in frozen.rejects
        ]  # fmt: skip
        manifest = (
            *place, frozen.first_seq, frozen.last_seq, frozen.n, len(contents), len(rejects), frozen.hashes,
            frozen.first_offset, frozen.last_offset, frozen.decided_until,
        )  # fmt: skip
        # Step 3.
        self._put_events(frozen, certain)
        self._put(tables.CONTENTS, "seq", contents, frozen, certain)
        self._put(tables.INGEST_REJECTS, "offset", rejects, frozen, certain)
        hit("sink.3.inserted")
        # Step 4.
        self._put(tables.INGEST_BATCHES, "first_offset", [manifest], frozen, certain)
        hit("sink.4.listed")

    def _contents(self, frozen: Range) -> list[Values]:
        """Rows of `contents`: what can still be opened, and whom it is about is known.

        INVARIANT: what no erasure could find is never put there: a record that could not be read may hold anything
        (tests/integration/test_erase.py)."""
        opener, found = self._opener, list[Values]()
        if opener is None:
            return found
        place = frozen.log_id, frozen.topic.encode()
        for ids, sealed in frozen.sealed:
            if ids[_SUBJECT] == _NOBODY:
                continue
            plain = opener.open(ids[_SUBJECT].decode("utf-8", "replace"), ids[_EVENT_ID], sealed)
            if plain is not None:
                found.append((*place, *ids, *readable(plain)))
        return found

    def _put_events(self, frozen: Range, certain: bool) -> None:
        def encode(seqs: Collection[int]) -> bytes:
            return frozen.block if len(seqs) == frozen.n else frozen.block_of(seqs)

        self._once(
            tables.EVENTS, "seq", range(frozen.first_seq, frozen.last_seq + 1), encode, frozen, certain
        )

    def _put(
        self, table: tables.Table, key: str, rows: Sequence[Values], frozen: Range, certain: bool
    ) -> None:
        at = table.names.index(key)

        def encode(keys: Collection[int]) -> bytes:
            chosen = zip(*(row for row in rows if row[at] in keys), strict=True)
            return native.block_of(dict(zip(table.names, chosen, strict=True)), _TYPES[table.name])

        self._once(table, key, [cast(int, row[at]) for row in rows], encode, frozen, certain)

    def _once(
        self, table: tables.Table, key: str, keys: Sequence[int], encode: Encode, frozen: Range, certain: bool
    ) -> None:
        """Have the rows of these keys, in order, in a table exactly once."""
        token = f"{frozen.token}:{table.name}"
        for repeat in range(REPEATS_MAX if keys else 0):
            missing = keys if certain else self._missing(table, key, keys, frozen)
            if not missing:
                return
            self._insert(table, encode(set(missing)), token if repeat == 0 else f"{token}+{repeat}")
            if certain:
                return
        if keys and self._missing(table, key, keys, frozen):
            raise Terminal(
                f"rows of `{token}` do not appear in ClickHouse, look at its log and at who deletes rows"
            )

    def _missing(self, table: tables.Table, key: str, keys: Sequence[int], frozen: Range) -> list[int]:
        """Those rows that are not there."""
        there = {found for (found,) in self._query(
            f"SELECT DISTINCT toInt64({key}) FROM {self._name(table)} "
            f"WHERE {_where(table, frozen.log_id, frozen.topic, frozen.partition)} "
            f"AND {key} BETWEEN {keys[0]} AND {keys[-1]}"
        )}  # fmt: skip
        return [value for value in keys if value not in there]

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

    def _insert(self, table: tables.Table, block: bytes, token: str) -> None:
        # INVARIANT: an insert is sent once. Of bytes clickhouse-connect repeats it when the connection broke, with the same
        # token, and ClickHouse may answer that it knows the token while the rows are lost; of a view it does not
        # (tests/unit/test_sink_connection.py).
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        self._call(
            lambda client: client.raw_insert(
                self._name(table),
                column_names=table.names,
                insert_block=memoryview(block),
                settings=settings,
                fmt="Native",
            )
        )

    def _name(self, table: tables.Table) -> str:
        return f"`{self._database}`.`{table.name}{self._suffix}`"


def _keyed(rows: Iterable[Sequence[Any]]) -> Iterable[tuple[tuple[bytes, bytes], bytes]]:
    return (((agent.encode(), name.encode()), tool.encode()) for agent, name, tool in rows)


def _where(table: tables.Table, log_id: bytes, topic: str, partition: int) -> str:
    prefix = "src_" if table in (tables.EVENTS, tables.CONTENTS) else ""
    return f"log_id = unhex('{log_id.hex()}') AND {prefix}topic = {tables.quote(topic)} AND {prefix}partition = {partition}"


_SUBJECT, _EVENT_ID = (SEALED_IDS.index(name) for name in ("subject", "event_id"))
_NOBODY = SYSTEM.encode()
_TYPES = {table.name: dict(zip(table.names, table.types, strict=True)) for table in tables.TABLES}
