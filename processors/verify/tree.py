"""A partition's tree, grown again from its ledger, against every head that was signed and against the tiles.

    checkpoint   the root at each signed size is the signed one, no size has two roots, and none is beyond the ledger's end
    tiles        the hashes in the tiles are those of the ledger

A leaf is the header hash by which the next record names the one before, so one header changed in the middle, with all after it
made to fit, shows at the next head. Whose signature a head bears was checked before. Pure: tiles are read by a function that
is handed in. Next: `transparency/checkpoints.py` (who signs), `streams/verify/checkpoints.py` (where heads come from), `verify/partition.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sluicegate.processors.transparency.merkle import HASH_BYTES, joined
from sluicegate.processors.transparency.tiles import (
    HEIGHT,
    WIDTH,
    Read,
    Tile,
    TileFault,
    check,
    fold,
    tile_at,
)

FULL = WIDTH * HASH_BYTES
"""Bytes of a whole tile."""

Bad = Callable[[str, int, str], None]
"""(invariant, seq, sentence)."""


class Head(NamedTuple):
    """A head somebody holds the ledger to: how many events, their root, and who has it, in words."""

    size: int
    root: bytes
    where: str


class Tree:
    """The tree of one partition. Who feeds it appends to `leaves` and calls `turn` when they are `stop` bytes long.

    `kept`: size of the tree that `read` has the tiles of.

    Attributes:
        leaves: hashes of the tile that is being filled.
        compared: heads whose root was looked at.
    """

    def __init__(self, bad: Bad, heads: Iterable[Head] = (), kept: int = 0, read: Read | None = None) -> None:
        self.leaves = bytearray()
        self.compared = 0
        self.tiles = 0
        self._bad, self._read, self._kept = bad, read, kept if read is not None else 0
        self._heads = sorted(heads, reverse=True)
        self._rows = [self.leaves]
        self._good = 0
        self.stop = FULL
        self._compare_all(0)
        self._aim()

    @property
    def size(self) -> int:
        """Leaves so far."""
        return sum(len(row) // HASH_BYTES << HEIGHT * level for level, row in enumerate(self._rows))

    def _aim(self) -> None:
        """Where to look next: at a head, the end of the tiles, or the end of this one."""
        start = self.size - len(self.leaves) // HASH_BYTES
        wanted = [head.size for head in self._heads[-1:]] + [self._kept]
        ahead = [size - start for size in wanted if size - start > len(self.leaves) // HASH_BYTES]
        self.stop = min(FULL, *(n * HASH_BYTES for n in ahead)) if ahead else FULL

    def turn(self) -> None:
        """Compare what ends here."""
        size = self.size
        self._compare_all(size)
        if len(self.leaves) == FULL:
            self._fill(0, size)
        if size == self._kept:
            self._partial(size)
        self._aim()

    def _compare_all(self, size: int) -> None:
        while self._heads and self._heads[-1].size <= size:
            self._compare(self._heads.pop(), size)

    def _compare(self, head: Head, size: int) -> None:
        self.compared += 1
        # INVARIANT: no rewritten event is behind a head that somebody kept (tests/unit/test_mutations.py).
        if head.size == size and head.root == self._root():
            self._good = size
        else:
            self._bad(
                "checkpoint", self._good,
                f"{head.where} says another root of the first {head.size} events: one of seq {self._good} to "
                f"{head.size - 1} was changed, or the log was forked",
            )  # fmt: skip

    def _root(self) -> bytes:
        nodes: list[bytes] = []
        for row in reversed(self._rows):
            width, start = len(row) // HASH_BYTES, 0
            for inner in reversed(range(HEIGHT + 1)):
                if width >> inner & 1:
                    nodes.append(fold(bytes(row), start, 1 << inner))
                    start += 1 << inner
        return joined(nodes)

    def _fill(self, level: int, size: int) -> None:
        """A tile is full: compare it, and go on above."""
        row = self._rows[level]
        data = bytes(row)
        self._tile(Tile(level, (size >> HEIGHT * (level + 1)) - 1), data)
        row.clear()
        if level + 1 == len(self._rows):
            self._rows.append(bytearray())
        self._rows[level + 1] += fold(data)
        if len(self._rows[level + 1]) == FULL:
            self._fill(level + 1, size)

    def _partial(self, size: int) -> None:
        """The tiles that the kept tree ends in."""
        for level, row in enumerate(self._rows):
            if row and len(row) < FULL:
                self._tile(tile_at(level, (size >> HEIGHT * level) // WIDTH, size), bytes(row))

    def _tile(self, tile: Tile, data: bytes) -> None:
        start = tile.n * WIDTH << HEIGHT * tile.level
        if self._read is None or start + (tile.width << HEIGHT * tile.level) > self._kept:
            return
        self.tiles += 1
        try:
            kept = check(tile, self._read(tile))
        except TileFault as error:
            self._bad("tiles", start, str(error))
            return
        if kept != data:
            at = next(i for i in range(tile.width) if kept[i * HASH_BYTES :][:HASH_BYTES] != data[i * HASH_BYTES :][:HASH_BYTES])  # fmt: skip
            self._bad(
                "tiles",
                start + (at << HEIGHT * tile.level),
                f"tile `{tile.path}` has another hash than the ledger",
            )

    def close(self, seq: int) -> None:
        """The ledger ends before `seq`."""
        for head in reversed(self._heads):
            if head.size > seq:
                self._bad(
                    "checkpoint",
                    seq,
                    f"{head.where} is of {head.size} events, the ledger ends after {seq}: its tail was cut off",
                )
                break
        if self._kept > seq and self._read is not None:
            self._bad("tiles", seq, f"the tiles hold {self._kept} events, the ledger ends after {seq}")
