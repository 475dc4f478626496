"""Dead letters: what nobody could read, and how to try again.

A dead letter keeps the first 4 kB of a record and its whole length and hash. Only a complete one can be redriven: its
exact bytes go back to the topic and partition they came from, where the ledger decides them anew, as a new input.
Never changes or deletes a letter. Next: `commands/dead_letters.py`, `processors/intake.py` (who writes them).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable, Terminal, Unreadable
from sluicegate.schemas.records import DeadLetter
from sluicegate.schemas.topics import INPUTS, full_name
from sluicegate.streams import kafka
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 20
TOPIC = "dead-letters"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter and its own offset, by which commands name it."""

    offset: int
    letter: DeadLetter

    @property
    def place(self) -> str:
        """Where it came from."""
        return f"{self.letter.topic}/{self.letter.partition}/{self.letter.offset}"

    @property
    def obstacle(self) -> str:
        """Why it cannot be redriven, or an empty string."""
        letter = self.letter
        if letter.topic not in INPUTS:
            return f"`{letter.topic}` is no input topic"
        if len(letter.head) != letter.length:
            return f"only {len(letter.head):,} of its {letter.length:,} bytes were kept, ask its sender to send it again"
        if hashlib.sha256(letter.head).digest() != letter.sha256:
            return "its bytes do not give its hash, it was changed"
        return ""


async def read(settings: Settings, *, limit: int = 0) -> tuple[list[Letter], int]:
    """The letters (the newest `limit`, 0 for all), oldest first, and how many records of the topic are none."""
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    letters: list[Letter] = []
    strange = 0
    try:
        async for offset, value in _records(settings, consumer):
            try:
                letters.append(Letter(offset, codec.decode_as(DeadLetter, value)))
            except Unreadable:
                strange += 1
            if limit and len(letters) > limit:
                del letters[0]
    finally:
        await consumer.stop()
    return letters, strange


async def _records(settings: Settings, consumer: AIOKafkaConsumer) -> AsyncIterator[tuple[int, bytes]]:
    [stretch] = await stretches(consumer, places(settings.space, TOPIC, [0]))
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            yield record.offset, record.value or b""


def pick(letters: list[Letter], offsets: list[int]) -> list[Letter]:
    """The letters of these offsets. Raises `Terminal` for one that is not there."""
    by_offset = {letter.offset: letter for letter in letters}
    for offset in offsets:
        if offset not in by_offset:
            raise Terminal(f"there is no dead letter `{offset}`, see `sluicegate dead-letters list`")
    return [by_offset[offset] for offset in offsets]


async def redrive(settings: Settings, letters: list[Letter]) -> None:
    """Publish the original bytes again where they came from. Raises `Terminal` for one that is not complete."""
    for item in letters:
        if item.obstacle:
            raise Terminal(f"dead letter `{item.offset}` cannot be redriven: {item.obstacle}")
    producer = await kafka.connect(kafka.producer(settings))
    try:
        for item in letters:
            letter = item.letter
            await producer.send_and_wait(
                full_name(settings.space, letter.topic),
                letter.head,
                key=letter.key,
                partition=letter.partition,
            )
    except KafkaError as error:
        raise Retryable(f"the dead letter was not published: {error}, try again") from error
    finally:
        await producer.stop()
