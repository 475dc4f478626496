"""The outlet: pieces of an answer on their way to whoever asked, over topic `pieces`, while the answer is still made.

Not transactional and not on the ledger: a piece that is lost, late or doubled costs its reader some waiting, never a wrong answer,
because the reply brings the whole of it (`streams/sdk/assembly.py`). So nothing here is ever repeated, nothing makes a call wait, and
without Kafka or without the topic an answer is simply not streamed. What comes while a piece is on its way goes into the next one.
Next: `model_stream.py` (who writes), docs/decisions/0021.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Dispatch, Piece
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import close_quietly, cloud_event

PIECE_CHARS = 4_096
"""Of one piece; at most four bytes each, so 16 kB."""
FREE_PIECES, LATER_CHARS = 1_000, 256
"""After so many pieces of a message the next ones wait for so much: a message of 64 kB has 1,256 pieces at most, and one for each tool call."""
MAX_PIECES = 4_096
"""Of one message, whatever it is made of; then it goes on without being shown."""
SEND_LIMIT_S = 5.0
"""A piece that Kafka does not take for so long ends the showing of its message."""
FLUSH_LIMIT_S = 1.0
"""At the end of an answer: its receipt waits no longer for its pieces."""
START_LIMIT_S = 5.0
RETRY_S = 5.0
"""Before a new producer after one failed; what comes meanwhile is not shown."""
NAME_BYTES = 8
CE_TYPE = b"ai.sluicegate.piece"

Send = Callable[[Piece], "asyncio.Future[object] | None"]


class Message(Protocol):
    """One answer being shown. Nothing here waits but `close`."""

    name: str
    pieces: int

    def start(self, model: str) -> None:
        """The first piece: which model answers."""

    def text(self, text: str) -> None:
        """More of the text."""

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """More of a tool call."""

    async def close(self, digest: bytes) -> None:
        """Let what waits go. `digest`: of the whole message; empty when it broke off, which no piece says."""

    def abandon(self) -> None:
        """Drop what waits."""


class Outlet(Protocol):
    """Where messages are begun."""

    def open(self, dispatch: Dispatch) -> Message | None:
        """A message of its own for this attempt; None when nothing can be shown now."""


class KafkaOutlet:
    """`Outlet` on topic `pieces`; one producer a process. Make it inside the event loop that uses it."""

    def __init__(self, settings: Settings, name: str, clock: Callable[[], int]) -> None:
        self._settings, self._clock = settings, clock
        self._source = f"/{settings.env}/executors/{name}".encode()
        self._topic = full_name(settings.space, "pieces")
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._log = logging.getLogger("sluicegate.executor")

    async def start(self) -> None:
        """Connect, for a while; without it answers are not shown."""
        self._connecting = asyncio.create_task(self._connect(0.0), name="pieces-producer")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_LIMIT_S):
                await self._tried.wait()

    async def stop(self) -> None:
        """Let go."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        producer, self._producer = self._producer, None
        await close_quietly(producer)

    def open(self, dispatch: Dispatch) -> Message | None:
        """See `Outlet`."""
        return KafkaMessage(dispatch, self._send, self._clock) if self._producer is not None else None

    async def _connect(self, pause_s: float) -> None:
        while self._producer is None:
            await asyncio.sleep(pause_s)
            pause_s = RETRY_S
            try:
                producer = await kafka.connect(kafka.producer(self._settings))
                try:
                    async with asyncio.timeout(START_LIMIT_S):
                        await kafka.known(producer.client, self._topic)
                except BaseException:
                    await close_quietly(producer)
                    raise
            except (SluicegateError, KafkaError, TimeoutError, OSError) as error:
                why = str(error) or type(error).__name__
                self._log.warning("answers are not streamed, topic `%s` is not there: %s", self._topic, why)
            else:
                self._producer = producer
            self._tried.set()

    async def _send(self, pieces: list[Piece]) -> None:
        """Return when Kafka has them. Raises for any trouble, and then begins anew."""
        producer = self._producer
        if producer is None:
            raise TimeoutError("no producer")
        try:
            async with asyncio.timeout(SEND_LIMIT_S):
                sent = []
                for piece in pieces:
                    headers = cloud_event(
                        piece.dispatch_id[:8] + piece.number.to_bytes(8, "big"), self._source, CE_TYPE
                    )
                    sent.append(
                        await producer.send(
                            self._topic, codec.encode(piece), key=piece.agent_id.encode(), headers=headers
                        )
                    )
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError, AssertionError, OSError) as error:
            if producer is self._producer:  # after a failed batch its sequence numbers have a hole
                self._log.warning("answers are not streamed, kafka did not take a piece: %r", error)
                self._producer = None
                self._connecting = asyncio.create_task(self._replace(producer), name="pieces-producer")
            raise

    async def _replace(self, old: AIOKafkaProducer) -> None:
        await close_quietly(old)
        await self._connect(RETRY_S)


