"""Send a person's word to the ledger, and wait for what became of it.

The review goes to the agent's partition of `reviews`, signed by the person's key where the environment is signed. What
is waited for is the ledger's own record of that input: nothing is taken for done that is not committed.
Never decides anything. Next: `processors/reviews.py`, `processors/resume.py`, `processors/resolve.py`.
"""

from __future__ import annotations

import time
from pathlib import Path

from aiokafka import TopicPartition
from sluicegate.schemas import codec, signing
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.records import Resolution, Review
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import control_log, kafka, key_files, topics
from sluicegate.streams.find import LedgerEvent, decode
from sluicegate.streams.settings import Settings

REVIEWS, OUTCOMES = "reviews", "outcomes"

LIMIT_S = 30.0
"""For the ledger to record it: a worker that takes over a partition needs up to 10 s."""
FETCH_WAIT_MS = 50


async def send(
    settings: Settings, review: Review | Resolution, *, key: Path | None = None, limit_s: float = LIMIT_S
) -> list[LedgerEvent]:
    """Publish one review and return what the ledger recorded about it, in order.

    A key that is not the reviewer's is a record too. Raises `Terminal` when a key is missing, `Retryable` when no worker recorded it in time.
    """
    value = await _packed(settings, review, key)
    index = partition_of(review.agent_id, await topics.partitions_of(settings))
    ledger = TopicPartition(full_name(settings.env, OUTCOMES), index)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        consumer.assign([ledger])
        consumer.seek(ledger, (await consumer.end_offsets([ledger]))[ledger])
        producer = await kafka.connect(kafka.producer(settings))
        try:
            sent = await producer.send_and_wait(
                full_name(settings.env, REVIEWS), value, key=review.agent_id.encode(), partition=index
            )
        finally:
            await producer.stop()
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            batch = (await consumer.getmany(ledger, timeout_ms=FETCH_WAIT_MS)).get(ledger, [])
            events = [decode(index, record.offset, record.value) for record in batch]
            # One input's records are in one transaction, so they are read together.
            mine = [
                e for e in events if (e.header.input_topic, e.header.input_offset) == (REVIEWS, sent.offset)
            ]
            if mine:
                return mine
        raise Retryable(
            f"the review was sent, but not recorded within {limit_s:.0f} s, start a worker: sluicegate worker --role ledger"
        )
    finally:
        await consumer.stop()


async def _packed(settings: Settings, review: Review | Resolution, key: Path | None) -> bytes:
    """The record's bytes, signed where the environment asks for it."""
    payload = codec.encode(review)
    if key is None:
        if (await control_log.read(settings)).control.signing == "signed":
            raise Terminal("this environment takes signed reviews only, give your key file with --key")
        return payload
    mine = key_files.load(key)
    audience = f"{settings.env}/{REVIEWS}"
    return signing.sign(payload, mine.kid, "Ed25519", mine.secret, audience, time.time_ns() // 1000)
