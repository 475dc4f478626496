"""A file for sessions that rest: one a partition, without a name, gone with the process. Recovery fills it again.

Bytes are appended and read by position; what was dropped is a hole until half of the file is holes, then the rest is
written anew. A read is a few microseconds from the page cache. Never shared, never synced: nothing in it is
worth anything after a crash. Next: `processors/sessions/resting.py`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import cast

COMPACT_BYTES = 16 * 1024 * 1024
"""Below this holes do not matter."""


class Spot:
    """Where one session's bytes are; moved when the file is written anew."""

    __slots__ = ("at", "size")

    def __init__(self, at: int, size: int) -> None:
        self.at, self.size = at, size


class RestingFile:
    """See `processors/resting.Store`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._file = _nameless(folder)
        self._end = self._holes = 0
        self._spots: set[Spot] = set()

    def put(self, packed: bytes) -> object:
        """Append; where the disk takes no more the bytes stay in memory, and are their own handle."""
        # INVARIANT: a full disk loses no session and stops no decision (tests/properties/test_resting.py).
        if not self._written(packed):
            return packed
        spot = Spot(self._end, len(packed))
        self._spots.add(spot)
        self._end += len(packed)
        return spot

    def _written(self, packed: bytes) -> bool:
        try:
            return os.pwrite(self._file, packed, self._end) == len(packed)
        except OSError:
            return False

    def get(self, handle: object) -> bytes:
        """Read."""
        if isinstance(handle, bytes):
            return handle
        spot = cast(Spot, handle)
        return os.pread(self._file, spot.size, spot.at)

    def drop(self, handle: object) -> None:
        """Leave a hole; write the file anew when half of it is holes."""
        if isinstance(handle, bytes):
            return
        spot = cast(Spot, handle)
        self._spots.discard(spot)
        self._holes += spot.size
        if self._end > COMPACT_BYTES and self._holes * 2 > self._end:
            self._compact()

    def _compact(self) -> None:
        """The old file stands until the new one is whole; on a full disk it goes on standing."""
        old, end, holes = self._file, self._end, self._holes
        try:
            self._file = _nameless(self._folder)
        except OSError:
            return
        self._end, moved = 0, []
        for spot in self._spots:
            if not self._written(os.pread(old, spot.size, spot.at)):
                os.close(self._file)
                self._file, self._end, self._holes = old, end, holes
                return
            moved.append((spot, self._end))
            self._end += spot.size
        for spot, at in moved:
            spot.at = at
        self._holes = 0
        os.close(old)

    def __del__(self) -> None:
        """The state that used it is gone."""
        os.close(self._file)


def _nameless(folder: Path) -> int:
    """A file that only this process sees."""
    handle, path = tempfile.mkstemp(dir=folder)
    Path(path).unlink()
    return handle
