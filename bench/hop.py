"""The empty hop: consume, transact, produce four records, commit with the input offset. It decides nothing.

One process, a task and a transactional producer per partition, as the ledger has. `python -m bench.hop`.
"""

from __future__ import annotations

import asyncio
import os

import uvloop
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from sluicegate.streams import kafka

PARTITIONS = 4


async def lane(bootstrap: str, source: str, target: str, index: int) -> None:
    """One partition."""
    place = TopicPartition(source, index)
    producer = await kafka.connect(kafka.producer(bootstrap, transactional_id=f"{source}.{index}"))
    consumer = await kafka.connect(kafka.consumer(bootstrap, group=f"{source}.group", fetch_wait_ms=50))
    consumer.assign([place])
    await consumer.seek_to_beginning(place)
    while True:
        records = (await consumer.getmany(place, timeout_ms=500, max_records=500)).get(place, [])
        if not records:
            continue
        await producer.begin_transaction()
        batch = producer.create_batch()
        futures = []
        for record in records:
            for _ in range(4):
                if batch.append(key=record.key, value=record.value, timestamp=record.timestamp) is None:
                    futures.append(await producer.send_batch(batch, target, partition=index))
                    batch = producer.create_batch()
                    batch.append(key=record.key, value=record.value, timestamp=record.timestamp)
        futures.append(await producer.send_batch(batch, target, partition=index))
        for future in futures:
            await future
        offsets = {place: OffsetAndMetadata(records[-1].offset + 1, "")}
        await producer.send_offsets_to_transaction(offsets, f"{source}.group")
        await producer.commit_transaction()


async def main() -> None:
    """All partitions until killed."""
    env = os.environ
    await asyncio.gather(
        *(lane(env["BENCH_KAFKA"], env["BENCH_SOURCE"], env["BENCH_TARGET"], i) for i in range(PARTITIONS))
    )


if __name__ == "__main__":
    uvloop.run(main())
