"""RFC 6962 trees: the vectors of transparency-dev/merkle, and a naive tree written from the RFC's own definitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.transparency import merkle
from sluicegate.processors.transparency.merkle import Frontier, leaf_hash, node_hash

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "merkle.json").read_text())
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(text) for text in VECTORS["roots"]]
SOME_HASH = bytes.fromhex(VECTORS["some_hash"])


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962 §2.1 writes it, over leaf hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


class Memory:
    """Complete subtrees of a list of leaves."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = leaves

    def __call__(self, level: int, index: int) -> bytes:
        part = self.leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "not a complete subtree"
        return mth(part)


def hashes(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(t) for t in texts]


def test_the_hasher() -> None:
    assert merkle.EMPTY_ROOT.hex() == VECTORS["hasher"]["empty_root"]
    for data, want in VECTORS["hasher"]["leaves"]:
        assert leaf_hash(bytes.fromhex(data)).hex() == want
    for left, right, want in VECTORS["hasher"]["nodes"]:
        assert node_hash(bytes.fromhex(left), bytes.fromhex(right)).hex() == want


def test_the_roots() -> None:
    frontier = Frontier()
    assert frontier.root() == merkle.EMPTY_ROOT
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        frontier.append(leaf)
        assert frontier.root() == root
        assert merkle.root_at(frontier.size, Memory(LEAVES)) == root


Inclusion = tuple[str, bytes, int, int, list[bytes], bytes]


def inclusion_corruptions(
    index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes
) -> Iterator[Inclusion]:
    """Those of upstream's `corruptInclusionProof`."""
    yield "leafIndex - 1", leaf, index - 1, size, proof, root
    yield "leafIndex + 1", leaf, index + 1, size, proof, root
    yield "leafIndex ^ 2", leaf, index ^ 2, size, proof, root
    yield "treeSize * 2", leaf, index, size * 2, proof, root
    yield "treeSize / 2", leaf, index, size // 2, proof, root
    yield "wrong leaf", b"WrongLeaf", index, size, proof, root
    yield "empty root", leaf, index, size, proof, merkle.EMPTY_ROOT
    yield "random root", leaf, index, size, proof, SOME_HASH
    yield "trailing garbage", leaf, index, size, [*proof, b""], root
    yield "trailing root", leaf, index, size, [*proof, root], root
    yield "preceding garbage", leaf, index, size, [b"", *proof], root
    yield "preceding root", leaf, index, size, [root, *proof], root
    for i, part in enumerate(proof):
        wrong = [*proof[:i], bytes([part[0] ^ 8]) + part[1:], *proof[i + 1 :]]
        yield "modified proof[i] bit 3", leaf, index, size, wrong, root
    if proof:
        yield "removed component", leaf, index, size, proof[:-1], root
    if len(proof) > 1:
        yield "inserted component", leaf, index, size, [proof[0], SOME_HASH, *proof[1:]], root


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda v: f"{v['leaf']}-of-{v['size']}")
def test_inclusion_vectors(vector: dict[str, object]) -> None:
    index, size = int(str(vector["leaf"])) - 1, int(str(vector["size"]))
    proof, leaf, root = hashes(vector["proof"]), LEAVES[index], ROOTS[size - 1]  # type: ignore[arg-type]
    assert merkle.verify_inclusion(leaf, index, size, proof, root)
    assert merkle.inclusion_proof(index, size, Memory(LEAVES)) == proof
    names = set()
    for name, *arguments in inclusion_corruptions(index, size, leaf, proof, root):
        names.add(name)
        assert not merkle.verify_inclusion(*arguments), name
    assert names <= set(VECTORS["inclusion_corruptions"])
    assert len(proof) < 2 or names == set(VECTORS["inclusion_corruptions"])


def test_inclusion_of_nothing() -> None:
    for index, size in ((0, 0), (0, 1), (1, 0), (2, 1)):
        for leaf, root in ((SOME_HASH, b""), (b"", merkle.EMPTY_ROOT), (SOME_HASH, merkle.EMPTY_ROOT)):
            assert not merkle.verify_inclusion(leaf, index, size, [], root)
    one = leaf_hash(b"data")
    assert merkle.verify_inclusion(one, 0, 1, [], one)
    for leaf, root in ((one, b""), (b"", one), (b"", b"")):
        assert not merkle.verify_inclusion(leaf, 0, 1, [], root)


Consistency = tuple[str, int, int, bytes, bytes, list[bytes]]


