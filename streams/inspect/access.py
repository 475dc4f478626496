"""`sluicegate access --asset …`: who touched a tool, a prompt, a memory key, a document by its digest, an event's result.

    clickhouse   rows of `events` whose facts have the asset's bytes, whose intent has such a row, or that open a session
    kafka        the whole ledger

In every generation of the log up to the one that the settings name.

Both give the same header and facts to the same fold (`processors/replay/access.py`), so they answer the same; what ClickHouse's
sink has not reached is not in its answer, and is said. Reads only. Next: `commands/access.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Any

from sluicegate.processors.replay.access import Access, Accesses, needle
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.inspect.find import decode
from sluicegate.streams.repartition.generation import part_name, up_to
from sluicegate.streams.scan import FETCH_WAIT_MS, OnStart, announce, places, scan, stretches
from sluicegate.streams.settings import Settings

CLICKHOUSE, KAFKA = "clickhouse", "kafka"

_ROWS = """
SELECT indexOf({logs:Array(String)}, lower(hex(log_id))) - 1, src_partition, header, facts FROM `{database}`.events FINAL
WHERE src_topic = 'outcomes' AND has({logs:Array(String)}, lower(hex(log_id))) AND (
    position(facts, unhex({needle:String})) > 0 OR (facts_type IN ('session_facts', 'opening_facts') AND status = 'opened')
    OR (agent_id, intent_id) IN (
        SELECT agent_id, intent_id FROM `{database}`.events
        WHERE src_topic = 'outcomes' AND intent_id != '' AND position(facts, unhex({needle:String})) > 0
    )
)
ORDER BY 1, src_partition, seq
"""
_UNTIL = """
SELECT indexOf({logs:Array(String)}, lower(hex(log_id))) - 1, src_partition, toInt64(max(seq)) FROM `{database}`.events
WHERE src_topic = 'outcomes' AND has({logs:Array(String)}, lower(hex(log_id))) GROUP BY 1, 2
"""


@dataclass(slots=True)
class Found:
    """Who touched it. `until`: ledger partition, as `generation.part_name` names it -> seq up to which the source was read."""

    asset: str
    source: str
    rows: list[Access] = field(default_factory=list)
    until: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


async def access(
    settings: Settings,
    asset: str,
    *,
    source: str = KAFKA,
    since: int | None = None,
    until: int | None = None,
    on_start: OnStart | None = None,
) -> Found:
    """Ask one source. `since` and `until` bound the rows, not what is read: states are those of now."""
    fold = Accesses(asset)
    found = Found(fold.asset, source)
    if source == CLICKHOUSE:
        await _clickhouse(settings, fold, found)
    else:
        await _kafka(settings, fold, found, on_start)
    low, high = since if since is not None else 0, until if until is not None else 1 << 62
    found.rows = [row for row in fold.rows if low <= row.at <= high]
    return found


async def _kafka(
    settings: Settings,
    fold: Accesses,
    found: Found,
    on_start: OnStart | None,
) -> None:
    every = [(one.generation or 0, one.space, await topics.partitions_of(one)) for one in up_to(settings)]
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        numbers = [number for number, _, count in every for _ in range(count)]
        all_of = [place for _, space, count in every for place in places(space, "outcomes", range(count))]
        ledgers = await stretches(consumer, all_of)
        advance = announce(on_start, ledgers)
        for number, stretch in zip(numbers, ledgers, strict=True):
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    event = decode(stretch.place.partition, record.offset, record.value)
                    fold.take(event.partition, event.header, event.facts, number)
                    found.until[part_name(number, event.partition)] = event.header.seq
                advance(len(batch))
    finally:
        await consumer.stop()


async def _clickhouse(settings: Settings, fold: Accesses, found: Found) -> None:
    from clickhouse_connect.driver.exceptions import Error
    from sluicegate.sinks.embedded import connect, database

    generations = (await control_log.read(settings)).control.generations
    logs = [one.log_id.hex() for one in generations[: (settings.generation or 0) + 1]]
    client: Any = await asyncio.to_thread(connect, settings)
    name = database(settings)
    try:
        until = await asyncio.to_thread(client.query, _UNTIL.replace("{database}", name), {"logs": logs})
        rows = await asyncio.to_thread(
            client.query,
            _ROWS.replace("{database}", name),
            {"needle": needle(fold.asset).hex(), "logs": logs},
            column_formats={"header": "bytes", "facts": "bytes"},
        )
    except Error as error:
        raise Terminal(f"clickhouse did not answer: {str(error).splitlines()[0][:300]}, use --source kafka") from error  # fmt: skip
    found.until = {part_name(int(g), int(p)): int(seq) for g, p, seq in until.result_rows}
    for number, partition, header, facts in rows.result_rows:
        decoded = codec.decode_as(r.Header, bytes(header)), codec.decode(bytes(facts))
        fold.take(int(partition), *decoded, int(number))
