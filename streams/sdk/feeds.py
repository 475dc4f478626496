"""Feeds: from records of topic `pieces` to whoever reads that answer. Next: `sdk/stream.py`, `sdk/assembly.py`.

Never waits and never does I/O: the transport calls `deliver` for each record of the agent's partition, which other agents share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import Piece

MAX_WAITING_BYTES = 262_144
"""Pieces of one stream that its reader has not taken: four answers of 64 kB."""
MAX_PIECE_BYTES = 32_768
"""A piece: 16 kB of text, and what is around it. Larger ones are nobody's."""


class Feed:
    """Pieces of one intent that wait for its reader."""

    def __init__(self) -> None:
        self.waiting: deque[Piece] = deque()
        self.arrived = asyncio.Event()
        self._bytes = 0

    def put(self, piece: Piece, size: int) -> None:
        """Take one in, or drop it: then there is a hole, which the reply fills."""
        if self._bytes + size <= MAX_WAITING_BYTES:
            self._bytes += size
            self.waiting.append(piece)
            self.arrived.set()

    def drain(self) -> list[Piece]:
        """All that wait."""
        found = list(self.waiting)
        self.waiting.clear()
        self.arrived.clear()
        self._bytes = 0
        return found


class Feeds:
    """Who reads which intent's pieces. Belongs to one event loop."""

    def __init__(self, agent_id: str) -> None:
        self._key = agent_id.encode()
        self._feeds: dict[str, Feed] = {}

    @contextmanager
    def of(self, intent_id: str) -> Iterator[Feed]:
        """Take this intent's pieces while the block runs."""
        feed = self._feeds[intent_id] = Feed()
        try:
            yield feed
        finally:
            if self._feeds.get(intent_id) is feed:
                del self._feeds[intent_id]

    def deliver(self, key: bytes | None, value: bytes) -> None:
        """Take one record of topic `pieces`. Never raises for its bytes; foreign ones are not even decoded."""
        if key != self._key or not self._feeds or len(value) > MAX_PIECE_BYTES:
            return
        try:
            piece = codec.decode_as(Piece, value)
        except Unreadable:
            return
        feed = self._feeds.get(piece.intent_id)
        if feed is not None:
            feed.put(piece, len(value))
