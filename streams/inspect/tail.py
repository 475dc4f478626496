"""The newest outcomes, as they come: the last few of every partition, then what is appended.

Reads committed records only, so a line that was shown is never taken back. Never commits an offset.
Next: `commands/tail.py` (how a line looks), `inspect/status.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.inspect.find import LedgerEvent, decode
from sluicegate.streams.scan import Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 100
FIRST_LOOK = 64
"""Offsets looked back at first; eight times as many each time that was too few."""


async def newest(
    consumer: AIOKafkaConsumer, stretch: Stretch, count: int, agent: str = ""
) -> list[LedgerEvent]:
    """The last `count` records of a partition, of one agent if named, in order."""
    if count <= 0:
        return []
    back = max(FIRST_LOOK, 2 * count)
    while True:
        start = max(stretch.begin, stretch.end - back)
        found: list[LedgerEvent] = []
        async for batch in scan(consumer, stretch.place, start, stretch.end):
            events = [decode(stretch.place.partition, b.offset, b.value) for b in batch]
            found = [*found, *(e for e in events if agent in ("", e.header.agent_id))][-count:]
        if len(found) == count or start == stretch.begin:
            return found
        back *= 8


async def tail(
    settings: Settings, *, count: int = 20, agent: str = "", follow: bool = True
) -> AsyncIterator[LedgerEvent]:
    """The last `count` outcomes by time, then new ones until the caller stops."""
    partitions = await topics.partitions_of(settings)
    wanted = [partition_of(agent, partitions)] if agent else list(range(partitions))
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        parts = await stretches(consumer, places(settings.space, "outcomes", wanted))
        last = [e for s in parts for e in await newest(consumer, s, count, agent)]
        last.sort(key=lambda e: (e.header.decided_at, e.partition, e.offset))
        for event in last[-count:] if count > 0 else []:
            yield event
        if not follow:
            return
        consumer.assign([s.place for s in parts])
        for stretch in parts:
            consumer.resume(stretch.place)
            consumer.seek(stretch.place, stretch.end)
        while True:
            for place, batch in (await consumer.getmany(timeout_ms=FETCH_WAIT_MS)).items():
                for record in batch:
                    event = decode(place.partition, record.offset, record.value)
                    if agent in ("", event.header.agent_id):
                        yield event
    finally:
        await consumer.stop()
