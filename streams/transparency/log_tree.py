"""One log's tree on its way: records of the ledger in, tiles and signed heads out.

The order of one checkpoint; the numbers are used in comments, tests and docs.
1. *Tiles* of the new tree are durable.
2. *Sign* its head.
3. *Keep* the note in the store: what was signed is never forgotten, so no other head of that size is ever signed.
4. Only now is it shown to anyone: to witnesses, then to the topic (`transparency/checkpointer.py`).
Killed after 1 or 2: the tree is at the older note, and the same leaves lead to the same tiles. After 3: the note is shown.
Before anything is signed the tree is led back to the last note, its leaves to the ledger, and the ledger to what was
published. Never reads Kafka. Next: `transparency/tile_store.py`, `transparency/checkpointer.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sluicegate.processors.outcomes import HEADER_VERSION, ZERO_HASH, header_hash
from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.checkpoints import Checkpoint, CheckpointFault, LogKey, Signed
from sluicegate.processors.transparency.tiles import WIDTH, TileFault, TileNodes, TileWriter
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.notes import Signer
from sluicegate.streams.failpoints import hit
from sluicegate.streams.transparency.tile_store import CHECKPOINT, POSITION, TileStore, folder_of, reader

_PREFIX = codec.schema_of(r.Header).prefix
_sha256 = hashlib.sha256
_PAGE = 1 << 13
_LOW = [codec.encode_long(_PAGE + n)[:2] for n in range(_PAGE)]
"""The first two bytes of every `seq` from 8,192 on, by its last 13 bits: 300 kB, for a third of a microsecond an event."""


@lru_cache(maxsize=64)
def _high(page: int) -> bytes:
    return codec.encode_long(page * _PAGE)[2:]


def _seq(value: int) -> bytes:
    """`codec.encode_long`."""
    if value < _PAGE:
        return codec.encode_long(value)
    return _LOW[value & _PAGE - 1] + _high(value >> 13)


@dataclass(frozen=True, slots=True)
class Head:
    """A head that was shown to others, and that this log has to stand by."""

    size: int
    root: bytes


class LogTree:
    """The tree of one partition.

    Attributes:
        signed: the last note of ours, or None.
        offset: Kafka offset of the last leaf, -1 where there is none: reading begins there, so that it is checked.
    """

    def __init__(self, store: TileStore, env: str, log_id: bytes, partition: int) -> None:
        self.origin = checkpoints.origin_of(env, log_id, partition)
        self.partition = partition
        self.signed: Signed | None = None
        self.offset = -1
        self._log_id, self._index = log_id, max(0, partition)  # control's headers say 0
        self._store, self._folder = store, folder_of(self.origin)
        self._read = reader(store, self.origin)
        self._writer = TileWriter()
        self._nodes = TileNodes(0, self._read)
        self._last = ZERO_HASH
        self._start = _PREFIX + codec.encode_long(HEADER_VERSION) + log_id + codec.encode_long(self._index)
        self._due: list[Head] = []

    @property
    def log_id(self) -> bytes:
        """Whose leaves they are."""
        return self._log_id

    @property
    def size(self) -> int:
        """Leaves, signed or not."""
        return self._writer.size

    @property
    def kept(self) -> int:
        """Leaves under the last note."""
        return self.signed.head.size if self.signed else 0

    def open(self, keys: Sequence[LogKey], shown: Sequence[Head] = ()) -> None:
        """Go on from the store. Raises `CheckpointFault` or `TileFault` where it is not what was signed or shown."""
        data = self._store.get(f"{self._folder}/{CHECKPOINT}")
        if data is not None:
            self.signed = checkpoints.verify(data, keys, self.origin)
            head = self.signed.head
            self._writer = TileWriter(head.size, self._read)
            # INVARIANT: nothing is signed on tiles that do not lead to the last root (tests/unit/test_log_tree.py).
            if self._writer.root() != head.root:
                raise TileFault(
                    f"the tiles of `{self.origin}` do not lead to the root of its checkpoint {head.size}: restore them from "
                    "a copy, or remove the log's folder and let `checkpointer` build it again from the ledger"
                )
            self._nodes = TileNodes(head.size, self._read)
            if head.size:
                self._last = self._nodes(0, head.size - 1)
            self.offset = self._position(head.size)
        for one in shown:
            self._stand_by(one)

    def _position(self, size: int) -> int:
        """Where the last leaf is in Kafka; -1 where nobody knows."""
        data = self._store.get(f"{self._folder}/{POSITION}")
        try:
            found = json.loads(data or b"{}")
            return int(found["offset"]) if found["size"] == size else -1
        except (ValueError, KeyError, TypeError):
            return -1

    def _stand_by(self, shown: Head) -> None:
        if shown.size > self.size:
            self._due = sorted([*self._due, shown], key=lambda h: h.size)
        else:
            self._compare(shown, merkle.root_at(shown.size, self._nodes))

    def _compare(self, shown: Head, root: bytes) -> None:
        # INVARIANT: a log never signs beside what it has shown (tests/unit/test_log_tree.py).
        if root != shown.root:
            raise CheckpointFault(
                "forked",
                f"the ledger of `{self.origin}` is not the one whose checkpoint {shown.size} was published: its first "
                f"{shown.size} events were changed; nothing more is signed, run `sluicegate ledger verify`",
            )

    def add_many(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Take ledger records (offset, value). Raises `CheckpointFault` where one does not continue the tree, `Unreadable`.

        What follows as it should takes a third of the time of `add`, which everything else goes to.
        """
        fresh: list[bytes] = []
        last, size, quick = self._last, self._writer.size, not self._due
        for offset, value in records:
            header = reading.header_of(value)
            # As good as reading it: who else would have 32 bytes of that hash in its header.
            if quick and header.startswith(self._start + _seq(size)) and last in header:
                last = _sha256(b"\x00" + header).digest()
                fresh.append(last)
                size += 1
                self.offset = offset
                continue
            self._writer.extend(fresh)
            self._last = last
            fresh.clear()
            self.add(offset, value)
            last, size, quick = self._last, self._writer.size, not self._due
        self._writer.extend(fresh)
        self._last = last

    def add(self, offset: int, value: bytes) -> None:
        """Take one ledger record, which may be in the tree already."""
        header, _ = reading.split_two(value)
        leaf = header_hash(header)
        if not self._next(header, leaf):
            return
        self._writer.append(leaf)
        self._last, self.offset = leaf, offset
        while self._due and self._due[0].size == self._writer.size:
            self._compare(self._due.pop(0), self._writer.root())

    def _next(self, header: bytes, leaf: bytes) -> bool:
        """Whether the record is the next leaf; False for one that is in the tree already."""
        head, size = reading.head(header), self._writer.size
        if (head.log_id, head.partition) != (self._log_id, self._index):
            raise CheckpointFault(
                "other_log",
                f"a record of log {head.log_id.hex()}, partition {head.partition}, stands in `{self.origin}`",
            )
        if head.seq > size:
            raise CheckpointFault(
                "missing",
                f"`{self.origin}` goes on with event {head.seq} where {size} is next: events were taken out, run "
                "`sluicegate ledger verify`",
            )
        known = head.seq < size
        if head.seq < self.kept:
            same = leaf == self._nodes(0, head.seq)
        elif known:
            same = leaf == self._last and head.seq == size - 1
        else:
            same = head.prev_hash == self._last
        # INVARIANT: a ledger that was rewritten gets no signature (tests/unit/test_log_tree.py).
        if not same:
            raise CheckpointFault(
                "forked",
                f"event {head.seq} of `{self.origin}` is not the one that was signed, or does not follow it: the ledger was "
                "rewritten; nothing more is signed, run `sluicegate ledger verify`",
            )
        return not known

    @property
    def owed(self) -> int:
        """The largest head that was shown and that the tree has not reached yet, else 0."""
        return self._due[-1].size if self._due else 0

    def seal(
        self, public: bytes, kid: str, signer: Signer, second: int, *, again: bool = False
    ) -> Signed | None:
        """Steps 1 to 3. None where nothing is new, or where the log is not yet as far as it was shown.

        `again`: a head that was signed is signed once more, with the time it is now. Whoever says so saw that the ledger
        has no further event. May be called again after `Retryable`: nothing is forgotten before it is durable.
        """
        size = self.size
        if self._due or not size or (size == self.kept and not again):
            return None
        changed = self._writer.changed()
        position = json.dumps({"size": size, "offset": self.offset}).encode()
        files = [(f"{self._folder}/{tile.path}", data) for tile, data in changed]
        self._store.put([*files, (f"{self._folder}/{POSITION}", position)])
        hit("checkpoint.1.tiles")
        head = Checkpoint(self.origin, size, self._writer.root())
        signed = Signed(head, checkpoints.sign_head(head, public, signer, second), kid, second)
        hit("checkpoint.2.signed")
        self.keep(signed)
        hit("checkpoint.3.kept")
        self._writer.settled()
        self._nodes = TileNodes(size, self._read)
        for tile, _ in changed:
            if tile.width == WIDTH:
                self._store.drop(f"{self._folder}/{tile.path}.p")
        return signed

    def keep(self, signed: Signed) -> None:
        """Keep a note of ours, again once it has more signatures."""
        self._store.put([(f"{self._folder}/{CHECKPOINT}", str(signed.note).encode())])
        self.signed = signed

    def consistency(self, old: int) -> list[bytes]:
        """The proof that the last note's tree continues its own of `old` leaves. Raises `ValueError`, `TileFault`."""
        return merkle.consistency_proof(old, self.kept, self._nodes)
