"""The archive's files: 256 ledger records as a C2SP entry bundle, and beside it what the bundle's hashes vouch for.

    tile/entries/<N>   C2SP tlog-tiles: each entry is a header, so that its leaf hash is the tree's; 2 bytes of length each
    record/<N>         what Kafka had besides: offset, time, facts and sealed content of the same 256, compressed

A record is made of both byte for byte, or it is refused. Only whole bundles: their names never change. Never opens a file, and
opens no content: what was sealed stays sealed. Next: `transparency/tiles.py` (names), `streams/archive/archive.py` (who keeps them).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from sluicegate.processors.outcomes import ZERO_HASH, header_hash
from sluicegate.processors.transparency.tiles import WIDTH, entries_path, number
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.positions import varint
from sluicegate.schemas.topics import RECORD_LIMIT_BYTES

MAX_HEADER_BYTES = 0xFFFF
"""What two bytes of length can say."""

MAX_UNPACKED_BYTES = WIDTH * RECORD_LIMIT_BYTES
"""256 of the largest records, 268 MB; usual ones are 200 kB together."""

_PREFIX = codec.schema_of(r.Outcome).prefix


class ArchiveFault(Terminal):
    """A file of the archive that is not what the ledger was."""


class Archived(NamedTuple):
    """One ledger record, as it stood in Kafka. `time_ms` is Kafka's."""

    offset: int
    time_ms: int
    value: bytes


class Bundle(NamedTuple):
    """256 records.

    Attributes:
        first: `seq` of the first one.
        prev: hash that the first one names; `last`: hash of the last one.
        leaves: leaf hashes.
    """

    first: int
    prev: bytes
    last: bytes
    leaves: list[bytes]
    records: list[Archived]

    @property
    def n(self) -> int:
        """Its number."""
        return self.first // WIDTH

    @property
    def next_offset(self) -> int:
        """Where Kafka goes on after it."""
        return self.records[-1].offset + 1


def entries_name(index: int) -> str:
    """Name of the bundle's C2SP half."""
    return entries_path(index)


def records_name(index: int) -> str:
    """Name of the other half."""
    return f"record/{number(index)}"


def bundle_of(records: Sequence[Archived], index: int) -> Bundle:
    """Check 256 records, that they are this bundle's and one chain. Raises `ArchiveFault`."""
    if len(records) != WIDTH:
        raise ArchiveFault(f"bundle {index} has {len(records)} records, not {WIDTH}")
    leaves: list[bytes] = []
    prev = last = ZERO_HASH
    before = -1
    for at, record in enumerate(records):
        seq = index * WIDTH + at
        try:
            parts = reading.split(record.value)
            head = reading.head(parts.header)
        except Unreadable as error:
            raise ArchiveFault(f"event {seq} of bundle {index} cannot be read: {error}") from error
        if head.seq != seq or (at and head.prev_hash != last) or record.offset <= before:
            raise ArchiveFault(f"event {seq} of bundle {index} does not follow the one before it")
        if hashlib.sha256(parts.facts).digest() != head.facts_hash or not _same(
            head.content_commitment, parts.content
        ):
            raise ArchiveFault(
                f"event {seq} of bundle {index} has other facts or content than its header says"
            )
        prev = head.prev_hash if not at else prev
        last = header_hash(parts.header)
        before = record.offset
        leaves.append(last)
    return Bundle(index * WIDTH, prev, last, leaves, list(records))


def _same(commitment: bytes | None, content: bytes | None) -> bool:
    if content is None or commitment is None:
        return content is commitment
    return hashlib.sha256(content).digest() == commitment


def files_of(bundle: Bundle) -> list[tuple[str, bytes]]:
    """(name, bytes) of both halves. Raises `ArchiveFault` for a record that they would not give back."""
    entries, rests = [], []
    for at, (offset, time_ms, value) in enumerate(bundle.records):
        header, _ = reading.split_two(value)
        rest = value[len(_PREFIX) + len(codec.encode_long(len(header))) + len(header) :]
        if len(header) > MAX_HEADER_BYTES or _value(header, rest) != value:
            raise ArchiveFault(f"event {bundle.first + at} cannot be archived as it stands in kafka")
        entries.append(len(header).to_bytes(2, "big") + header)
        rests += [codec.encode_long(offset), codec.encode_long(time_ms), codec.encode_long(len(rest)), rest]
    return [
        (entries_name(bundle.n), b"".join(entries)),
        (records_name(bundle.n), zlib.compress(b"".join(rests), 6)),
    ]


def _value(header: bytes, rest: bytes) -> bytes:
    return b"".join((_PREFIX, codec.encode_long(len(header)), header, rest))


def read_bundle(index: int, entries: bytes, packed: bytes, tile: bytes) -> Bundle:
    """The records of both halves, each checked, and all of them against the tree's tile of the same 256 leaves.

    Raises `ArchiveFault` for anything else than was archived.
    """
    try:
        headers = _entries(entries)
        data = _unpacked(packed)
        records, p = [], 0
        for header in headers:
            offset, p = _long(data, p)
            time_ms, p = _long(data, p)
            size, p = _long(data, p)
            if not 0 <= size <= len(data) - p:
                raise ValueError("a length beyond the end")
            records.append(Archived(offset, time_ms, _value(header, data[p : p + size])))
            p += size
        if p != len(data):
            raise ValueError("more than 256 records")
    except (ValueError, IndexError, zlib.error) as error:
        raise ArchiveFault(
            f"bundle {index} of the archive is damaged ({error}), restore it from a copy"
        ) from error
    found = bundle_of(records, index)
    # INVARIANT: no byte of a header is taken that the tree does not vouch for (tests/unit/test_entry_bundles.py).
    if b"".join(found.leaves) != tile:
        raise ArchiveFault(
            f"bundle {index} of the archive is not what its tile says, restore both from a copy"
        )
    return found


def _entries(data: bytes) -> list[bytes]:
    found, p = [], 0
    while p < len(data):
        size = int.from_bytes(data[p : p + 2], "big")
        entry = data[p + 2 : p + 2 + size]
        if len(entry) != size or p + 2 > len(data):
            raise ValueError("an entry is cut off")
        found.append(entry)
        p += 2 + size
    if len(found) != WIDTH:
        raise ValueError(f"{len(found)} entries, not {WIDTH}")
    return found


def _unpacked(packed: bytes) -> bytes:
    reader = zlib.decompressobj()
    data = reader.decompress(packed, MAX_UNPACKED_BYTES)
    if not reader.eof or reader.unused_data or reader.unconsumed_tail:
        raise ValueError("not one compressed whole")
    return data


def _long(data: bytes, p: int) -> tuple[int, int]:
    n, p = varint(data, p)
    return (n >> 1) ^ -(n & 1), p


# -- what Kafka may forget ------------------------------------------------------------------------------------------------


def may_forget(archived: int, in_clickhouse: int, snapshot: int, young_from: int) -> int:
    """How many events of a partition Kafka may forget, counted from its first: whole bundles that are archived *and* in
    ClickHouse *and* below a snapshot (so that a takeover folds no archive) *and* older than what is kept anyway."""
    # INVARIANT: kafka never forgets what is not archived and in clickhouse (tests/unit/test_entry_bundles.py).
    least = min(archived, in_clickhouse, snapshot, young_from)
    return max(0, least) // WIDTH * WIDTH
