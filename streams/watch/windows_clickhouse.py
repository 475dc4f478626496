"""The sentinel's port over ClickHouse: buckets from `events`, long references from `drift_1m`.

A bucket is counted from `events FINAL` below a cut of positions, so the same evidence comes out again whenever it is asked
for. What was added up by minute serves for weeks of long ago only. Asks as a reader, within the reader's limits.
Next: `watch/windows.py` (what the answers mean), `sinks/rollup.py` (how minutes are added up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from sluicegate.processors.canary.scores import TAKEN_BACK
from sluicegate.processors.drift.streams import START, Row
from sluicegate.schemas.errors import Retryable, SluicegateError
from sluicegate.schemas.kinds import CALL_KINDS
from sluicegate.schemas.scores import QUALITY
from sluicegate.streams.watch.windows import EXECUTED, VIOLATION_STAGES, Cut, Head

MINUTE_US = 60_000_000
MOST = 10_000
"""The best score, as the ledger writes it."""
RECENT_US = 10 * MINUTE_US
"""The newest minutes may not be added up yet: of a long stretch they are counted from `events`."""

_STORED = """
SELECT partition, toInt64(max(last_seq)), toUnixTimestamp64Micro(max(decided_until))
FROM `{database}`.ingest_batches WHERE log_id = unhex('{log}') AND topic = 'outcomes' AND n > 0 GROUP BY partition
"""
_COUNT = """
SELECT uniqExact(src_partition, seq) FROM `{database}`.events
WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND ({ranges})
"""
_ROWS = """
SELECT
    {bucket} AS at, release, agent_id, if(is_call AND executor = '', '(unresolved)', call_tool) AS tool,
    countIf(is_call), countIf(status = 'refused' AND stage IN ({violations}) AND counts),
    countIf(status IN ({executed}) AND counts), countIf(status = 'failed' AND counts), countIf(status = 'withheld' AND counts),
    uniqExactIf(intent_id, has(grounded_from, 'nowhere')),
    {quality},
    sumMapIf(map(toString(previous_tool), toUInt64(1)), is_call),
    sumMapIf(map(toString(shape), toUInt64(1)), is_call AND shape != ''),
    if(
        countIf(facts_type IN ('answer_facts', 'streamed_facts')) > 0,
        sumMapIf(map(toString(model), toUInt64(1)), facts_type IN ('answer_facts', 'streamed_facts') AND model != ''),
        sumMapIf(map(toString(model), toUInt64(1)), facts_type = 'spend_facts' AND model != '')
    ),
    uniqExactIf(intent_id, notEmpty(observed))
FROM (
    SELECT * EXCEPT (release), if(status = 'scored', detail, release) AS release, facts_type = 'intent_facts' AND kind IN ({kinds}) AS is_call,
        reason NOT IN ({taken_back}) AS counts
    FROM `{database}`.events FINAL
    WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND agent_id != ''
        AND decided_at >= fromUnixTimestamp64Micro({start}) AND decided_at < fromUnixTimestamp64Micro({end}) AND ({cut})
) AS e
ANY LEFT JOIN (
    SELECT src_partition, seq, shape FROM `{database}`.contents
    WHERE log_id = unhex('{log}') AND src_topic = 'outcomes' AND shape != ''
        AND decided_at >= fromUnixTimestamp64Micro({start}) AND decided_at < fromUnixTimestamp64Micro({end})
) AS c ON e.src_partition = c.src_partition AND e.seq = c.seq
GROUP BY at, release, agent_id, tool ORDER BY at, release, agent_id, tool
"""
_WEEK = """
SELECT
    {start} AS at, '' AS release, agent_id, tool, sum(calls), sum(violations) - sum(withheld), sum(executed), sum(failed),
    sum(withheld), sum(ungrounded), sum(scores), sum(scores) - sum(quality_sum) / 10000, toUInt64(0),
    sumMap(previous), sumMap(shapes), sumMap(served), sum(observed)
