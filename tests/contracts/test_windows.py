"""The contract of what the sentinel reads: in memory, and over the embedded ClickHouse as the sink fills it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from sluicegate.schemas.errors import Retryable
from sluicegate.sinks import ddl
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.sinks.writer import Sink
from sluicegate.streams.windows import MemoryWindows, Windows
from sluicegate.streams.windows_clickhouse import ClickHouseWindows

from tests.clickhouse_rollups import Open, ranges
from tests.driver import LOG_ID, Driver
from tests.windows_contract import LOG, WindowsContract, day, seen_of

_numbers = count()


class TestMemory(WindowsContract):
    """The reference."""

    def filled(self, driver: Driver) -> Windows:
        return MemoryWindows(LOG, seen_of(driver))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path_factory.mktemp("windows")) as running:
        yield running


class TestEmbedded(WindowsContract):
    """chDB."""

    running: EmbeddedClickHouse

    @pytest.fixture(autouse=True)
    def _server(self, server: EmbeddedClickHouse) -> None:
        self.running = server

    def filled(self, driver: Driver) -> Windows:
        sink = self.running.connect("sink")
        name = f"windows-{next(_numbers)}"
        ddl.ensure_schema(sink, name)
        writer = Sink(lambda: sink, name, Open(driver))
        for frozen in ranges(driver, 9):
            writer.write(frozen, True)
            writer.write(frozen, False)  # repeated: nothing is counted twice
            writer.rollup(LOG_ID, 0).step(frozen.last_seq)
        return ClickHouseWindows(lambda: self.running.connect("reader"), name)

    def test_rows_that_are_gone_are_missed(self) -> None:
        d = day()
        windows = self.filled(d)
        name = windows._database  # type: ignore[attr-defined]
        self.running.connect("sink").command(f"DELETE FROM `{name}`.events WHERE seq = 7")
        last = len(d.records) - 1
        assert windows.stored(LOG)[0].seq == last  # the manifest still promises it
        assert windows.count(LOG, {0: 2}, {0: last}) == last - 2 - 1

    def test_without_tables_it_is_away(self) -> None:
        windows = ClickHouseWindows(lambda: self.running.connect("reader"), "no-such-database")
        with pytest.raises(Retryable, match="clickhouse does not answer"):
            windows.stored(LOG)
