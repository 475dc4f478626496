"""Entry bundles: what was archived comes back byte for byte, anything else is refused, and Kafka forgets nothing too early."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.outcomes import header_hash
from sluicegate.processors.transparency import entry_bundles, merkle
from sluicegate.processors.transparency.entry_bundles import (
    Archived,
    ArchiveFault,
    bundle_of,
    files_of,
    may_forget,
    read_bundle,
)
from sluicegate.processors.transparency.tiles import WIDTH, TileWriter
from sluicegate.processors.verify import reading

from tests.driver import Driver, Record


def ledger() -> list[Record]:
    d = Driver()
    while len(d.records) < 2 * WIDTH:
        d.everyday(1)
    return d.records


RECORDS = ledger()


def archived(index: int = 0) -> list[Archived]:
    return [
        Archived(one.offset, 1_777_000_000_000 + one.offset, one.value)
        for one in RECORDS[index * WIDTH : (index + 1) * WIDTH]
    ]


ENTRIES, PACKED = (data for _, data in files_of(bundle_of(archived(), 0)))


TILE = b"".join(bundle_of(archived(), 0).leaves)


def test_both_halves_give_the_records_back() -> None:
    for index in (0, 1):
        bundle = bundle_of(archived(index), index)
        (name, entries), (other, packed) = files_of(bundle)
        assert (name, other) == (f"tile/entries/00{index}", f"record/00{index}")
        again = read_bundle(index, entries, packed, b"".join(bundle.leaves))
        assert again == bundle
        assert again.records == archived(index)
    first, second = bundle_of(archived(0), 0), bundle_of(archived(1), 1)
    assert second.prev == first.last and first.next_offset <= second.records[0].offset


def test_an_entry_is_a_leaf_of_the_tree() -> None:
    """C2SP: the hash of an entry, as any client computes it, is the tree's."""
    writer, p = TileWriter(), 0
    for _ in range(WIDTH):
        size = int.from_bytes(ENTRIES[p : p + 2], "big")
        writer.append(merkle.leaf_hash(ENTRIES[p + 2 : p + 2 + size]))
        p += 2 + size
    assert p == len(ENTRIES)
    other = TileWriter()
    for leaf in bundle_of(archived(), 0).leaves:
        other.append(leaf)
    assert writer.root() == other.root()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_is_found(data: st.DataObject) -> None:
    """In the entries, and in what the other half unpacks to; an offset or a time there is Kafka's word, and in no hash."""
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(ENTRIES) - 1))
        changed = bytearray(ENTRIES)
        changed[at] ^= data.draw(st.integers(1, 255))
        with pytest.raises(ArchiveFault):
            read_bundle(0, bytes(changed), PACKED, TILE)
        return
    plain = zlib.decompress(PACKED)
    at = data.draw(st.integers(0, len(plain) - 1))
    changed = bytearray(plain)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read_bundle(0, ENTRIES, zlib.compress(bytes(changed)), TILE)
    except ArchiveFault:
        return
    assert [one.value for one in found.records] == [one.value for one in archived()]


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_what_is_cut_off_is_refused(cut: int) -> None:
    for entries, packed in ((ENTRIES[:cut], PACKED), (ENTRIES, PACKED[:cut]), (ENTRIES, zlib.compress(zlib.decompress(PACKED)[:cut]))):  # fmt: skip
        with pytest.raises(ArchiveFault):
            read_bundle(0, entries, packed, TILE)


def test_what_is_not_this_bundle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archived()
    for wrong in (
        whole[:-1],
        [*whole[:-1], whole[0]],
        [*whole[:5], whole[6], whole[5], *whole[7:]],
        archived(1),
    ):
        with pytest.raises(ArchiveFault):
            bundle_of(wrong, 0)
    with pytest.raises(ArchiveFault):
        read_bundle(1, ENTRIES, PACKED, TILE)
    with pytest.raises(ArchiveFault, match="cannot be read"):
        bundle_of([whole[0]._replace(value=b"other"), *whole[1:]], 0)
    more = zlib.compress(zlib.decompress(PACKED) + b"\0")
    with pytest.raises(ArchiveFault, match="more than 256"):
        read_bundle(0, ENTRIES, more, TILE)
    monkeypatch.setattr(entry_bundles, "MAX_UNPACKED_BYTES", 1_000)
    with pytest.raises(ArchiveFault, match="not one compressed whole"):
        read_bundle(0, ENTRIES, PACKED, TILE)


def test_other_facts_or_content_than_the_header_says() -> None:
    whole = archived()
    at = next(i for i, one in enumerate(whole) if reading.split(one.value).content is not None)
    value = whole[at].value
    with pytest.raises(ArchiveFault, match="other facts or content"):
        bundle_of(
            [*whole[:at], whole[at]._replace(value=value[:-1] + bytes([value[-1] ^ 1])), *whole[at + 1 :]], 0
        )
    assert header_hash(reading.split(value).header) == bundle_of(whole, 0).leaves[at]


@given(*(st.integers(-5, 5_000) for _ in range(4)))
def test_kafka_forgets_nothing_too_early(archived: int, clickhouse: int, snapshot: int, young: int) -> None:
    n = may_forget(archived, clickhouse, snapshot, young)
    assert n % WIDTH == 0 and n >= 0
    assert n == 0 or n <= min(archived, clickhouse, snapshot, young)
    assert n + WIDTH > min(archived, clickhouse, snapshot, young)
