"""What holds of every ledger, control's too: bytes, `seq`, chain, hashes. The fsck's ground floor.

A sound record goes through `Quick`, which looks at every byte but names nothing; whatever it does not take, the slow
way takes apart and tells what is wrong. Never looks at what a record means. Next: `verify/partition.py`, `verify/control.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from sluicegate.processors.outcomes import HEADER_VERSION, ZERO_HASH, header_hash
from sluicegate.processors.transparency.tiles import Read
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.invariants import Findings
from sluicegate.processors.verify.reading_words import WORDS, words
from sluicegate.processors.verify.tree import Head, Tree
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.codec import encode_long
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.positions import array, varint

RANGE = 8_192
"""Events of one sum that is compared with ClickHouse."""
SHORT_BYTES, MAX_SHORT = 32, 4_096
"""Facts this short are much the same in many records: their hashes are remembered, about 150 bytes each."""

_sha256 = hashlib.sha256
_from_bytes = int.from_bytes
_tuple: Any = tuple.__new__
_OUTCOME = codec.schema_of(r.Outcome).prefix
_START = len(_OUTCOME)


class Linked(NamedTuple):
    """One record, as far as its own bytes go. `rest` is the part of the header that an input's outcomes share."""

    seq: int
    event_id: bytes
    stage: str
    status: str
    reason: str
    header: bytes
    facts: bytes
    content: bytes | None
    rest: bytes


_short: dict[bytes, bytes] = {}


def _facts_hash(raw: bytes) -> bytes:
    found = _short.get(raw)
    if found is None:
        if len(_short) >= MAX_SHORT:
            _short.clear()
        found = _short[raw] = _sha256(raw).digest()
    return found


class Quick:
    """Takes the records of one partition that are sound as far as their own bytes and the one before go."""

    def __init__(self, log_id: bytes, partition: int) -> None:
        prefix = codec.schema_of(r.Header).prefix
        self._start = prefix + encode_long(HEADER_VERSION) + log_id + encode_long(partition)
        self._seq_at = len(self._start)

    def take(self, value: bytes, seq: int, prev_hash: bytes) -> Linked | None:
        """The record, or None: then it is looked at the slow way, which says why."""
        # INVARIANT: what it takes the slow way finds sound, byte for byte (tests/unit/test_verify_chain.py).
        try:
            return self._take(value, seq, prev_hash)
        except (IndexError, ValueError):
            return None

    def _take(self, value: bytes, seq: int, prev_hash: bytes) -> Linked | None:
        low, high = value[_START], value[_START + 1]
        if low & 0x81 != 0x80 or high > 0x7F or not value.startswith(_OUTCOME):
            return None
        p = _START + 2
        q = p + ((low & 0x7F | high << 7) >> 1)
        header = value[p:q]
        m = value[q]
        if m < 0x80:
            s = q + 1
        elif (o := value[q + 1]) < 0x80:
            m, s = m + (o << 7) - 0x80, q + 2
        else:
            m, s = varint(value, q)
        t = s + (m >> 1)
        facts = value[s:t]
        p = self._seq_at
        n = header[p]
        if n < 0x80:
            p += 1
        elif (o := header[p + 1]) < 0x80:
            n, p = n + (o << 7) - 0x80, p + 2
        elif (u := header[p + 2]) < 0x80:
            n, p = n + (o << 7) + (u << 14) - 0x4080, p + 3
        else:
            n, p = varint(header, p)
        if n != seq << 1 or m & 1 or not header.startswith(self._start):
            return None
        event, p = header[p : p + 16], p + 16
        q = p + 1 + (header[p] >> 1)
        q += 1 + (header[q] >> 1)
        q += 1 + (header[q] >> 1)
        said = WORDS.get(header[p:q])
        if said is None:
            said, p = words(header, p)
        else:
            p = q
        p = _over(header, p, 0) if header[p] else p + 1
        if header[p] == 2 and not header[p + 17]:  # one cause, as nearly all have
            p += 18
        elif header[p]:
            p = _over(header, p, 16)
        else:
            p += 1
        p = _over(header, p, 0) if header[p] else p + 1
        q = p + 33
        if (_facts_hash(facts) if len(facts) <= SHORT_BYTES else _sha256(facts).digest()) != header[
            p : q - 1
        ]:
            return None
        if header[q - 1]:
            if header[q - 1] != 2 or value[t] != 2:
                return None
            k, u = varint(value, t + 1)
            content: bytes | None = value[u : u + (k >> 1)]
            if k & 1 or u + (k >> 1) != len(value) or _sha256(content).digest() != header[q : q + 32]:  # type: ignore[arg-type]
                return None
            q += 32
        elif value[t] or t + 1 != len(value):
            return None
        else:
            content = None
        if header[q : q + 32] != prev_hash:
            return None
        return cast(Linked, _tuple(Linked, (seq, event, *said, header, facts, content, header[q + 32 :])))