def consistency_corruptions(
    m: int, n: int, old: bytes, new: bytes, proof: list[bytes]
) -> Iterator[Consistency]:
    """Those of upstream's `corruptConsistencyProof`."""
    yield "size1 - 1", m - 1, n, old, new, proof
    yield "size1 + 1", m + 1, n, old, new, proof
    yield "size1 ^ 2", m ^ 2, n, old, new, proof
    yield "size2 * 2", m, n * 2, old, new, proof
    yield "size2 / 2", m, n // 2, old, new, proof
    yield "wrong root1", m, n, b"WrongRoot", new, proof
    yield "wrong root2", m, n, old, b"WrongRoot", proof
    yield "swapped roots", m, n, new, old, proof
    yield "empty proof", m, n, old, new, []
    yield "trailing garbage", m, n, old, new, [*proof, b""]
    yield "trailing root1", m, n, old, new, [*proof, old]
    yield "trailing root2", m, n, old, new, [*proof, new]
    yield "preceding garbage", m, n, old, new, [b"", *proof]
    yield "preceding root1", m, n, old, new, [old, *proof]
    yield "preceding root2", m, n, old, new, [new, *proof]
    yield "preceding proof[0]", m, n, old, new, [proof[0], *proof]
    yield "truncated proof", m, n, old, new, proof[:-1]
    for i, part in enumerate(proof):
        wrong = [*proof[:i], bytes([part[0] ^ 16]) + part[1:], *proof[i + 1 :]]
        yield "modified proof[i] bit 4", m, n, old, new, wrong


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda v: f"{v['size1']}-to-{v['size2']}")
def test_consistency_vectors(vector: dict[str, object]) -> None:
    old, new = int(str(vector["size1"])), int(str(vector["size2"]))
    proof, before, after = hashes(vector["proof"]), ROOTS[old - 1], ROOTS[new - 1]  # type: ignore[arg-type]
    assert merkle.verify_consistency(old, new, before, after, proof)
    assert merkle.consistency_proof(old, new, Memory(LEAVES)) == proof
    if not proof:
        return
    names = set()
    for name, *arguments in consistency_corruptions(old, new, before, after, proof):
        names.add(name)
        assert not merkle.verify_consistency(*arguments), name
    assert names == set(VECTORS["consistency_corruptions"])


def test_consistency_of_trivial_sizes() -> None:
    roots = {"a": b"don't care 1", "b": b"don't care 2", "e": merkle.EMPTY_ROOT}
    for old, new, before, after, parts, holds in VECTORS["consistency_trivial"]:
        proof = [merkle.EMPTY_ROOT] * parts
        assert merkle.verify_consistency(old, new, roots[before], roots[after], proof) is holds


def named(level: int, index: int) -> bytes:
    """A node that says where it is, so that a proof shows which nodes it took."""
    return leaf_hash(b"%d/%d" % (level, index))


def of_nodes(nodes: list[list[int]], begin: int, end: int) -> list[bytes]:
    """The proof that upstream makes of a node list: those from `begin` to `end` are hashed into one."""
    parts = [named(*node) for node in nodes]
    if begin == end:
        return parts
    one = parts[begin]
    for part in parts[begin + 1 : end]:
        one = node_hash(part, one)
    return [*parts[:begin], one, *parts[end:]]


def test_which_nodes_a_proof_takes() -> None:
    for size, index, nodes, (begin, end) in VECTORS["inclusion_nodes"]:
        assert merkle.inclusion_proof(index, size, named) == of_nodes(nodes, begin, end)
    for old, new, nodes, (begin, end) in VECTORS["consistency_nodes"]:
        assert merkle.consistency_proof(old, new, named) == of_nodes(nodes, begin, end)
    for size, index in VECTORS["inclusion_errors"]:
        with pytest.raises(ValueError, match="is not in a tree"):
            merkle.inclusion_proof(index, size, named)
    for old, new in VECTORS["consistency_errors"]:
        with pytest.raises(ValueError, match="does not continue"):
            merkle.consistency_proof(old, new, named)


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % i) for i in range(count)]


@given(st.integers(1, 400), st.data())
@settings(deadline=None)
def test_every_leaf_has_a_proof_and_no_other_place(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, Memory(leaves))
    root = mth(leaves)
    assert merkle.verify_inclusion(leaves[index], index, size, proof, root)
    other = data.draw(st.integers(-1, size + 1).filter(lambda i: i != index))
    assert not merkle.verify_inclusion(leaves[index], other, size, proof, root)


@given(st.integers(0, 400), st.integers(0, 400), st.data())
@settings(deadline=None)
def test_a_tree_continues_its_past_and_no_other(old: int, more: int, data: st.DataObject) -> None:
    new = old + more
    leaves = leaves_of(new)
    proof = merkle.consistency_proof(old, new, Memory(leaves))
    assert len(proof) <= merkle.MAX_PROOF
    before, after = mth(leaves[:old]), mth(leaves)
    assert merkle.verify_consistency(old, new, before, after, proof)
    if old:
        at = data.draw(st.integers(0, old - 1))
        forked = [*leaves[:at], leaf_hash(b"another"), *leaves[at + 1 :]]
        assert not merkle.verify_consistency(old, new, mth(forked[:old]), after, proof)
        theirs = merkle.consistency_proof(old, new, Memory(forked))
        assert not merkle.verify_consistency(old, new, before, mth(forked), theirs)


@given(st.integers(0, 700), st.integers(0, 300))
@settings(deadline=None)
def test_a_frontier_goes_on_from_the_tree(size: int, more: int) -> None:
    leaves = leaves_of(size + more)
    frontier = merkle.frontier_at(size, Memory(leaves))
    for leaf in leaves[size:]:
        frontier.append(leaf)
    assert (frontier.size, frontier.root()) == (size + more, mth(leaves))


def test_a_frontier_with_another_number_of_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="a tree of 3 leaves has 2 nodes, not 1"):
        Frontier(3, [SOME_HASH])
