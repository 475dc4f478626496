"""The intents a partition remembers: open ones as records, ended ones packed, 61 bytes each.

A worker remembers hundreds of thousands of ended intents and looks at hardly any of them again, so they are rows of
byte arrays instead of objects: about 70 bytes an id where a table of objects takes 205. Behaves like a dictionary
key -> `OpenIntent` or `Ended`; the order of its keys says nothing. Never decides what is forgotten: `state.py` does.
Next: `ended.py` (what a row holds), `entries.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from sluicegate.processors.ended import PACKED_BYTES, Ended

if TYPE_CHECKING:
    from sluicegate.processors.entries import OpenIntent

KEY_BYTES = 16
ROW_BYTES = KEY_BYTES + PACKED_BYTES
BUCKETS = 4_096
"""By the first 12 bits of the key, which is a hash: 500 rows or 30 kB each at the most a partition remembers, searched
in some two microseconds."""


class Intents:
    """key, 16 bytes -> `OpenIntent` or `Ended`."""

    __hash__ = None  # type: ignore[assignment]
    # INVARIANT: it holds what a dictionary would hold (tests/properties/test_intents.py).
    __slots__ = ("_buckets", "_objects", "_rows")

    def __init__(self) -> None:
        self._objects: dict[bytes, OpenIntent | Ended] = {}
        """Open ones, and ended ones that do not fit a row: with words of another version, or redactions."""
        self._buckets: dict[int, bytearray] = {}
        self._rows = 0

    def get(self, key: bytes) -> OpenIntent | Ended | None:
        """What is remembered under a key, or None."""
        found = self._objects.get(key)
        if found is not None:
            return found
        bucket = self._buckets.get(key[0] << 4 | key[1] >> 4)
        if bucket is None:
            return None
        at = _find(bucket, key)
        return None if at < 0 else Ended.unpack(bytes(bucket[at + KEY_BYTES : at + ROW_BYTES]))

    def __getitem__(self, key: bytes) -> OpenIntent | Ended:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: bytes, entry: OpenIntent | Ended) -> None:
        if key not in self._objects:
            self._drop_row(key)
        if type(entry) is Ended and len(entry) == PACKED_BYTES:
            self._objects.pop(key, None)
            self._buckets.setdefault(key[0] << 4 | key[1] >> 4, bytearray()).extend(key + entry)
            self._rows += 1
        else:
            self._objects[key] = entry

    def __delitem__(self, key: bytes) -> None:
        if self._objects.pop(key, None) is None and not self._drop_row(key):
            raise KeyError(key)

    def _drop_row(self, key: bytes) -> bool:
        bucket = self._buckets.get(key[0] << 4 | key[1] >> 4)
        at = -1 if bucket is None else _find(bucket, key)
        if bucket is None or at < 0:
            return False
        del bucket[at : at + ROW_BYTES]
        self._rows -= 1
        return True

    def __contains__(self, key: bytes) -> bool:
        if key in self._objects:
            return True
        bucket = self._buckets.get(key[0] << 4 | key[1] >> 4)
        return bucket is not None and _find(bucket, key) >= 0

    def __len__(self) -> int:
        return len(self._objects) + self._rows

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Intents) and len(self) == len(other)
        return same and all(self[key] == cast(Intents, other).get(key) for key in self)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._objects
        for bucket in self._buckets.values():
            for at in range(0, len(bucket), ROW_BYTES):
                yield bytes(bucket[at : at + KEY_BYTES])

    def ordered(self) -> Iterator[tuple[bytes, OpenIntent | Ended]]:
        """All of them by key. In a third of the time that asking for each takes."""
        objects: dict[int, list[tuple[bytes, OpenIntent | Ended]]] = {}
        for key, entry in self._objects.items():
            objects.setdefault(key[0] << 4 | key[1] >> 4, []).append((key, entry))
        for number in sorted(self._buckets.keys() | objects.keys()):
            bucket = bytes(self._buckets.get(number, b""))
            found = objects.get(number, [])
            for at in range(0, len(bucket), ROW_BYTES):
                row = bucket[at : at + ROW_BYTES]
                found.append((row[:KEY_BYTES], Ended.unpack(row[KEY_BYTES:])))
            found.sort(key=itemgetter(0))
            yield from found

    def objects(self) -> list[OpenIntent | Ended]:
        """All open ones, and few ended ones among them."""
        return list(self._objects.values())

    def values(self) -> Iterator[OpenIntent | Ended]:
        """All of them."""
        return (self[key] for key in self)


def keys_in(row: bytes | bytearray) -> list[bytes]:
    """Keys that stand one after the other."""
    return [bytes(row[at : at + KEY_BYTES]) for at in range(0, len(row), KEY_BYTES)]


def _find(bucket: bytearray, key: bytes) -> int:
    """Where the key's row begins, or -1."""
    at = bucket.find(key)
    while at > 0 and at % ROW_BYTES:  # the same bytes across two rows
        at = bucket.find(key, at + 1)
    return at
