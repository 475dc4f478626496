"""What came for a generation after it was sealed, handed on to the next: the same bytes under the same keys.

A record may be handed on twice, by a run that was killed: it is told by its own id, as any record that is sent again. Transfers
stay behind: a generation is sealed when none is on its way. Next: `repartition/repartition.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sluicegate.processors.state import PartitionState
from sluicegate.schemas.topics import full_name, partition_of, space_of
from sluicegate.streams import kafka
from sluicegate.streams.scan import FETCH_WAIT_MS, places, scan, stretches
from sluicegate.streams.settings import Settings

CARRIED = ("messages", "receipts", "reviews", "intents")


async def carry(settings: Settings, there: Settings, old: int, states: Sequence[PartitionState]) -> int:
    """Hand on what stands behind the last positions of the old partitions. Returns how many records."""
    count, space = 0, space_of(settings.env, old)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        producer = await kafka.connect(kafka.producer(settings))
        try:
            for topic in CARRIED:
                name = full_name(there.space, topic)
                await kafka.known(producer.client, name)
                for state in states:
                    [stretch] = await stretches(consumer, places(space, topic, [state.partition]))
                    start = max(stretch.begin, state.positions.get(topic, 0))
                    async for batch in scan(consumer, stretch.place, start, stretch.end):
                        sent = [
                            await producer.send(
                                name, record.value, key=record.key, headers=list(record.headers),
                                partition=partition_of((record.key or b"").decode(errors="replace"), there.partitions),
                            )
                            for record in batch
                        ]  # fmt: skip
                        await asyncio.gather(*sent)
                        count += len(sent)
        finally:
            await producer.stop()
    finally:
        await consumer.stop()
    return count
