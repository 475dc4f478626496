"""C2SP tlog-tiles: how a tree's hashes are cut into files of 256, their names, and nodes read back from them.

A tile at level L holds hashes of complete subtrees of 256^L leaves; levels in between are hashed from it. The last
tile of a level is partial and has its width in its name. Layout: https://c2sp.org/tlog-tiles. Never opens a file: who
keeps the bytes passes a function. Next: `transparency/merkle.py` (proofs), `streams/transparency/tile_store.py` (who keeps them).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sluicegate.processors.transparency.merkle import HASH_BYTES, Frontier
from sluicegate.schemas.errors import Terminal

WIDTH = 256
HEIGHT = 8
"""Tree levels of one tile: 2^8 = 256."""
_PAIR = 2 * HASH_BYTES
_sha256 = hashlib.sha256
# 8 levels of 8 are 2^64 leaves.
_PATH = re.compile(r"tile/([0-7])/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?")


class TileFault(Terminal):
    """A tile that is not what its place in the tree says."""


class Tile(NamedTuple):
    """One tile's place: the `n`-th of its level. `width` is 256 for a full one."""

    level: int
    n: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """`tile/0/x001/x234/067`, with `.p/17` behind it where it is partial."""
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{self.level}/{number(self.n)}{partial}"

    @property
    def size(self) -> int:
        """Bytes."""
        return self.width * HASH_BYTES


Read = Callable[[Tile], bytes]
"""A tile's bytes; a longer tile of the same place (a full one instead of a partial one) is as good."""


def number(index: int) -> str:
    """1234067 -> `x001/x234/067`."""
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def entries_path(index: int, width: int = WIDTH) -> str:
    """Where the entry bundle beside a tile of level 0 is."""
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/entries/{number(index)}{partial}"


def parse(path: str) -> Tile | None:
    """The place that a path names, or None."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    index = int(found[2].replace("x", "").replace("/", ""))
    tile = Tile(int(found[1]), index, int(found[3]) if found[3] else WIDTH)
    return tile if tile.path == path else None


def tile_at(level: int, index: int, size: int) -> Tile:
    """The tile of that place in a tree of `size` leaves; partial where the tree ends in it."""
    return Tile(level, index, min(WIDTH, (size >> HEIGHT * level) - index * WIDTH))


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """The tiles that a tree has at `new` leaves and did not have at `old`, the lowest level first."""
    level = 0
    while (count := new >> HEIGHT * level) > 0:
        before = old >> HEIGHT * level
        if count != before:
            for index in range(before // WIDTH, (count + WIDTH - 1) // WIDTH):
                yield tile_at(level, index, new)
        level += 1


def check(tile: Tile, data: bytes) -> bytes:
    """The tile's own bytes, of `data` that may be a longer one. Raises `TileFault` where it is too short."""
    if len(data) % HASH_BYTES or not tile.size <= len(data) <= WIDTH * HASH_BYTES:
        raise TileFault(
            f"tile `{tile.path}` is truncated or damaged: {len(data)} bytes where {tile.width} hashes are {tile.size}, "
            "restore it from a copy, or remove the log's folder and let `checkpointer` build it again from the ledger"
        )
    return data[: tile.size]


def fold(data: bytes, start: int = 0, count: int = WIDTH) -> bytes:
    """The hash over `count` (a power of two) hashes of a tile, from the `start`-th on."""
    row = data[start * HASH_BYTES : (start + count) * HASH_BYTES]
    while len(row) > HASH_BYTES:
        row = b"".join([_sha256(b"\x01" + row[i : i + _PAIR]).digest() for i in range(0, len(row), _PAIR)])
    return row


MAX_KEPT = 1_024
"""Tiles that a reader keeps, 8 MB: a proof touches about ten."""


