"""Receipts on their way to Kafka: one idempotent producer a process, and nothing is given up.

A receipt is the only memory of what a call did, so one that could not be sent is sent again until Kafka has it; the
bounded number of waiting ones is what stops an executor from starting more calls. Twice is harmless: the ledger
notes the second. Never fenced: the truth of a zombie is still true.
Next: `calls.py` (who reports), `claim_log.py` (claims, which go through transactions instead).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from sluicegate.processors.jobs.jobs import PROGRESS
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Receipt
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import Headers, close_quietly, cloud_event

MAX_WAITING = 256
"""Receipts waiting for Kafka before an executor stops fetching; of 64 kB at most, so 16 MB."""
EAGER = 8
"""Receipts on their way before further ones are gathered: with few calls a receipt goes at once."""
GATHER_S = 0.003
"""For this long; at 1,500 calls a second five receipts then share a request, which costs the broker more than they do."""
RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
"""Pause before a new producer after one failed, doubled each time."""
CE_TYPE = b"ai.sluicegate.receipt"

Signer = Callable[[bytes], bytes]
"""Wraps a record's bytes into a signed envelope's bytes (`streams/role_keys.RoleSigner` in signed environments)."""


def packed(receipt: Receipt, source: bytes, signer: Signer | None, traceparent: str) -> tuple[bytes, Headers]:
    """A receipt's value and headers."""
    value = codec.encode(receipt)
    # The same report has the same id however often it is sent.
    seed = receipt.dispatch_id + receipt.kind.encode() + receipt.executor.encode()
    if receipt.kind == PROGRESS:  # of one call there may be many
        seed += receipt.finished_at.to_bytes(8, "big")
    headers = cloud_event(hashlib.sha256(seed).digest()[:16], source, CE_TYPE, traceparent)
    return (signer(value) if signer is not None else value), headers


@dataclass(slots=True, eq=False)
class _Letter:
    """One record on its way."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: Headers
    since: float = field(default_factory=time.monotonic)
    arrived: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Reports:
    """What this process has to say to Kafka outside of transactions."""

    def __init__(self, settings: Settings, *, max_waiting: int = MAX_WAITING) -> None:
        self.sent = 0
        self.retried = 0
        self._settings = settings
        self._max_waiting = max_waiting
        self._topic = full_name(settings.space, "receipts")
        self._dead = full_name(settings.space, "dead-letters")
        self._producer: AIOKafkaProducer | None = None
        self._letters: dict[_Letter, None] = {}
        self._gathered: list[_Letter] = []
        self._handing_over: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._replacing: asyncio.Task[None] | None = None
        self._log = logging.getLogger("sluicegate.executor")

    async def start(self) -> None:
        """Connect. Raises `Retryable` or `Terminal` when that is not possible now."""
        self._producer = await kafka.connect(kafka.producer(self._settings))

    async def stop(self, limit_s: float) -> int:
        """Wait for what is on its way, then let go. Returns how many receipts Kafka did not take."""
        waiting = [letter.arrived for letter in self._letters]
        if waiting:
            await asyncio.wait(waiting, timeout=limit_s)
        for task in (self._replacing, self._handing_over):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await close_quietly(self._producer)
        self._producer = None
        lost = len(self._letters)
        for letter in self._letters:
            letter.arrived.cancel()
        self._letters.clear()
        return lost

    @property
    def waiting(self) -> int:
        """Receipts that Kafka does not have yet."""
        return len(self._letters)

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return not self._room.is_set()

    @property
    def waited_s(self) -> float:
        """How long the oldest of them has waited."""
        oldest = next(iter(self._letters), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.since

    async def room(self) -> None:
        """Return when fewer than the bound wait."""
        await self._room.wait()

    async def send(self, partition: int, key: bytes, value: bytes, headers: Headers) -> None:
        """Return when Kafka has the receipt, however long that takes."""
        await self._post(_Letter(self._topic, partition, key, value, headers))

    async def send_dead_letter(self, key: bytes, value: bytes, headers: Headers) -> None:
        """The same for bytes that could not be read."""
        await self._post(_Letter(self._dead, 0, key, value, headers))

    async def _post(self, letter: _Letter) -> None:
        self._letters[letter] = None
        if len(self._letters) >= self._max_waiting:
            self._room.clear()
        if self._replacing is None:
            if len(self._letters) <= EAGER and not self._gathered:
                await self._hand_over(letter)
            else:
                self._gathered.append(letter)
                if self._handing_over is None or self._handing_over.done():
                    self._handing_over = asyncio.create_task(self._gather(), name="gather-receipts")
        await letter.arrived

    async def _gather(self) -> None:
        """Hand over what came together, in the order in which it came."""
        while self._gathered:
            await asyncio.sleep(GATHER_S)
            letters, self._gathered = self._gathered, []
            for letter in letters:
                if self._replacing is not None:
                    return  # the new producer gets every letter that waits
                await self._hand_over(letter)

    async def _hand_over(self, letter: _Letter) -> None:
        producer = self._producer
        if producer is None:
            return
        try:
            future = await producer.send(
                letter.topic,
                letter.value,
                key=letter.key,
                partition=letter.partition,
                headers=letter.headers,
            )
        except MessageSizeTooLargeError:
            # Results are bounded far below Kafka's limit: a defect here, and repeating it would never end.
            self._log.error(
                "alarm: a record of %d bytes is too large for `%s`", len(letter.value), letter.topic
            )
            self._done(letter)
            return
        except (KafkaError, AssertionError, OSError) as error:
            self._failed(producer, error)
            return
        future.add_done_callback(lambda done: self._answered(letter, producer, done))

    def _answered(self, letter: _Letter, producer: AIOKafkaProducer, future: asyncio.Future[object]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.sent += 1
            self._done(letter)
        elif letter in self._letters:
            self._failed(producer, None if future.cancelled() else future.exception())

    def _done(self, letter: _Letter) -> None:
        self._letters.pop(letter, None)
        if len(self._letters) < self._max_waiting:
            self._room.set()
        if not letter.arrived.done():
            letter.arrived.set_result(None)

    def _failed(self, producer: AIOKafkaProducer, error: BaseException | None) -> None:
        """After a failed batch aiokafka's sequence numbers have a hole, so the producer is replaced."""
        if producer is self._producer and self._replacing is None:
            self._log.warning("receipts wait, kafka did not take one: %s", error)
            self._replacing = asyncio.create_task(self._replace(), name="replace-receipts-producer")

    async def _replace(self) -> None:
        pause_s = RETRY_MIN_S
        old, self._producer = self._producer, None
        await close_quietly(old)
        while self._producer is None:
            try:
                self._producer = await kafka.connect(kafka.producer(self._settings))
            except (SluicegateError, KafkaError, OSError) as error:
                self._log.warning("receipts wait: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
        self._replacing = None
        self._gathered = []
        again = list(self._letters)
        self.retried += len(again)
        for letter in again:
            if letter in self._letters:
                await self._hand_over(letter)
