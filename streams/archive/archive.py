"""The archive: old records of the ledger in a folder or an object store, as tiles and entry bundles, and read back from there.

    SLUICEGATE_ARCHIVE   where (default: `archive` in the state directory), as SLUICEGATE_TILES is given

    <archive>/<environment>/<log id>/<partition>/tile/<L>/<N>, tile/entries/<N>   C2SP tlog-tiles: any client reads it
                                                /record/<N>                       facts, sealed content, Kafka's offsets
                                                /archived                         how far; a hint, may be lost

    1. Copy    whole bundles of 256 events, each checked and durable before the hint moves; killed anywhere, it goes on
    2. Trim    Kafka forgets what is archived, read back and checked, *and* in ClickHouse, *and* below a snapshot

Who reads the ledger through `scan.py` or `lanes/recovery.py` reads what Kafka has no more from here, without a word. Never deletes
from the archive. Next: `processors/transparency/entry_bundles.py` (the files), `archive/archiving.py` (the two steps), docs/archive.md.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.processors.transparency.checkpoints import origin_of
from sluicegate.processors.transparency.entry_bundles import (
    Bundle,
    entries_name,
    files_of,
    read_bundle,
    records_name,
)
from sluicegate.processors.transparency.tiles import WIDTH, Read, Tile, TileWriter
from sluicegate.processors.verify import reading
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import tile_store
from sluicegate.streams.transparency.tile_store import TileStore, folder_of, reader

VARIABLE = "SLUICEGATE_ARCHIVE"
ARCHIVED = "archived"
MAX_BUNDLES_KEPT = 8
"""Bundles that a reader keeps unpacked: 8 times 200 kB, and at most 8 times 268 MB of the largest records there can be."""
POLL_MS = 50
GROUP = 16
"""Bundles that are written together, so that they share their syncs: 3 MB of usual records."""


def store_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> TileStore:
    """The store this process was told of: what SLUICEGATE_TILES can name, SLUICEGATE_ARCHIVE can."""
    where = environ.get(VARIABLE, "").strip() or str(settings.home / "archive")
    return tile_store.store_of(settings, {**environ, tile_store.VARIABLE: where})


class LogArchive:
    """One partition's archive. Blocking: give it a thread."""

    def __init__(self, store: TileStore, env: str, log_id: bytes, partition: int) -> None:
        self.origin = origin_of(env, log_id, partition)
        self.partition = partition
        self._store, self._folder = store, folder_of(self.origin)
        self._kept: OrderedDict[int, Bundle] = OrderedDict()
        self._count: int | None = None

    @property
    def size(self) -> int:
        """Events that are archived: whole bundles, from `seq` 0 on without a hole."""
        return self.bundles * WIDTH

    @property
    def bundles(self) -> int:
        """Bundles that are archived."""
        if self._count is None:
            self._count = self._end()
        return self._count

    @property
    def next_offset(self) -> int:
        """Where Kafka goes on behind it; 0 when nothing is archived."""
        return self.bundle(self.bundles - 1).next_offset if self.bundles else 0

    def bundle(self, index: int) -> Bundle:
        """A bundle, checked. Raises `ArchiveFault` for one that is damaged, `Terminal` for one that is not there."""
        found = self._kept.get(index)
        if found is None:
            names = (entries_name(index), records_name(index), Tile(0, index).path)
            entries, packed, tile = (self._store.get(f"{self._folder}/{name}") for name in names)
            if entries is None or packed is None or tile is None:
                raise Terminal(
                    f"bundle {index} of `{self.origin}` is not whole in the archive, restore it from a copy of `{VARIABLE}`"
                )
            found = self._kept[index] = read_bundle(index, entries, packed, tile)
            if len(self._kept) > MAX_BUNDLES_KEPT:
                self._kept.popitem(last=False)
        return found

    def put(self, bundles: Sequence[Bundle], writer: TileWriter) -> None:
        """Archive the next bundles: their files and the tiles above them are durable when this returns."""
        entries, rests = [], []
        for bundle in bundles:
            for leaf in bundle.leaves:
                writer.append(leaf)
            first, second = files_of(bundle)
            entries.append(first)
            rests.append(second)
        self._put([*entries, *((tile.path, data) for tile, data in writer.changed())])
        # INVARIANT: last, since a bundle counts when it is there (tests/unit/test_archive.py).
        self._put(rests)
        writer.settled()
        self._count = bundles[-1].n + 1
        self._put([(ARCHIVED, json.dumps({"bundles": self._count}).encode())])

    def _put(self, files: Sequence[tuple[str, bytes]]) -> None:
        self._store.put([(f"{self._folder}/{name}", data) for name, data in files])

    def writer(self) -> TileWriter:
        """The tree as far as it is archived."""
        return TileWriter(self.size, reader(self._store, self.origin))

    def nodes(self) -> Read:
        """Tiles, for `tiles.check_all` and proofs."""
        return reader(self._store, self.origin)

    def holding(self, offset: int) -> int:
        """The bundle in which an offset is, or the first one behind it."""
        low, high = 0, self.bundles
        while low < high:
            middle = (low + high) // 2
            if self.bundle(middle).next_offset > offset:
                high = middle
            else:
                low = middle + 1
        return low

    def _has(self, index: int) -> bool:
        return self._store.get(f"{self._folder}/{records_name(index)}") is not None

    def _end(self) -> int:
        """How many there are without a hole: from the hint on one by one, without one from the first."""
        at = self._hint()
        if at and not self._has(at - 1):
            at = 0
        while self._has(at):
            at += 1
        return at

    def _hint(self) -> int:
        data = self._store.get(f"{self._folder}/{ARCHIVED}")
        try:
            return max(0, int(json.loads(data or b"{}")["bundles"]))
        except (ValueError, KeyError, TypeError):
            return 0


