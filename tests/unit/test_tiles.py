"""Tiles: the specification's own examples, trees of any size read back from them, and tiles that are too short."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.transparency import merkle, tiles
from sluicegate.processors.transparency.tiles import Tile, TileFault, TileNodes, TileWriter

from tests.unit.test_merkle import Memory, leaves_of, mth


def test_names_are_those_of_the_specification() -> None:
    assert Tile(0, 1_234_067).path == "tile/0/x001/x234/067"
    assert Tile(1, 0, 17).path == "tile/1/000.p/17"
    assert tiles.entries_path(1_000, 3) == "tile/entries/x001/000.p/3"
    for path in ("tile/0/x001/x234/067", "tile/1/000.p/17", "tile/7/999"):
        found = tiles.parse(path)
        assert found is not None and found.path == path
    for path in (
        "tile/8/000",
        "tile/0/0",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/x000/001",
        "checkpoint",
    ):
        assert tiles.parse(path) is None


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    found = list(tiles.tiles_between(0, 70_000))
    full = [t for t in found if t.width == tiles.WIDTH]
    assert [sum(t.level == level for t in full) for level in (0, 1, 2)] == [273, 1, 0]
    partial = [t for t in found if t.width < tiles.WIDTH]
    assert partial == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles.tiles_between(0, 256)) == [Tile(0, 0), Tile(1, 0, 1)]


class Kept:
    """Tiles in memory, as a folder keeps them."""

    def __init__(self) -> None:
        self.tiles: dict[Tile, bytes] = {}

    def take(self, writer: TileWriter) -> None:
        for tile, data in writer.changed():
            assert len(data) == tile.size
            assert self.tiles.setdefault(tile, data) == data, "a tile is immutable"
        writer.settled()

    def __call__(self, tile: Tile) -> bytes:
        return self.tiles[tile]


@given(st.lists(st.integers(0, 700), min_size=1, max_size=6), st.data())
@settings(deadline=None)
def test_a_tree_in_tiles_is_the_tree(steps: list[int], data: st.DataObject) -> None:
    leaves = leaves_of(sum(steps))
    kept, writer = Kept(), TileWriter()
    sizes = [0]
    for step in steps:
        if data.draw(st.booleans()):  # another process goes on
            writer = TileWriter(sizes[-1], kept)
        for leaf in leaves[sizes[-1] : sizes[-1] + step]:
            writer.append(leaf)
        kept.take(writer)
        sizes.append(writer.size)
        assert writer.root() == mth(leaves[: writer.size])
    for size in set(sizes):
        assert set(tiles.tiles_between(0, size)) <= set(kept.tiles)
        nodes = TileNodes(size, kept)
        assert merkle.root_at(size, nodes) == mth(leaves[:size])
        if size:
            index = data.draw(st.integers(0, size - 1))
            assert merkle.inclusion_proof(index, size, nodes) == merkle.inclusion_proof(
                index, size, Memory(leaves)
            )
    old, new = sorted((data.draw(st.sampled_from(sizes)), data.draw(st.sampled_from(sizes))))
    proof = merkle.consistency_proof(old, new, TileNodes(new, kept))
    assert proof == merkle.consistency_proof(old, new, Memory(leaves))


def test_levels_above_the_first_are_written_once_they_change() -> None:
    kept, writer = Kept(), TileWriter()
    for leaf in leaves_of(70_000):
        writer.append(leaf)
    kept.take(writer)
    assert set(kept.tiles) == set(tiles.tiles_between(0, 70_000))
    again = TileWriter(70_000, kept)
    assert again.root() == writer.root() == merkle.root_at(70_000, TileNodes(70_000, kept))
    again.append(merkle.leaf_hash(b"one more"))
    assert [t for t, _ in again.changed()] == [Tile(0, 273, 113)]  # again until they are written
    assert [t for t, _ in again.changed()] == [Tile(0, 273, 113)]
    again.settled()
    assert again.changed() == []


def test_a_reader_keeps_a_bound_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MAX_KEPT", 3)
    leaves = leaves_of(5 * 256)
    read: list[Tile] = []

    def data_of(tile: Tile) -> bytes:
        read.append(tile)
        return b"".join(leaves[tile.n * 256 : tile.n * 256 + tile.width])

    nodes = TileNodes(5 * 256, data_of)
    for index in (*range(0, 5 * 256, 256), 0):
        assert nodes(0, index) == leaves[index]
    assert [t.n for t in read] == [0, 1, 2, 3, 4, 0]


def test_a_full_tile_serves_for_a_partial_one() -> None:
    leaves = leaves_of(256)
    nodes = TileNodes(100, lambda tile: b"".join(leaves) if tile.level == 0 else b"")
    assert merkle.root_at(100, nodes) == mth(leaves[:100])


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 5 * 32 - 1, 257 * 32])
def test_a_truncated_tile_is_said(cut: int) -> None:
    nodes = TileNodes(5, lambda _: bytes(cut))
    with pytest.raises(
        TileFault, match=rf"tile `tile/0/000.p/5` is truncated or damaged: {cut} bytes where 5 hashes"
    ):
        merkle.root_at(5, nodes)
    with pytest.raises(TileFault, match="truncated"):
        TileWriter(5, lambda _: bytes(cut))


def test_a_subtree_past_the_end_is_not_read() -> None:
    with pytest.raises(ValueError, match="no complete subtree 1 at level 2"):
        TileNodes(5, lambda _: bytes(5 * 32))(2, 1)
    with pytest.raises(ValueError, match="goes on from its tiles"):
        TileWriter(5)


@given(st.integers(1, 70_000), st.data())
@settings(max_examples=20, deadline=None)
def test_no_hash_of_any_tile_can_be_changed(size: int, data: st.DataObject) -> None:
    kept, writer = Kept(), TileWriter()
    for number in range(size):
        writer.append(number.to_bytes(32, "big"))
    kept.take(writer)
    assert list(tiles.check_all(size, kept)) == list(tiles.tiles_between(0, size))
    tile = data.draw(st.sampled_from(sorted(kept.tiles)))
    at = data.draw(st.integers(0, tile.size - 1))
    found = kept.tiles[tile]
    kept.tiles[tile] = found[:at] + bytes([found[at] ^ 1]) + found[at + 1 :]
    try:
        list(tiles.check_all(size, kept))
    except TileFault:
        return
    assert merkle.root_at(size, TileNodes(size, kept)) != writer.root()  # it stood in a partial tile
