"""Send a person's word to the ledger, and wait for what became of it.

The review goes to the agent's partition of `reviews`, signed by the person's key where the environment is signed. What
is waited for is the ledger's own record of that input: nothing is taken for done that is not committed.
Never decides anything. Next: `processors/approval/reviews.py`, `processors/approval/resume.py`, `processors/jobs/resolve.py`,
`processors/sessions/scores.py`.
"""

from __future__ import annotations

import time
from pathlib import Path

from aiokafka import TopicPartition
from sluicegate.processors import lifecycle
from sluicegate.processors.control.control import Control
from sluicegate.schemas import codec, signing
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.records import Header, Resolution, Review, Score
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.inspect.find import LedgerEvent, decode
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.settings import Settings

REVIEWS, OUTCOMES = "reviews", "outcomes"

LIMIT_S = 30.0
"""For the ledger to record it: a worker that takes over a partition needs up to 10 s."""
FETCH_WAIT_MS = 50
GOES_ON = ("permitted", "validated", "waiting", "dispatched", "claimed")
"""Statuses after which a call has an end to wait for."""


async def send(
    settings: Settings,
    review: Review | Resolution | Score,
    *,
    key: Path | None = None,
    limit_s: float = LIMIT_S,
    follow_s: float = 0.0,
) -> list[LedgerEvent]:
    """Publish one review and return what the ledger recorded about it, in order.

    `key`: the person's key file; in a signed environment without one, the one of theirs in `<home>/keys` is used.
    `follow_s`: where a call goes on, also wait this long for its end, and return what it came to.
    A key that is not the reviewer's is a record too. Raises `Terminal` when a key is missing, `Retryable` when no worker
    recorded it in time.
    """
    value = await _packed(settings, review, key)
    index = partition_of(review.agent_id, await topics.partitions_of(settings))
    ledger = TopicPartition(full_name(settings.space, OUTCOMES), index)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        consumer.assign([ledger])
        consumer.seek(ledger, (await consumer.end_offsets([ledger]))[ledger])
        producer = await kafka.connect(kafka.producer(settings))
        try:
            sent = await producer.send_and_wait(
                full_name(settings.space, REVIEWS), value, key=review.agent_id.encode(), partition=index
            )
        finally:
            await producer.stop()
        deadline = time.monotonic() + limit_s
        found: list[LedgerEvent] = []
        while time.monotonic() < deadline:
            batch = (await consumer.getmany(ledger, timeout_ms=FETCH_WAIT_MS)).get(ledger, [])
            for event in [decode(index, record.offset, record.value) for record in batch]:
                h = event.header
                # One input's records are in one transaction, so they are read together.
                if (h.input_topic, h.input_offset) == (REVIEWS, sent.offset) or (found and _about(h, found)):
                    if not found:
                        deadline = time.monotonic() + follow_s
                    found.append(event)
            if found and found[-1].header.status not in GOES_ON:
                break
        if found:
            return found
        raise Retryable(
            f"the review was sent, but not recorded within {limit_s:.0f} s, start a worker: sluicegate worker --role ledger"
        )
    finally:
        await consumer.stop()


def _about(h: Header, found: list[LedgerEvent]) -> bool:
    """Whether a record is a further step of the same call."""
    first = found[0].header
    same = (h.intent_id, h.agent_id) == (first.intent_id, first.agent_id)
    return same and h.status != lifecycle.ATTACHED


async def _packed(settings: Settings, review: Review | Resolution | Score, key: Path | None) -> bytes:
    """The record's bytes, signed where the environment asks for it."""
    payload = codec.encode(review)
    if key is None:
        control = (await control_log.read(settings)).control
        if control.signing != "signed":
            return payload
        person = review.scorer if isinstance(review, Score) else review.reviewer
        key = _key_of(settings, control, person)
    mine = key_files.load(key)
    audience = f"{settings.env}/{REVIEWS}"
    return signing.sign(payload, mine.kid, "Ed25519", mine.secret, audience, time.time_ns() // 1000)


def _key_of(settings: Settings, control: Control, person: str) -> Path:
    """The newest valid key of a person that lies in this home."""
    now = time.time_ns() // 1000
    for key in reversed(control.keys.values()):
        path = key_files.default_path(settings.home, key.kid)
        mine = (key.principal, key.role) == (person, "person") and key.not_before <= now < key.not_after
        if mine and path.exists():
            return path
    raise Terminal(
        f"this environment takes signed reviews only, and no valid key of `{person[:80]}` lies here: give the key file "
        "with --key, or make one with `sluicegate keys new PERSON --role person`"
    )