class KafkaMessage:
    """One message: what waits is gathered while a batch is on its way. `send` takes a few pieces to Kafka, in order."""

    def __init__(
        self, dispatch: Dispatch, send: Callable[[list[Piece]], object], clock: Callable[[], int]
    ) -> None:
        self.name = os.urandom(NAME_BYTES).hex()
        self.pieces = 0
        self._dispatch, self._send, self._clock = dispatch, send, clock
        self._waiting: deque[Piece] = deque()
        self._waiting_chars = 0
        self._sending: asyncio.Task[None] | None = None
        self._lost = self._last = False

    def start(self, model: str) -> None:
        """See `Message`."""
        self._put(self._piece("start", model=model, replaces=self._dispatch.replaces))

    def text(self, text: str) -> None:
        """See `Message`."""
        for at in range(0, len(text), PIECE_CHARS):
            self._put(self._piece("text", text=text[at : at + PIECE_CHARS]))

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """See `Message`."""
        self._put(self._piece("call", index=index, call_id=call_id, name=name, text=arguments[:PIECE_CHARS]))
        for at in range(PIECE_CHARS, len(arguments), PIECE_CHARS):
            self._put(self._piece("call", index=index, text=arguments[at : at + PIECE_CHARS]))

    async def close(self, digest: bytes) -> None:
        """See `Message`."""
        if digest:
            self._put(self._piece("end", digest=digest))
        self._last = True
        self._go()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=FLUSH_LIMIT_S)
        self.abandon()

    def abandon(self) -> None:
        """See `Message`."""
        self._lost = True
        self._waiting.clear()
        if self._sending is not None:
            self._sending.cancel()

    def _piece(self, kind: str, **more: object) -> Piece:
        d = self._dispatch
        return Piece(
            d.dispatch_id, d.intent_id, d.agent_id, d.session_id, d.attempt, self.name, 0, kind, 0, d.stream,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip

    def _put(self, piece: Piece) -> None:
        if self._lost:
            return
        self._waiting_chars += len(piece.text)
        last = self._waiting[-1] if self._waiting else None
        if last is not None and _goes_into(piece, last):
            last.text += piece.text
        else:
            self._waiting.append(piece)
        self._go()

    def _go(self) -> None:
        enough = self.pieces < FREE_PIECES or self._waiting_chars >= LATER_CHARS or self._last
        if self._waiting and enough and (self._sending is None or self._sending.done()) and not self._lost:
            self._sending = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._waiting and not self._lost:
            if self.pieces >= FREE_PIECES and self._waiting_chars < LATER_CHARS and not self._last:
                return
            batch = list(self._waiting)
            self._waiting.clear()
            self._waiting_chars = 0
            for piece in batch:
                piece.number, piece.at = self.pieces, self._clock()
                self.pieces += 1
            if self.pieces > MAX_PIECES:
                self._lost = True
                return
            try:
                await self._send(batch)  # type: ignore[misc]
            except (KafkaError, TimeoutError, AssertionError, OSError):
                self._lost = True
                return
            except Exception as error:  # a defect here must not end a call
                self._lost = True
                logging.getLogger("sluicegate.executor").error("alarm: a piece could not be sent: %r", error)
                return


def _goes_into(piece: Piece, last: Piece) -> bool:
    """Whether one piece says what two would."""
    same = piece.kind in ("text", "call") and piece.kind == last.kind and piece.index == last.index
    return same and not piece.name and not piece.call_id and len(last.text) + len(piece.text) <= PIECE_CHARS