class TileNodes:
    """`merkle.Node` over the tiles of a tree of `size` leaves. Keeps what it read last."""

    def __init__(self, size: int, read: Read) -> None:
        self.size = size
        self._read = read
        self._tiles: dict[Tile, bytes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree. Raises `TileFault`."""
        inner = level % HEIGHT
        first = index << inner
        place = tile_at(level // HEIGHT, first // WIDTH, self.size)
        if (index + 1) << level > self.size:
            raise ValueError(f"a tree of {self.size} leaves has no complete subtree {index} at level {level}")
        data = self._tiles.get(place)
        if data is None:
            if len(self._tiles) == MAX_KEPT:
                del self._tiles[next(iter(self._tiles))]
            data = self._tiles[place] = check(place, self._read(place))
        return fold(data, first % WIDTH, 1 << inner)


def check_all(size: int, read: Read) -> Iterator[Tile]:
    """Every tile of a tree of `size` leaves, each checked against the one above. Raises `TileFault` at the first that is wrong.

    With the root led back to by `merkle.root_at`, no hash in any tile can have been changed.
    """
    above: tuple[Tile, bytes] | None = None
    for tile in tiles_between(0, size):
        data = check(tile, read(tile))
        if tile.width == WIDTH:
            parent = tile_at(tile.level + 1, tile.n // WIDTH, size)
            if above is None or above[0] != parent:
                above = parent, check(parent, read(parent))
            at = tile.n % WIDTH * HASH_BYTES
            if fold(data) != above[1][at : at + HASH_BYTES]:
                raise TileFault(
                    f"tile `{tile.path}` was changed: its hash is not the one in `{parent.path}` above it"
                )
        yield tile


class TileWriter:
    """The open ends of every level: takes leaf hashes, gives the tiles that changed.

    Attributes:
        size: leaves so far.
    """

    def __init__(self, size: int = 0, read: Read | None = None) -> None:
        """Go on at `size`, from the partial tiles that `read` has. Raises `TileFault`."""
        self.size = size
        self._open: list[bytearray] = []
        self._full: list[tuple[Tile, bytes]] = []
        level = 0
        while (count := size >> HEIGHT * level) > 0:
            tile = tile_at(level, count // WIDTH, size)
            partial = bytearray()
            if count % WIDTH:
                if read is None:
                    raise ValueError(f"a tree of {size} leaves goes on from its tiles")
                partial += check(tile, read(tile))
            self._open.append(partial)
            level += 1
        self._published = size

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend([leaf])

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add leaf hashes."""
        if not leaves:
            return
        if not self._open:
            self._open.append(bytearray())
        at, bottom = 0, self._open[0]
        while at < len(leaves):
            room = WIDTH - len(bottom) // HASH_BYTES
            some = leaves[at : at + room]
            bottom += b"".join(some)
            at, self.size = at + len(some), self.size + len(some)
            if len(some) == room:
                self._close(0)

    def _close(self, level: int) -> None:
        """A tile is full: it is to be written, and its hash goes into the level above."""
        data = bytes(self._open[level])
        self._open[level].clear()
        self._full.append((Tile(level, (self.size >> HEIGHT * (level + 1)) - 1), data))
        if level + 1 == len(self._open):
            self._open.append(bytearray())
        above = self._open[level + 1]
        above += fold(data)
        if len(above) == WIDTH * HASH_BYTES:
            self._close(level + 1)

    def changed(self) -> list[tuple[Tile, bytes]]:
        """The tiles to write for the tree as it is now, until `settled` says that they are written."""
        partial = [
            (tile, bytes(self._open[tile.level]))
            for tile in tiles_between(self._published, self.size)
            if tile.width < WIDTH
        ]
        return self._full + partial

    def settled(self) -> None:
        """What `changed` gave is written."""
        self._full, self._published = [], self.size

    def frontier(self) -> Frontier:
        """The right edge, from the open tiles alone."""
        nodes: list[bytes] = []
        for level in reversed(range(len(self._open))):
            data, start = self._open[level], 0
            width = len(data) // HASH_BYTES
            for inner in reversed(range(HEIGHT)):
                if width >> inner & 1:
                    nodes.append(fold(bytes(data), start, 1 << inner))
                    start += 1 << inner
        return Frontier(self.size, nodes)

    def root(self) -> bytes:
        """The tree's root hash."""
        return self.frontier().root()
