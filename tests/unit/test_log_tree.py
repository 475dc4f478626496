"""A log's tree: it goes on where it was, whatever killed it, and signs nothing beside what it signed or showed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.checkpoints import CheckpointFault, Signed
from sluicegate.processors.transparency.tiles import Tile, TileFault, TileNodes
from sluicegate.processors.verify.reading import split
from sluicegate.schemas import codec, notes
from sluicegate.schemas.errors import Retryable, Terminal, Unreadable
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import log_tree, tile_store
from sluicegate.streams.transparency.log_tree import Head, LogTree
from sluicegate.streams.transparency.object_store import ObjectStore
from sluicegate.streams.transparency.tile_store import FolderStore, MemoryStore, TileStore
from sluicegate.streams.verify import checkpoints as verify_checkpoints

from tests import s3
from tests.ledger_records import Ledger
from tests.unit.test_checkpoints import KEY, NOW, PUBLIC, SECRET
from tests.unit.test_merkle import mth

LOG = Ledger().log
Record = tuple[int, bytes]
SIGN = notes.ed25519_signer(SECRET)


def dense(count: int, fork_at: int = -1) -> list[Record]:
    """A partition's records; with `fork_at` the events from about there on are others."""
    made, found = Ledger(), []
    records = [made.genesis()]
    while len(records) < count:
        if len(records) == fork_at:
            made.now += 1
        records += made.intent(len(records))
    for record in records[:count]:
        assert record.value is not None
        found.append((record.offset, record.value))
    return found


def leaves(records: list[Record]) -> list[bytes]:
    return [header_hash(split(value).header) for _, value in records]


def opened(store: TileStore, *shown: Head) -> LogTree:
    tree = LogTree(store, "dev", LOG, 0)
    tree.open([KEY], shown)
    return tree


def feed(tree: LogTree, records: list[Record]) -> None:
    """Read from where the tree says, in batches, as the consumer does."""
    rest = [(offset, value) for offset, value in records if offset >= tree.offset]
    for at in range(0, len(rest), 70):
        tree.add_many(rest[at : at + 70])


def seal(tree: LogTree, at: int = NOW) -> Signed | None:
    return tree.seal(PUBLIC, KEY.kid, SIGN, at)


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CheckpointFault) as caught:
        work()
    return caught.value.code


