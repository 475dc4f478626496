"""A release put together from the chunks in which its bytes stand on the topic `releases`. One way for all who read that topic.

Whoever published it twice may have cut it differently, so each cut is put together apart; and chunks of a publication that
ended half-way may lie there for ever, so what is kept is bounded. Never says whether the bytes are what their digest says: that
is `streams/control/releases.py::unpack`, next.
"""

from __future__ import annotations

from sluicegate.processors.releases.file import MAX_PACKED_BYTES
from sluicegate.schemas.records import ReleaseChunk

MAX_PARTS = MAX_PACKED_BYTES // 1024
"""Of one release: none is cut into smaller parts than 1 kB."""


class Assembly:
    """Releases of which parts are missing, the one that was begun last at the end: together no more than one may have."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], dict[int, bytes]] = {}
        self._bytes = 0

    def add(self, chunk: ReleaseChunk) -> bytes | None:
        """The whole bytes when no part is missing now. A later publication's part stands for an earlier one's."""
        if not 0 <= chunk.index < chunk.count <= MAX_PARTS:
            return None
        key = chunk.digest, chunk.count
        parts = self._parts.setdefault(key, {})
        self._bytes += len(chunk.data) - len(parts.get(chunk.index, b""))
        parts[chunk.index] = chunk.data
        # INVARIANT: chunks that nobody completes take no more than one release may have (tests/unit/test_release_assembly.py).
        while self._bytes > MAX_PACKED_BYTES and len(self._parts) > 1:
            self._drop(next(iter(self._parts)))
        return b"".join(parts[i] for i in range(chunk.count)) if len(parts) == chunk.count else None

    def forget(self, digest: str) -> None:
        """It is whole: no cut of it is needed any more."""
        for key in [key for key in self._parts if key[0] == digest]:
            self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        self._bytes -= sum(map(len, self._parts.pop(key).values()))
