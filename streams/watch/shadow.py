"""Shadow agents: who was seen on the topics and is in no registry.

Every record of an unknown agent has an outcome on the ledger, so nothing has to listen for them. ClickHouse counts what
its sink has reached, Kafka gives the rest, or all of it where ClickHouse is away. Never writes.
Next: `commands/agents.py` (who prints it), `inspect/find.py` (the same two sources).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams import kafka, topics
from sluicegate.streams.inspect.find import decode
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings

REASONS = ("unknown_agent", "misrouted")
"""Refusals that name an agent nobody may have registered."""

MAX_SEEN = 100_000
"""Ids kept while counting, about 300 bytes each: 30 MB. Whoever floods the topic with ids is seen by then."""

_UNTIL = "SELECT src_partition, toInt64(max(src_offset)) FROM `{database}`.events WHERE src_topic = 'outcomes' GROUP BY 1"
_SEEN = """
SELECT agent_id, toInt64(count()), toInt64(max(toUnixTimestamp64Micro(decided_at)))
FROM `{database}`.events FINAL
WHERE src_topic = 'outcomes' AND agent_id != '' AND reason IN {{reasons:Array(String)}}
    AND src_offset <= transform(src_partition, {{partitions:Array(UInt32)}}, {{offsets:Array(Int64)}}, toInt64(-1))
GROUP BY agent_id ORDER BY 3 DESC LIMIT {{limit:UInt32}}
"""


@dataclass(slots=True)
class Seen:
    """One agent id: how many records it sent, and when the last one was decided (microseconds)."""

    agent_id: str
    records: int = 0
    last_at: int = 0


async def unregistered(settings: Settings, registered: Collection[str]) -> tuple[list[Seen], str]:
    """Ids that are not `registered`, the latest first, and where they were looked up."""
    count = await topics.partitions_of(settings)
    found, until = await asyncio.to_thread(_from_clickhouse, settings)
    source = "clickhouse, kafka" if until else "kafka"
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=5))
    try:
        for stretch in await stretches(consumer, places(settings.space, "outcomes", range(count))):
            start = max(stretch.begin, until.get(stretch.place.partition, -1) + 1)
            async for batch in scan(consumer, stretch.place, start, stretch.end):
                for record in batch:
                    _count(found, stretch.place.partition, record.offset, record.value)
    finally:
        await consumer.stop()
    rows = [seen for agent_id, seen in found.items() if agent_id not in registered]
    return sorted(rows, key=lambda s: (-s.last_at, s.agent_id)), source


def _count(found: dict[str, Seen], partition: int, offset: int, value: bytes) -> None:
    if not any(reason.encode() in value for reason in REASONS):
        return
    header = decode(partition, offset, value).header
    if header.reason not in REASONS or not header.agent_id:
        return
    if header.agent_id in found or len(found) < MAX_SEEN:
        seen = found.setdefault(header.agent_id, Seen(header.agent_id))
        seen.records += 1
        seen.last_at = max(seen.last_at, header.decided_at)


def _from_clickhouse(settings: Settings) -> tuple[dict[str, Seen], Mapping[int, int]]:
    """What ClickHouse counted, and up to which offset of each partition; nothing when it does not answer."""
    from clickhouse_connect.driver.exceptions import Error
    from sluicegate.sinks.embedded import connect, database

    try:
        client, name = connect(settings), database(settings)
        until = {int(p): int(o) for p, o in client.query(_UNTIL.format(database=name)).result_rows}
        # Up to there exactly: what the sink adds between the two queries is counted from Kafka.
        bounds = {"reasons": list(REASONS), "partitions": list(until), "offsets": list(until.values()), "limit": MAX_SEEN}  # fmt: skip
        rows = client.query(_SEEN.format(database=name), bounds).result_rows
    except (SluicegateError, Error, OSError):
        return {}, {}
    return {str(a): Seen(str(a), int(n), int(at)) for a, n, at in rows}, until