async def records(
    archive: LogArchive, place: TopicPartition, start: int, end: int
) -> AsyncIterator[list[ConsumerRecord]]:
    """Archived records with `start` <= offset < `end`, in batches, as a consumer gives them: without key and headers."""
    index = await asyncio.to_thread(archive.holding, start)
    while index < archive.bundles:
        bundle = await asyncio.to_thread(archive.bundle, index)
        batch = [_record(place, *one) for one in bundle.records if start <= one.offset < end]
        if batch:
            yield batch
        if bundle.next_offset >= end:
            return
        index += 1


def _record(place: TopicPartition, offset: int, time_ms: int, value: bytes) -> ConsumerRecord:
    return ConsumerRecord(
        place.topic, place.partition, offset, time_ms, 0, None, value, None, 0, len(value), ()
    )  # fmt: skip


class Below(NamedTuple):
    """What is archived below Kafka's begin."""

    archive: LogArchive
    begin: int


async def below(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int = 0, begin: int | None = None
) -> Below | None:
    """The archive that has the records from `start` to where Kafka begins; None where Kafka has them itself, or nobody has.

    `begin`: where that is, from whoever asked just now. Raises `Terminal` when there is a gap between the two.
    """
    settings = kafka.settings_of(consumer)
    if settings is None or not _is_ledger(settings, place.topic):
        return None
    if begin is None:
        begin = (await consumer.beginning_offsets([place]))[place]
    if start >= begin:
        return None
    log_id = await _log_id(consumer, place, begin)
    if log_id is None:
        return None
    found = await asyncio.to_thread(_open, settings, log_id, place.partition)
    reaches = await asyncio.to_thread(lambda: found.next_offset)
    if not reaches:
        return None
    if reaches < begin:
        raise Terminal(
            f"`{place.topic}`/{place.partition} begins at {begin} in kafka, and its archive ends at {reaches}: what is between is gone, "
            f"restore `{VARIABLE}` from a copy"
        )
    return Below(found, begin)


def _is_ledger(settings: Settings, topic: str) -> bool:
    """Whether it is the ledger of any generation."""
    return topic.partition(".")[0] == settings.env and topic.rpartition(".")[2] == "outcomes"


def _open(settings: Settings, log_id: bytes, partition: int) -> LogArchive:
    return LogArchive(store_of(settings), settings.env, log_id, partition)


async def _log_id(consumer: AIOKafkaConsumer, place: TopicPartition, begin: int) -> bytes | None:
    """Which log the partition is of, from the first record that Kafka has. One always stays (`archive/archiving.py`)."""
    consumer.assign([place])
    consumer.seek(place, begin)
    end = (await consumer.end_offsets([place]))[place]
    try:
        while await consumer.position(place) < end:
            found = (await consumer.getmany(place, timeout_ms=POLL_MS, max_records=1)).get(place, [])
            if found:
                return reading.head(reading.split_two(found[0].value or b"")[0]).log_id
    finally:
        consumer.pause(place)  # unsubscribing would end aiokafka's fetch task in mid-flight
    return None
