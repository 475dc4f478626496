"""What is done to ClickHouse is found by `ledger verify`: rows dropped, added, rewritten; and a ledger whose tail was cut off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sluicegate.sinks import tables
from sluicegate.sinks.header_sql import WITH, header_sql

from tests.mutations.rows import TAMPERINGS, Filled, fill, tamper


@pytest.fixture(scope="module")
def filled(clickhouse: str) -> Iterator[Filled]:
    made = fill(clickhouse)
    yield made
    made.client.close()


def test_each_is_found_and_named(filled: Filled) -> None:
    assert filled.violations() == {}
    for what, sql, seq in TAMPERINGS:
        found = tamper(filled, sql)
        assert set(found) == {"clickhouse"}, what
        assert found["clickhouse"][0] == seq, what
    assert filled.violations() == {}


def test_a_tail_that_the_ledger_lost(filled: Filled) -> None:
    found = filled.violations(cut=3)
    assert set(found) == {"clickhouse"}
    assert found["clickhouse"][0] == len(filled.scene.records) - 3
    assert "its tail was cut off" in found["clickhouse"][1]


def test_every_column_of_the_header_is_in_its_bytes(filled: Filled) -> None:
    """Whatever the ledger writes, ClickHouse puts the same bytes together."""
    query = f"WITH {WITH} SELECT count(), countIf(header = {header_sql()}) FROM `{filled.database}`.events"
    count, same = filled.client.query(query).result_rows[0]
    assert count == same == len(filled.scene.records)
    known = header_sql()
    assert all(column in known for column in tables.EVENTS.names[2:28] if column != "log_id")
