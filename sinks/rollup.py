"""`drift_1m` and `session_1m`: computed from `events`, a partition and whole minutes at a time, and replaced when again.

A materialized view would add up what an insert brings: half an insert, or one that is repeated under another token, and
its sums are wrong for ever. Here the rows of a minute are always computed from all of its events, `FINAL`, and replace the ones
before (ReplacingMergeTree by `until_seq`). So nothing has to be exactly once: not a retry, not two owners, not a kill
between the two tables. Rows say how far they are computed; a restart reads that and goes on.

Never reads Kafka and never writes a row of `events`. Next: `rollup.sql` (the two statements), `rollup_tables.py` (what
the columns mean), `clickhouse.py` (when this runs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any, Protocol

from sluicegate.processors import lifecycle
from sluicegate.schemas.kinds import CALL_KINDS
from sluicegate.schemas.scores import QUALITY
from sluicegate.sinks import tables

ROLL_ROWS = 500_000
"""Events of one statement, about 0.6 s and 300 MB; a table that is filled for the first time takes several."""
ROLL_EVERY_S = 5.0
"""A partition's minutes are computed at most so often. The one that is not over is computed again each time: at 1,000
events/s that reads 12 x 30,000 rows a minute, 1 % of a core."""
ROLL_SHARE = 10
"""And rests so many times as long as it took: on a busy machine the ledger comes first, and minutes come later."""
GAP_ROWS = 20_000
"""Where `until_seq` itself is missing, the minute it was in is looked for in so many rows before it."""

SETTINGS = {
    "max_insert_threads": "1",
    "min_insert_block_size_rows": str(
        2 * ROLL_ROWS
    ),  # one part a statement: a minute is there whole or not at all
    "min_insert_block_size_bytes": str(1 << 30),
    "insert_deduplicate": "0",  # the rows replace each other
    "do_not_merge_across_partitions_select_final": "1",  # an event is always of the same month
    "max_threads": "2",
}

COUNTS = (
    ("calls", "countIf(is_call)"),
    ("executed", "countIf(status IN ({executed}))"),
    ("released", "countIf(status = 'released')"),
    ("refused", "countIf(status = 'refused')"),
    ("failed", "countIf(status = 'failed')"),
    ("withheld", "countIf(status = 'withheld')"),
    ("ungrounded", "uniqExactIf(intent_id, has(grounded_from, 'nowhere'))"),
    ("held", "uniqExactIf(intent_id, status = 'held')"),
    ("expired", "countIf(status = 'expired')"),
    ("in_doubt", "countIf(status = 'in_doubt')"),
)
_SAID = "greatest(sumIf(ifNull({0}, 0), facts_type = 'spend_facts'), sumIf(ifNull({0}, 0), facts_type IN ('answer_facts', 'streamed_facts')))"
"""Both may say the same; which of them there are depends on the release."""
_SCORED = f"status = 'scored' AND metric = {tables.quote(QUALITY)}"
SUMS = (
    ("input_tokens", f"toUInt64({_SAID.format('input_tokens')})"),
    ("output_tokens", f"toUInt64({_SAID.format('output_tokens')})"),
    ("cost_micros", "toUInt64(sumIf(ifNull(money, 0), facts_type = 'spend_facts'))"),
    ("quality_sum", f"toUInt64(sumIf(ifNull(score, 0), {_SCORED}))"),
    ("scores", f"countIf({_SCORED})"),
)


class Client(Protocol):
    """What is used of a clickhouse-connect client."""

    def query(self, query: str) -> Any:
        """Run a SELECT; the answer has `result_rows`."""
        ...

    def command(self, cmd: str, *, settings: dict[str, str]) -> Any:
        """Run a statement."""
        ...


def _run(statement: str, client: Client) -> None:
    client.command(statement, settings=SETTINGS)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(tables.quote, names))


def statements(database: str, suffix: str, place: str, first: int, until: int) -> list[str]:
    """What computes the minutes of these events."""
    text = resources.files("sluicegate.sinks").joinpath("rollup.sql").read_text("utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    filled = {
        "counts": ",\n    ".join(f"{sql} AS n_{name}" for name, sql in COUNTS),
        "sums": ",\n    ".join(f"{sql} AS s_{name}" for name, sql in SUMS),
        "executed": _quoted(lifecycle.EXECUTED_TERMINAL),
        "call_kinds": _quoted(CALL_KINDS),
        "database": database,
        "suffix": suffix,
        "environment": tables.quote(database),
        "place": place,
        "first": str(first),
        "until": str(until),
    }
    for name, value in filled.items():
        text = text.replace(f"{{{name}}}", value)
    return [statement.strip() for statement in text.split(";\n") if statement.strip()]


class Rollup:
    """One partition of one ledger. `call` runs work with a client, as `Sink` does."""

    def __init__(
        self, call: Callable[[Callable[[Client], Any]], Any], database: str, suffix: str, log_id: bytes, partition: int
    ) -> None:  # fmt: skip
        self._call, self._database, self._suffix = call, database, suffix
        self._log = f"log_id = unhex('{log_id.hex()}')"
        self._partition = partition
        self._place = f"{self._log} AND src_topic = 'outcomes' AND src_partition = {partition}"
        self._until: int | None = None

    def step(self, written: int) -> bool:
        """Compute what came since, up to the event `written`; whether there is more."""
        if self._until is None:
            self._until = min(self._position(table) for table in tables.ROLLUPS)
        if self._until >= written:
            return False
        until = min(written, self._until + ROLL_ROWS)
        for statement in statements(
            self._database, self._suffix, self._place, self._first(self._until), until
        ):
            self._call(partial(_run, statement))
        self._until = until
        return until < written

    def _position(self, table: tables.Table) -> int:
        """How far a table is computed."""
        until, rows = self._one(
            f"SELECT max(until_seq), count() FROM {self._name(table)} WHERE {self._log} AND src_partition = {self._partition}"
        )
        return int(until) if rows else -1

    def _first(self, until: int) -> int:
        """The first event of the minute that the event `until` is in: that minute was not over."""
        if until < 0:
            return 0
        events = self._name(tables.EVENTS)
        near = f"SELECT max(decided_at) FROM {events} WHERE {self._place} AND seq BETWEEN {until - GAP_ROWS} AND {until}"
        first, rows = self._one(
            f"SELECT min(seq), count() FROM {events} WHERE {self._place} AND seq <= {until} "
            f"AND decided_at >= toStartOfMinute(assumeNotNull(({near})))"
        )
        return int(first) if rows else 0

    def _one(self, sql: str) -> Sequence[Any]:
        found: Sequence[Any] = self._call(lambda client: client.query(sql)).result_rows[0]
        return found

    def _name(self, table: tables.Table) -> str:
        return f"`{self._database}`.`{table.name}{self._suffix}`"
