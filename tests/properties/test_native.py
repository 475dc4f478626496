"""Blocks of our encoder, read back by clickhouse-connect: for every type of the tables, whatever the values are."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.sinks import native, tables

from tests.fake_clickhouse import read_block

TYPES = sorted({kind for table in tables.TABLES if table not in tables.ROLLUPS for kind in table.types})
FEW = st.sampled_from([b"", b"refused", b"released", "é".encode(), b"x" * 200])


def values_of(kind: str) -> st.SearchStrategy[Any]:
    wrapped = re.fullmatch(r"(Nullable|LowCardinality|Array)\((.*)\)", kind)
    if wrapped is not None:
        inner = values_of(wrapped[2])
        if wrapped[1] == "Nullable":
            return st.none() | inner
        if wrapped[1] == "Array":
            return st.lists(inner, max_size=4)
        return FEW | inner
    if kind.startswith("FixedString"):
        size = int(kind[12:-1])
        return st.binary(min_size=size, max_size=size)
    return {
        "String": FEW | st.binary(max_size=40),
        "Bool": st.booleans(),
        "UInt16": st.integers(0, 2**16 - 1),
        "UInt32": st.integers(0, 2**32 - 1),
        "UInt64": st.integers(0, 2**64 - 1),
        "Int64": st.integers(-(2**63), 2**63 - 1),
        "DateTime64(6, 'UTC')": st.integers(0, 4_102_444_800_000_000),
    }[kind]


@given(
    data=st.data(), kinds=st.lists(st.sampled_from(TYPES), min_size=1, max_size=6), rows=st.integers(1, 30)
)
def test_a_block_is_read_as_it_was_given(data: st.DataObject, kinds: list[str], rows: int) -> None:
    types = {f"c{n}": kind for n, kind in enumerate(kinds)}
    columns = {
        name: data.draw(st.lists(values_of(kind), min_size=rows, max_size=rows))
        for name, kind in types.items()
    }
    found = read_block(native.block_of(columns, types))
    assert {name: list(values) for name, values in found.items()} == columns
    # In pieces it is the same block.
    pieces = {name: native.column(kind) for name, kind in types.items()}
    cut = data.draw(st.integers(1, rows))
    for name, values in columns.items():
        for part in (values[:cut], values[cut:]):
            if part:
                pieces[name].add(part)
    assert native.block(rows, pieces, types) == native.block_of(columns, types)


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 65_536, 65_537])
def test_any_number_of_keys(count: int) -> None:
    values = [b"%d" % (n % count) for n in range(count + 10)]
    block = native.block_of({"c": values}, {"c": "LowCardinality(String)"})
    assert list(read_block(block)["c"]) == values


@pytest.mark.parametrize("size", [0, 127, 128, 1_023, 1_024, 20_000])
def test_strings_of_any_length(size: int) -> None:
    values = [b"x" * size, b"", b"y" * size]
    assert list(read_block(native.block_of({"c": values}, {"c": "String"}))["c"]) == values


def test_what_it_does_not_know_and_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not know the type `Map"):
        native.column("Map(String, String)")
    with pytest.raises(ValueError, match=r"columns of \[1, 2\] values make no block"):
        native.block_of({"a": [1, 2], "b": [1]}, {"a": "UInt32", "b": "UInt32"})
    with pytest.raises(OverflowError):
        native.block_of({"a": [2**32]}, {"a": "UInt32"})