def _over(b: bytes, p: int, size: int) -> int:
    """Behind an array that is not empty, in one block as the ledger writes it."""
    if b[p] == 2 and not size and b[p + 1] < 0x80 and not b[p + 1] & 1:
        q = p + 2 + (b[p + 1] >> 1)
        if not b[q]:
            return q + 1
    return array(b, p, size)[1]


class Chain:
    """What holds of every ledger. Who feeds it asks `findings` afterwards.

    Attributes:
        seq, prev_hash: what the next record has to be and to name.
        sums: range of seqs -> [events, xor of their header hashes], to compare with ClickHouse.
    """

    def __init__(self, partition: int, log_id: bytes = b"") -> None:
        self.findings = Findings(partition)
        self.log_id = log_id
        self.seq = 0
        self.prev_hash = ZERO_HASH
        self.records = 0
        self.index = max(0, partition)
        self.sums: dict[int, list[int]] = {}
        self.sum_until = 1 << 63
        self.tree: Tree | None = None
        self.judged_from = 0
        """What is before it was judged before: it is counted in `before`, and not told."""
        self.before = 0
        self.lost = ""
        """Why the tree could not be grown any further."""
        self._first = self._next = 0
        self._total = [0, 0]

    def _sum(self, seq: int) -> None:
        """Add the record just linked to its range's sum."""
        if not self._first <= seq < self._next:
            if seq > self.sum_until:
                return
            key = seq // RANGE
            self._first, self._next = key * RANGE, min((key + 1) * RANGE, self.sum_until + 1)
            self._total = self.sums.setdefault(key, [0, 0])
        total = self._total
        total[0] += 1
        total[1] ^= _from_bytes(self.prev_hash, "little")

    def _grow(self) -> None:
        """Add the record just linked to the tree. Where a leaf is missing there is none any more."""
        tree = self.tree
        if tree is not None:
            tree.leaves += self.prev_hash
            if len(tree.leaves) == tree.stop:
                tree.turn()

    def grow(self, heads: Iterable[Head], kept: int = 0, read: Read | None = None) -> None:
        """Hold the ledger to signed heads, and to the tiles of a tree of `kept` leaves. Before the first record."""
        self.tree = Tree(self._bad_tree, heads, kept, read)

    def end_tree(self) -> None:
        """The ledger has no more records."""
        if self.tree is not None:
            self.tree.close(self.seq)

    def _bad_tree(self, invariant: str, seq: int, sentence: str) -> None:
        self.findings.add(invariant, seq, -1, sentence)

    def _lose(self, seq: int) -> None:
        if self.tree is not None:
            self.tree, self.lost = None, f"event {seq} is missing or cannot be read"

    def summed(self, key: int) -> tuple[int, int]:
        """Events of a range, and the xor of the first 8 bytes of their header hashes."""
        count, word = self.sums.get(key, (0, 0))
        return count, word & (1 << 64) - 1

    def _bad(self, invariant: str, offset: int, sentence: str) -> None:
        if self.seq < self.judged_from:
            self.before += 1
            return
        self.findings.add(invariant, self.seq, offset, sentence)

    def _link(self, offset: int, value: bytes) -> Linked | None:
        """Take a record apart, and tell whatever is wrong with it."""
        try:
            parts = reading.split(value)
            head = reading.head(parts.header)
        except Unreadable as error:
            self._bad("readable", offset, str(error))
            self._lose(self.seq)
            self.seq += 1  # it took a place: the next one is judged on its own
            self.prev_hash = b""
            return None
        if head.seq != self.seq:
            self._bad("dense", offset, f"expected seq {self.seq}, found {head.seq}")
            self._lose(self.seq)
            self.seq = head.seq
        if head.prev_hash != self.prev_hash and self.prev_hash:
            self._bad("chain", offset, f"seq {head.seq} does not name the hash of the record before it")
        self.prev_hash = header_hash(parts.header)
        if head.log_id != self.log_id or head.partition != self.index:
            self._bad(
                "log_id", offset, f"seq {head.seq} says partition {head.partition} of log {head.log_id.hex()}"
            )
        if _sha256(parts.facts).digest() != head.facts_hash:
            self._bad("facts_hash", offset, f"the facts of seq {head.seq} are not those its header names")
        content, commitment = parts.content, head.content_commitment
        if content is None or commitment is None:
            if content is not commitment:
                self._bad("content_commitment", offset, f"seq {head.seq} lacks its content or its commitment")
        elif _sha256(content).digest() != commitment:
            self._bad(
                "content_commitment", offset, f"the content of seq {head.seq} is not what its header names"
            )
        return Linked(
            head.seq, head.event_id, head.stage, head.status, head.reason, parts.header, parts.facts, content, head.rest
        )  # fmt: skip