@pytest.fixture(params=["memory", "folder", "objects", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TileStore:
    if request.param == "s3":
        return ObjectStore.at(s3.new_prefix(monkeypatch))
    if request.param == "objects":
        pytest.importorskip("obstore")
        return ObjectStore.at("memory:///")  # obstore's own: what the client does, not what S3 does
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path)


@pytest.mark.parametrize(
    "seq", [0, 1, 63, 64, 8191, 8192, 8193, 16383, 16384, 10**6, 2**21, 2**28 - 1, 2**28, 2**40]
)
def test_the_quick_look_knows_every_seq(seq: int) -> None:
    assert log_tree._seq(seq) == codec.encode_long(seq)


def test_a_record_is_looked_at_quickly_or_closely_with_one_result() -> None:
    records = dense(9_000)  # past the page of two-byte numbers
    quick, close = opened(MemoryStore()), opened(MemoryStore())
    quick.add_many(records)
    for offset, value in records:
        close.add(offset, value)
    assert (quick.size, quick.offset, quick._last) == (close.size, close.offset, close._last)
    assert quick._writer.root() == close._writer.root() == mth(leaves(records))
    with pytest.raises(Unreadable):
        quick.add_many([(99_999, b"nothing")])


def test_heads_are_those_of_the_ledger(store: TileStore) -> None:
    records = dense(700)
    tree, sizes = opened(store), [1, 5, 256, 257, 600, 700]
    for before, size in pairwise([0, *sizes]):
        tree.add_many(records[before:size])
        signed = seal(tree)
        assert signed is not None and signed.head.root == mth(leaves(records[:size]))
        assert checkpoints.verify(str(signed.note), [KEY], tree.origin).head.size == size
        assert store.get(f"{tile_store.folder_of(tree.origin)}/checkpoint") == str(signed.note).encode()
        proof = tree.consistency(before)
        old = mth(leaves(records[:before]))
        assert merkle.verify_consistency(before, size, old, signed.head.root, proof)
    assert seal(tree) is None  # nothing new
    read = tile_store.reader(store, tree.origin)
    for size in sizes:  # older partial tiles are served by the full one
        assert merkle.root_at(size, TileNodes(size, read)) == mth(leaves(records[:size]))
    assert store.get(f"{tile_store.folder_of(tree.origin)}/{Tile(0, 0, 5).path}") is None


def test_a_tree_goes_on_from_its_store(store: TileStore) -> None:
    records = dense(900)
    size = 0
    for more in (0, 1, 255, 1, 300, 343):
        tree = opened(store)
        assert tree.size == tree.kept == size
        feed(tree, records[: size + more])
        size += more
        assert (seal(tree) is None) == (more == 0)
    assert tree.signed is not None and tree.signed.head.root == mth(leaves(records[:900]))


class Killed(Exception):
    """As a process that dies."""


@pytest.mark.parametrize("point", ["checkpoint.1.tiles", "checkpoint.2.signed", "checkpoint.3.kept"])
def test_a_kill_between_the_steps_changes_no_head(
    point: str, store: TileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = dense(600)
    tree = opened(store)
    feed(tree, records[:300])
    first = seal(tree)
    assert first is not None
    feed(tree, records[:500])

    def strike(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr(log_tree, "hit", strike)
    with pytest.raises(Killed):
        seal(tree)
    monkeypatch.undo()
    again = opened(store, Head(300, first.head.root))
    assert again.kept == (500 if point == "checkpoint.3.kept" else 300)
    feed(again, records)
    last = seal(again, NOW + 5)
    assert last is not None and (last.head.size, last.head.root) == (600, mth(leaves(records)))


def test_what_could_not_be_written_is_written_later(
    store: TileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = dense(600)
    tree = opened(store)
    feed(tree, records)

    def full(files: object) -> None:
        raise Retryable("make room")

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(Retryable):
        seal(tree)
    monkeypatch.undo()
    signed = seal(tree)
    assert signed is not None
    assert opened(store).signed == signed


def test_a_ledger_that_was_rewritten_gets_no_signature(store: TileStore) -> None:
    tree = opened(store)
    feed(tree, dense(300))
    seal(tree)
    for fork_at in (1, 201, 297):
        # The chain leads every change up to the last leaf, which is read again.
        assert code_of(lambda at=fork_at: feed(opened(store), dense(400, at))) == "forked"  # type: ignore[misc]


def test_a_lost_position_is_found_by_reading_from_the_start(store: TileStore) -> None:
    records = dense(600)
    tree = opened(store)
    feed(tree, records[:300])
    seal(tree)
    store.put([(f"{tile_store.folder_of(tree.origin)}/position", b"?")])
    again = opened(store)
    assert again.offset == -1
    feed(again, records)
    signed = seal(again)
    assert signed is not None and signed.head.root == mth(leaves(records))
    store.put([(f"{tile_store.folder_of(tree.origin)}/position", b"")])
    with pytest.raises(CheckpointFault, match=r"event 97 of .* is not the one that was signed"):
        feed(opened(store), dense(600, 97))


def test_events_that_are_missing_or_of_another_log_stop_it(store: TileStore) -> None:
    records = dense(20)
    tree = opened(store)
    feed(tree, records[:10])
    assert code_of(lambda: tree.add_many([records[12]])) == "missing"
    other = Ledger(log=b"o" * 16).genesis()
    assert other.value is not None
    assert code_of(lambda: opened(store).add_many([(0, other.value or b"")])) == "other_log"
    unchained = Ledger(seq=10).genesis()
    assert code_of(lambda: tree.add_many([(99, unchained.value or b"")])) == "forked"


def test_nothing_is_signed_beside_what_was_shown(store: TileStore) -> None:
    """The store is lost, or from an old backup: the published heads are what the log has to stand by."""
    records = dense(600)
    roots = {size: mth(leaves(records[:size])) for size in (200, 500)}
    shown = [Head(size, root) for size, root in roots.items()]
    tree = opened(store, *shown)
    feed(tree, records[:400])
    assert seal(tree) is None and tree.owed == 500  # it signed 500 already: nothing below
    feed(tree, records)
    signed = seal(tree)
    assert signed is not None and signed.head.size == 600 and tree.owed == 0
    for fork_at in (101, 401):
        rebuilt = opened(MemoryStore(), *shown)
        assert code_of(lambda at=fork_at, t=rebuilt: feed(t, dense(600, at))) == "forked"  # type: ignore[misc]
    with pytest.raises(CheckpointFault, match="is not the one whose checkpoint 500 was published"):
        opened(store, Head(500, bytes(32)))


def test_tiles_that_do_not_lead_to_the_root_stop_it(store: TileStore) -> None:
    tree = opened(store)
    feed(tree, dense(300))
    seal(tree)
    folder = tile_store.folder_of(tree.origin)
    name = f"{folder}/{Tile(0, 1, 44).path}"
    data = store.get(name)
    assert data is not None
    store.put([(name, data[:-1])])
    with pytest.raises(
        TileFault, match=r"tile `tile/0/001.p/44` is truncated or damaged: 1407 bytes where 44 hashes"
    ):
        opened(store)
    store.put([(name, bytes([data[0] ^ 1]) + data[1:])])
    with pytest.raises(TileFault, match="do not lead to the root of its checkpoint 300"):
        opened(store)
    store.drop(f"{folder}/tile/0")
    with pytest.raises(TileFault, match="is not there: restore it"):
        opened(store)


def test_a_checkpoint_of_another_log_in_the_folder_stops_it(store: TileStore) -> None:
    tree = opened(store)
    feed(tree, dense(3))
    signed = seal(tree)
    assert signed is not None
    other = LogTree(store, "prod", LOG, 0)
    store.put([(f"{tile_store.folder_of(other.origin)}/checkpoint", str(signed.note).encode())])
    assert code_of(lambda: other.open([KEY])) == "other_log"


def test_the_store_is_a_folder_of_settings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    found = tile_store.store_of(settings, {})
    assert isinstance(found, FolderStore) and found.folder == tmp_path / "tiles"
    with pytest.raises(Terminal, match="tiles cannot be kept at `nowhere://x`"):
        tile_store.store_of(settings, {"SLUICEGATE_TILES": "nowhere://x"})


def test_an_object_store_that_is_away_is_tried_again() -> None:
    pytest.importorskip("obstore")

    class Away:
        def __getattr__(self, name: str) -> object:
            def work(*_: object) -> None:
                raise OSError("no route\nand a page of details")

            return work

    found = ObjectStore.at("memory:///")
    found._api = Away()
    for work in (lambda: found.get("a"), lambda: found.put([("a", b"")]), lambda: found.drop("a")):
        with pytest.raises(
            Retryable, match=r"from the object store: no route$|to the object store: no route$"
        ):
            work()


def test_a_kept_checkpoint_that_is_none_is_named_by_its_file(tmp_path: Path) -> None:
    other = tmp_path / "log.json"
    other.write_text("{}")
    with pytest.raises(Terminal, match=r"log\.json` is none that was kept: it is no signed note"):
        verify_checkpoints.keep(verify_checkpoints.Heads(bytes(16), "test", ()), [other])
