"""The events in ClickHouse against those in Kafka, by sums over ranges of `seq`.

ClickHouse answers for itself: which rows of a range it has, and whether each row's bytes give its hash. Rows that the
sink has not written yet are PENDING; rows missing below its own highest `seq`, or beyond the ledger's end, are a violation.
The columns that the header fills are put together to its bytes again and compared with them. Reads only.
Next: `verify.py`, `sinks/ddl.py` (the columns).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from sluicegate.processors.verify.chain import RANGE, Chain
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.settings import Settings

_HIGHEST = """
SELECT lower(hex(log_id)), src_topic, src_partition, toInt64(max(seq)) FROM `{database}`.events
GROUP BY log_id, src_topic, src_partition
"""
# DISTINCT: the table may hold a row twice until its parts merge. Two rows of one seq that differ count twice.
_SUMS = """
WITH {functions}
SELECT intDiv(seq, {range}) AS r, count(), groupBitXor(word), countIf(NOT sound), min(seq), max(seq) FROM (
    SELECT DISTINCT seq, reinterpretAsUInt64(substring(header_hash, 1, 8)) AS word,
        SHA256(concat(unhex('00'), header)) = header_hash AND SHA256(facts) = facts_hash AND header = {header} AS sound
    FROM `{database}`.events
    WHERE log_id = unhex('{log_id}') AND src_topic = '{topic}' AND src_partition = {partition} AND seq <= {until}
) GROUP BY r ORDER BY r
"""


@dataclass(slots=True)
class Rows:
    """ClickHouse as it was when verification began. `reason` says why there is nothing to compare."""

    client: Any = None
    database: str = ""
    reason: str = ""
    highest: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def until(self, log_id: bytes, topic: str, partition: int) -> int:
        """The highest seq the sink has written, -1 when none."""
        return self.highest.get((log_id.hex(), topic, partition), -1)


async def open_rows(settings: Settings) -> Rows:
    """Connect, and note how far the sink is. A ClickHouse that is away is a reason, not an error."""
    from sluicegate.sinks.embedded import connect, database  # the sinks need chDB only when they are used

    try:
        client = await asyncio.to_thread(connect, settings)
        name = database(settings)
        result = await asyncio.to_thread(client.query, _HIGHEST.format(database=name))
    except (SluicegateError, ClickHouseError, OSError) as error:
        return Rows(reason=" ".join(str(error).split())[:200])
    return Rows(
        client, name, "", {(log, topic, int(p)): int(seq) for log, topic, p, seq in result.result_rows}
    )


async def compare(rows: Rows, topic: str, partition: int, checker: Chain) -> dict[str, object]:
    """Compare one partition's ranges; adds `clickhouse` violations to the checker's findings."""
    from sluicegate.sinks.header_sql import WITH, header_sql

    last = checker.seq - 1
    if rows.client is None:
        return {"verdict": "not compared"}
    highest = rows.until(checker.log_id, topic, partition)
    until = min(highest, last)
    # INVARIANT: a changed column is found as changed bytes are (tests/contracts/test_verify_clickhouse.py).
    query = _SUMS.format(
        functions=WITH, header=header_sql(), range=RANGE, database=rows.database, log_id=checker.log_id.hex(), topic=topic, partition=partition, until=until
    )  # fmt: skip
    result = await asyncio.to_thread(rows.client.query, query)
    theirs = {int(row[0]): row[1:] for row in result.result_rows} if until >= 0 else {}
    before = checker.findings.counts["clickhouse"]
    if highest > last:  # noted before the ledger's end was: it never runs ahead of it
        checker.findings.add(
            "clickhouse", last + 1, -1,
            f"ClickHouse has events up to seq {highest}, the ledger ends at {last}: its tail was cut off, or those were added",
        )  # fmt: skip
    for key in sorted(checker.sums.keys() | theirs.keys()):
        if min(last, checker.sum_until, key * RANGE + RANGE - 1) > until:
            continue  # summed beyond what the sink has: control's last range, until the sink has caught up
        count, word = checker.summed(key)
        n, xor, unsound, low, high = theirs.get(key, (0, 0, 0, key * RANGE, key * RANGE))
        where = f"seq {key * RANGE} to {min(key * RANGE + RANGE - 1, until)}"
        if n != count:
            checker.findings.add(
                "clickhouse", key * RANGE, -1, f"{where}: the ledger has {count} events, ClickHouse {n}"
            )
        elif int(xor) != word:
            checker.findings.add(
                "clickhouse", key * RANGE, -1, f"{where}: other header hashes than the ledger's"
            )
        elif unsound:
            checker.findings.add(
                "clickhouse", key * RANGE, -1,
                f"{where}: {unsound} rows between {low} and {high} have bytes that do not give their hash, or other columns than bytes",
            )  # fmt: skip
    broken = checker.findings.counts["clickhouse"] != before
    pending = last - until
    verdict = "broken" if broken else f"PENDING: {pending} events to come" if pending else "same"
    return {"verdict": verdict, "rows_until": until, "pending": pending}
