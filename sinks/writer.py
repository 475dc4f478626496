"""Steps 3 and 4 of the sink: a frozen range into ClickHouse, once, and its row in the manifest.

Blocking: `clickhouse.py` gives it a thread. Never deletes, never decides what a range is, never reads Kafka.
Next: `clickhouse.py` (the five steps), `ddl.py` (the tables).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, cast

from sluicegate.schemas.errors import Terminal
from sluicegate.sinks import ddl
from sluicegate.sinks.ranges import RANGE_BYTES, RANGE_ROWS, Range
from sluicegate.sinks.rows import HEAD_BYTES, ContentOpener, Values, columns

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
        where = f"log_id = unhex('{log_id.hex()}') AND {{}}topic = {ddl.quote(topic)} AND {{}}partition = {partition}"
        manifest, events = self._name(ddl.INGEST_BATCHES), self._name(ddl.EVENTS)
        found = self._query(
            f"SELECT max(toInt64(last_seq)), max(last_offset), count() FROM {manifest} WHERE {where.format('', '')}"
        )[0]
        last_seq, last_offset = (int(found[0]), int(found[1])) if found[2] else (-1, -1)
        beyond = self._query(
            f"SELECT max(toInt64(seq)), count() FROM {events} "
            f"WHERE {where.format('src_', 'src_')} AND seq > {last_seq} SETTINGS max_threads = 1"
        )[0]
        return Position(last_seq, last_offset, int(beyond[0]) if beyond[1] else last_seq)

    def write(self, frozen: Range, certain: bool) -> None:
        """Insert a range. `certain`: nobody can have tried before; else rows that are there are left out.

        INVARIANT: when this returns, every row of the range is in ClickHouse once, and the manifest says so.
        """
        contents = self._contents(frozen)
        rejects: list[Values] = [
            (
                frozen.log_id, frozen.topic, frozen.partition, r.offset, r.reason, r.detail, len(r.value),
                sha256(r.value).digest(), r.value[:HEAD_BYTES],
            )
            for r in frozen.rejects
        ]  # fmt: skip
        # Step 3.
        self._put(
            ddl.EVENTS, "seq", [r.seq for r in frozen.rows], [r.values for r in frozen.rows], frozen, certain
        )
        self._put(ddl.CONTENTS, "seq", [c[3] for c in contents], contents, frozen, certain)
        self._put(ddl.INGEST_REJECTS, "offset", [r.offset for r in frozen.rejects], rejects, frozen, certain)
        # Step 4.
        hashes = sha256(b"".join(r.header_hash for r in frozen.rows)).digest()
        until = frozen.rows[-1].decided_at if frozen.rows else 0
        manifest: Values = (
            frozen.log_id, frozen.topic, frozen.partition, frozen.first_seq, frozen.last_seq, len(frozen.rows),
            len(contents), len(rejects), hashes, frozen.first_offset, frozen.last_offset, until,
        )  # fmt: skip
        self._put(ddl.INGEST_BATCHES, "first_offset", [frozen.first_offset], [manifest], frozen, certain)

    def _contents(self, frozen: Range) -> list[Values]:
        """Rows of `contents`: what can still be opened. `values` begins as `events` does: see `ddl.EVENTS`."""
        if self._opener is None:
            return []
        opened: list[Values] = []
        for item in frozen.rows:
            if item.sealed is not None and (plain := self._opener.open(*item.sealed)) is not None:
                ids = _CONTENT_IDS(item.values)
                opened.append(
                    (frozen.log_id, frozen.topic, frozen.partition, item.seq, *ids, item.decided_at, plain)
                )
        return opened

    def _put(
        self,
        table: ddl.Table,
        key: str,
        keys: Sequence[object],
        rows: list[Values],
        frozen: Range,
        certain: bool,
    ) -> None:
        """Have these rows in a table exactly once."""
        token = f"{frozen.token}:{table.name}"
        for repeat in range(REPEATS_MAX):
            missing = rows
            if rows and not certain:
                present = self._present(table, key, keys, frozen)
                missing = [values for k, values in zip(keys, rows, strict=True) if k not in present]
            if not missing:
                return
            self._insert(table, missing, token if repeat == 0 else f"{token}+{repeat}")
            if certain:
                return
        raise Terminal(
            f"the rows of `{token}` do not appear in ClickHouse, look at its log and at who deletes rows"
        )

    def _present(self, table: ddl.Table, key: str, keys: Sequence[object], frozen: Range) -> set[object]:
        prefix = "src_" if table in (ddl.EVENTS, ddl.CONTENTS) else ""
        answer = self._query(
            f"SELECT DISTINCT toInt64({key}) FROM {self._name(table)} WHERE log_id = unhex('{frozen.log_id.hex()}') "
            f"AND {prefix}topic = {ddl.quote(frozen.topic)} AND {prefix}partition = {frozen.partition} "
            f"AND {key} BETWEEN {keys[0]} AND {keys[-1]}"
        )
        return {found[0] for found in answer}

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

    def _insert(self, table: ddl.Table, rows: list[Values], token: str) -> None:
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        self._call(
            lambda client: client.insert(
                table.name + self._suffix,
                columns(rows),
                database=self._database,
                column_names=table.names,
                column_type_names=table.types,
                column_oriented=True,
                settings=settings,
            )
        )

    def _name(self, table: ddl.Table) -> str:
        return f"`{self._database}`.`{table.name}{self._suffix}`"


def _picker(*names: str) -> Callable[[Values], Values]:
    places = [ddl.EVENTS.names.index(name) for name in names]
    return lambda values: tuple(values[i] for i in places)


_CONTENT_IDS = _picker("event_id", "agent_id", "session_id", "intent_id", "subject")
