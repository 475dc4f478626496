"""The contract of what the sentinel reads: in memory, and over the embedded ClickHouse as the sink fills it."""

from __future__ import annotations

import uuid

import pytest
from sluicegate.schemas.errors import Retryable
from sluicegate.sinks import ddl
from sluicegate.sinks.embedded import connect
from sluicegate.sinks.writer import Sink
from sluicegate.streams.watch.windows import MemoryWindows, Windows
from sluicegate.streams.watch.windows_clickhouse import ClickHouseWindows

from tests.clickhouse_rollups import Open, ranges
from tests.driver import LOG_ID, Driver
from tests.windows_contract import LOG, WindowsContract, day, seen_of


class TestMemory(WindowsContract):
    """The reference."""

    def filled(self, driver: Driver) -> Windows:
        return MemoryWindows(LOG, seen_of(driver))


class TestEmbedded(WindowsContract):
    """chDB."""

    url: str

    @pytest.fixture(autouse=True)
    def _server(self, clickhouse: str) -> None:
        self.url = clickhouse

    def filled(self, driver: Driver) -> Windows:
        sink = connect(self.url, "sink")
        name = f"windows-{uuid.uuid4().hex[:8]}"
        ddl.ensure_schema(sink, name)
        writer = Sink(lambda: sink, name, Open(driver))
        for frozen in ranges(driver, 9):
            writer.write(frozen, True)
            writer.write(frozen, False)  # repeated: nothing is counted twice
            writer.rollup(LOG_ID, 0).step(frozen.last_seq)
        return ClickHouseWindows(lambda: connect(self.url), name)

    def test_rows_that_are_gone_are_missed(self) -> None:
        d = day()
        windows = self.filled(d)
        name = windows._database  # type: ignore[attr-defined]
        connect(self.url, "sink").command(f"DELETE FROM `{name}`.events WHERE seq = 7")
        last = len(d.records) - 1
        assert windows.stored(LOG)[0].seq == last  # the manifest still promises it
        assert windows.count(LOG, {0: 2}, {0: last}) == last - 2 - 1

    def test_without_tables_it_is_away(self) -> None:
        windows = ClickHouseWindows(lambda: connect(self.url), "no-such-database")
        with pytest.raises(Retryable, match="clickhouse does not answer"):
            windows.stored(LOG)
