"""The archive of one log: it goes on where it was, says what is missing, and is held against the signed checkpoint."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import Key
from sluicegate.processors.transparency import merkle
from sluicegate.processors.transparency.checkpoints import ROLE
from sluicegate.processors.transparency.entry_bundles import Archived, ArchiveFault, bundle_of
from sluicegate.processors.transparency.tiles import WIDTH, TileNodes, TileWriter, check_all
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.archive import archive
from sluicegate.streams.archive.archive import ARCHIVED, LogArchive
from sluicegate.streams.archive.archiving import Archiving, Cut
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.object_store import ObjectStore
from sluicegate.streams.transparency.tile_store import FolderStore, MemoryStore, TileStore, folder_of

from tests import s3
from tests.driver import LOG_ID
from tests.unit.test_checkpoints import KEY, PUBLIC
from tests.unit.test_entry_bundles import RECORDS, archived
from tests.unit.test_log_tree import LOG, dense, feed, opened, seal


def made(bundles: int = 2) -> tuple[MemoryStore, LogArchive]:
    store = MemoryStore()
    log = LogArchive(store, "test", LOG_ID, 0)
    writer = log.writer()
    for index in range(bundles):
        log.put([bundle_of(archived(index), index)], writer)
    return store, log


def again(store: TileStore) -> LogArchive:
    return LogArchive(store, "test", LOG_ID, 0)


@pytest.mark.parametrize("kind", ["memory", "folder", "object store", "s3"])
def test_it_is_read_back_by_another_process(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: TileStore = MemoryStore()
    if kind != "memory":
        url = s3.new_prefix(monkeypatch) if kind == "s3" else "memory:///"
        store = FolderStore(tmp_path) if kind == "folder" else ObjectStore.at(url)
    log = again(store)
    log.put([bundle_of(archived(index), index) for index in range(2)], log.writer())
    other = again(store)
    assert (other.size, other.bundles) == (log.size, 2) == (2 * WIDTH, 2)
    assert other.next_offset == RECORDS[2 * WIDTH - 1].offset + 1
    assert [one.value for one in other.bundle(1).records] == [one.value for one in RECORDS[WIDTH : 2 * WIDTH]]
    writer = TileWriter()
    for index in range(2):
        for leaf in other.bundle(index).leaves:
            writer.append(leaf)
    assert merkle.root_at(other.size, TileNodes(other.size, other.nodes())) == writer.root()


@pytest.mark.parametrize(
    "hint", [None, b"{", b'{"bundles": 0}', b'{"bundles": 1}', b'{"bundles": 9}', b'{"bundles": -4}']
)
def test_how_far_it_is_without_a_hint_or_with_a_wrong_one(hint: bytes | None) -> None:
    store, log = made()
    name = f"{folder_of(log.origin)}/{ARCHIVED}"
    del store.files[name]
    if hint is not None:
        store.files[name] = hint
    assert again(store).bundles == 2
    assert LogArchive(MemoryStore(), "test", LOG_ID, 0).bundles == 0


class Dying(MemoryStore):
    """Dies before the `left`-th file from now."""

    left = 1_000

    def put(self, files: Iterable[tuple[str, bytes]]) -> None:
        for one in files:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            super().put([one])


def test_it_goes_on_wherever_it_was_killed() -> None:
    for left in range(12):
        store = Dying()
        log = LogArchive(store, "test", LOG_ID, 0)
        log.put([bundle_of(archived(0), 0)], log.writer())
        store.left = left
        with contextlib.suppress(KeyboardInterrupt):
            log.put([bundle_of(archived(1), 1)], log.writer())
        store.left = 1_000
        other = again(store)
        for index in range(other.bundles):  # what counts as there is whole
            assert other.bundle(index).records == archived(index)
        for index in range(other.bundles, 2):
            other.put([bundle_of(archived(index), index)], other.writer())
        assert again(store).bundles == 2 and again(store).bundle(1).records == archived(1)
        assert list(check_all(2 * WIDTH, again(store).nodes()))


def test_an_offset_is_found_by_halving() -> None:
    store, _ = made()
    log = again(store)
    for record in RECORDS[: 2 * WIDTH : 37]:
        found = log.bundle(log.holding(record.offset))
        assert record.offset in [one.offset for one in found.records]
    assert log.holding(-1) == 0
    assert log.holding(RECORDS[2 * WIDTH - 1].offset + 1) == 2


def test_what_is_missing_or_changed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BUNDLES_KEPT", 0)
    store, log = made()
    for name in sorted(store.files):
        if not name.endswith(("/000", "/001")) or "/tile/1/" in name:
            continue
        data = store.files.pop(name)
        index = int(name[-3:])
        with pytest.raises(Terminal, match="is not whole in the archive"):
            log.bundle(index)
        store.files[name] = data[:-1] + bytes([data[-1] ^ 1])
        with pytest.raises(ArchiveFault):
            log.bundle(index)
        store.files[name] = data
        assert log.bundle(index).n == index


def test_the_next_bundle_is_one_chain() -> None:
    first, second = bundle_of(archived(0), 0), bundle_of(archived(1), 1)
    assert second.prev == first.last
    other = [Archived(one.offset, 0, one.value) for one in archived(0)]
    with pytest.raises(ArchiveFault):
        bundle_of(other, 1)


# -- under the signed head ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "signed"), [(600, 600), (600, 300), (512, 512), (700, 100)])
def test_the_archive_is_what_was_signed(tmp_path: Path, events: int, signed: int) -> None:
    records = dense(events)
    settings = Settings(env="dev", home=tmp_path)
    control = Control(log_id=LOG, keys={KEY.kid: registered()})
    tree = opened(FolderStore(tmp_path / "tiles"))
    feed(tree, records[:signed])
    head = seal(tree)
    assert head is not None
    tree.keep(head)
    archiving = Archiving(settings, control)
    log = archiving.log(0)
    writer = log.writer()
    for index in range(events // WIDTH):
        log.put([bundle_of([Archived(o, 0, v) for o, v in records[index * WIDTH :][:WIDTH]], index)], writer)
    assert archiving._under_checkpoint(log) == signed
    forked = dense(events, fork_at=21)
    other = Archiving(Settings(env="dev", home=tmp_path / "fork"), control)
    shutil.copytree(tmp_path / "tiles", tmp_path / "fork" / "tiles")
    log, writer = other.log(0), TileWriter()
    for index in range(events // WIDTH):
        log.put([bundle_of([Archived(o, 0, v) for o, v in forked[index * WIDTH :][:WIDTH]], index)], writer)
    with pytest.raises(ArchiveFault, match="is not what its checkpoint"):
        other._under_checkpoint(log)


def registered() -> Key:
    """The checkpointer's key, as control has it."""
    return Key(KEY.kid, "log", ROLE, "Ed25519", PUBLIC, 0, 2**60)


def test_what_bounds_a_trim_is_never_clickhouse_that_has_all_it_was_asked_for() -> None:
    """ClickHouse is asked only as far as the others reach: a young ledger without a snapshot is bound by that."""
    assert Cut(0, 0, archived=512, in_clickhouse=0, snapshot=0, old=256).bound_by == "snapshot"
    assert Cut(0, 0, archived=512, in_clickhouse=0, snapshot=512, old=0).bound_by == "age"
    assert Cut(0, 0, archived=512, in_clickhouse=9, snapshot=512, old=256).bound_by == "clickhouse"
