"""RFC 6962 Merkle trees: append, root, inclusion and consistency proofs, and their verification.

A leaf is a header's hash (`outcomes.header_hash` is RFC 6962's leaf hash already). Proofs are made from a function
that answers the hash of a complete subtree, so a tree in tiles (`transparency/tiles.py`) and one in memory make the same ones.
Verification follows RFC 9162 §2.1.3.2 and §2.1.4.2 and answers False, never an exception, for whatever it is given.
Never reads a file. Next: `transparency/tiles.py` (where nodes are kept), `transparency/checkpoints.py` (who signs a root).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

HASH_BYTES = 32
MAX_PROOF = 63
"""Hashes of one proof: a tree of 2^63 leaves has no longer one, and C2SP's witness protocol takes no longer one."""

_sha256 = hashlib.sha256
EMPTY_ROOT = _sha256(b"").digest()
"""The root of the tree without leaves."""

Node = Callable[[int, int], bytes]
"""(level, index) -> hash of the complete subtree over leaves [index * 2^level, (index + 1) * 2^level)."""


def leaf_hash(data: bytes) -> bytes:
    """sha256(0x00 || data)."""
    return _sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """sha256(0x01 || left || right)."""
    return _sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: what appending and the root need, at most 63 hashes.

    Attributes:
        size: leaves so far.
        nodes: hashes of the complete subtrees that make up the tree, the largest first.
    """

    __slots__ = ("nodes", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.nodes = list(nodes)
        if len(self.nodes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} nodes, not {len(self.nodes)}")

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        size, nodes = self.size, self.nodes
        while size & 1:
            leaf = _sha256(b"\x01" + nodes.pop() + leaf).digest()
            size >>= 1
        nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The tree's root hash."""
        return joined(self.nodes)


def joined(nodes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, the largest first."""
    if not nodes:
        return EMPTY_ROOT
    *rest, found = nodes
    for node in reversed(rest):
        found = node_hash(node, found)
    return found


def frontier_at(size: int, node: Node) -> Frontier:
    """The right edge of the tree of `size` leaves."""
    nodes, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            nodes.append(node(level, start >> level))
            start += 1 << level
    return Frontier(size, nodes)


def _split(count: int) -> int:
    """The largest power of two below `count` (RFC 6962 §2.1's k)."""
    return 1 << ((count - 1).bit_length() - 1)


def subtree(start: int, end: int, node: Node) -> bytes:
    """MTH(D[start:end]) where `start` is a multiple of the smallest power of two that holds the range."""
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(count)
    return node_hash(subtree(start, middle, node), subtree(middle, end, node))


def root_at(size: int, node: Node) -> bytes:
    """The root of the tree of `size` leaves."""
    return subtree(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1. Raises `ValueError` where the tree has no such leaf."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(subtree(middle, end, node))
            end = middle
        else:
            path.append(subtree(start, middle, node))
            start = middle
    return path[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 §2.1.2; empty from an empty tree. Raises `ValueError` for a shrunk tree."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not continue one of {old}")
    if old in (0, new):
        return []
    proof, start, end = [], 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(subtree(middle, end, node))
            end = middle
        else:
            proof.append(subtree(start, middle, node))
            start = middle
    if start:
        proof.append(subtree(start, end, node))
    return proof[::-1]


def _hashes(*values: bytes) -> bool:
    return all(len(v) == HASH_BYTES for v in values)


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to; None for a proof of another form."""
    if not 0 <= index < size or not _hashes(leaf, *proof):
        return None
    fn, sn, found = index, size - 1, leaf
    for part in proof:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            found = node_hash(part, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = node_hash(found, part)
        fn, sn = fn >> 1, sn >> 1
    return found if sn == 0 else None


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf hash stands at `index` in the tree of `size` leaves with that root."""
    return root_from_inclusion(leaf, index, size, proof) == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `new` leaves continues the one of `old`: nothing was changed or taken out."""
    if old == new:
        return old >= 0 and not proof and old_root == new_root
    if old == 0:
        return new > 0 and not proof
    if not 0 < old < new or not proof or not _hashes(old_root, new_root, *proof):
        return False
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    before = after = path[0]
    for part in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            before, after = node_hash(part, before), node_hash(part, after)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            after = node_hash(after, part)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and before == old_root and after == new_root