FROM `{database}`.drift_1m FINAL
WHERE log_id = unhex('{log}') AND agent_id != '' AND minute >= toDateTime({first_s}, 'UTC') AND minute < toDateTime({last_s}, 'UTC')
GROUP BY agent_id, tool ORDER BY agent_id, tool
"""
_SCORED = f"status = 'scored' AND metric = '{QUALITY}'"
_IN_RANGE = f"{_SCORED} AND ifNull(score, -1) BETWEEN 0 AND {MOST}"
_SCORES = (
    f"countIf({_IN_RANGE}), countIf({_IN_RANGE}) - sumIf(ifNull(score, 0), {_IN_RANGE}) / {MOST}, "
    f"countIf({_SCORED}) - countIf({_IN_RANGE})"
)
"""How many scores, how much is missing to full marks, and how many are none."""


class Client(Protocol):
    """What is used of a clickhouse-connect client."""

    def query(self, query: str) -> Any:
        """Run a SELECT."""
        ...


class ClickHouseWindows:
    """See `windows.Windows`."""

    def __init__(self, connect: Callable[[], Client], database: str) -> None:
        self._connect, self._database = connect, database
        self._client: Client | None = None

    def stored(self, log_id: str) -> Mapping[int, Head]:
        """From the manifest."""
        return {int(p): Head(int(seq), int(at)) for p, seq, at in self._ask(_STORED, log_id)}

    def count(self, log_id: str, after: Cut, upto: Cut) -> int:
        """Exactly, a repeated row once."""
        ranges = [
            f"src_partition = {p} AND seq > {max(-1, after.get(p, -1))} AND seq <= {last}"
            if after.get(p, -1) >= 0 else f"src_partition = {p} AND seq <= {last}"
            for p, last in upto.items() if last >= 0
        ]  # fmt: skip
        if not ranges:
            return 0
        return int(self._ask(_COUNT, log_id, ranges=" OR ".join(f"({one})" for one in ranges))[0][0])

    def rows(self, log_id: str, start: int, end: int, bucket_us: int, cut: Cut) -> list[Row]:
        """From `events FINAL`."""
        if start >= end or not cut:
            return []
        micros = "toUnixTimestamp64Micro(decided_at)"
        found = self._ask(
            _ROWS, log_id, start=start, end=end, violations=_listed(VIOLATION_STAGES), executed=_listed(EXECUTED),
            bucket=f"intDiv({micros}, {bucket_us}) * {bucket_us}" if bucket_us else f"toInt64({start})",
            kinds=_listed(CALL_KINDS), quality=_SCORES, taken_back=_listed(sorted(TAKEN_BACK)),
            cut=" OR ".join(f"(src_partition = {p} AND seq <= {seq})" for p, seq in cut.items()),
        )  # fmt: skip
        return [_row(values) for values in found]

    def week(self, log_id: str, start: int, end: int) -> list[Row]:
        """Whole minutes from `drift_1m`, the rest from `events`."""
        first = -(-start // MINUTE_US) * MINUTE_US
        last = (end - RECENT_US) // MINUTE_US * MINUTE_US
        everything = dict.fromkeys(self.stored(log_id), 2**62)
        if last <= first:
            return self.rows(log_id, start, end, 0, everything)
        found = self._ask(_WEEK, log_id, start=start, first_s=first // 1_000_000, last_s=last // 1_000_000)
        edges = self.rows(log_id, start, first, 0, everything) + self.rows(log_id, last, end, 0, everything)
        return [_row(values) for values in found] + edges

    def _ask(self, query: str, log_id: str, **more: object) -> list[Any]:
        from clickhouse_connect.driver.exceptions import Error

        text = query.format(database=self._database, log=log_id, **more)
        try:
            if self._client is None:
                self._client = self._connect()
            return list(self._client.query(text).result_rows)
        except (Error, OSError, SluicegateError) as error:
            self._client = None  # it may come back at another address
            said = " ".join(str(error).split())[:200]
            raise Retryable(f"clickhouse does not answer: {said}, see `sluicegate doctor`") from error


def _row(values: Any) -> Row:
    at, release, agent, tool, asked, refused, executed, failed, withheld, ungrounded, scored = values[:11]
    return Row(
        int(at), release, agent, tool, int(asked), int(refused), int(executed), int(failed), int(withheld),
        int(ungrounded), int(scored), float(values[11]), int(values[12]),
        {(name or START): int(n) for name, n in values[13].items()}, _ints(values[14]), _ints(values[15]),
        int(values[16]),
    )  # fmt: skip


def _ints(found: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(n) for name, n in found.items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
