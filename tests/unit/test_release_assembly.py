"""Releases put together from the topic: chunks are put together in any order, and what never becomes whole is bounded."""

from __future__ import annotations

import pytest
from sluicegate.processors.releases import assembly
from sluicegate.processors.releases.assembly import MAX_PARTS, Assembly
from sluicegate.schemas.records import ReleaseChunk


def chunk(digest: str, index: int, count: int, data: bytes) -> ReleaseChunk:
    return ReleaseChunk(digest, index, count, data)


def test_chunks_in_any_order_and_twice() -> None:
    found = Assembly()
    assert found.add(chunk("a", 2, 3, b"c")) is None
    assert found.add(chunk("b", 0, 2, b"x")) is None
    assert found.add(chunk("a", 0, 3, b"a")) is None
    assert found.add(chunk("a", 0, 3, b"a")) is None
    assert found.add(chunk("a", 0, 2, b"ab")) is None  # published again, cut otherwise
    assert found.add(chunk("a", 1, 3, b"b")) == b"abc"
    assert found.add(chunk("b", 1, 2, b"y")) == b"xy"


def test_what_never_becomes_whole_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "MAX_PACKED_BYTES", 1_000)
    found = Assembly()
    for n in range(100):
        assert found.add(chunk(f"half-{n}", 0, 2, b"x" * 300)) is None
        assert found._bytes <= 1_000 and len(found._parts) <= 3
    assert found.add(chunk("half-99", 1, 2, b"y")) == b"x" * 300 + b"y"


def test_a_part_that_was_wrong_is_replaced_and_what_is_whole_is_forgotten() -> None:
    found = Assembly()
    found.add(chunk("a", 0, 2, b"wrong"))
    assert found.add(chunk("a", 1, 2, b"b")) == b"wrongb"  # its reader sees that this is not "a"
    assert found.add(chunk("a", 0, 2, b"a")) == b"ab"
    found.add(chunk("a", 0, 3, b"a"))
    found.add(chunk("b", 0, 2, b"xy"))
    found.forget("a")
    assert found._bytes == 2 and list(found._parts) == [("b", 2)]


@pytest.mark.parametrize(("index", "count"), [(-1, 1), (1, 1), (0, 0), (0, MAX_PARTS + 1)])
def test_a_chunk_of_no_form_is_left_out(index: int, count: int) -> None:
    assert Assembly().add(chunk("a", index, count, b"x")) is None
