"""Rows of a canary: what a ledger record becomes, and what of ClickHouse counts as complete.

The ledger is a real one in memory; the client of ClickHouse is a stand-in with tables, `tests/integration/test_canary.py` has a
real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sluicegate.processors.canary.judge import ABORT, judge
from sluicegate.processors.canary.progress import FOR_EVER, Progress, begin
from sluicegate.processors.canary.scores import Item, Row, Scores
from sluicegate.processors.control.deployments import drawn
from sluicegate.schemas.records import Score
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import canary_rows
from sluicegate.streams.watch.canary_rows import SKEW_US, ClickHouseRows, row_of

from tests.driver import AGENT, PERSON, Driver, release

ONE, TWO = release(edition="1"), release(edition="two")


@pytest.fixture
def d() -> Driver:
    driver = Driver()
    driver.deploy(ONE)
    driver.publish(TWO)
    driver.control_event("canary.started", digest=TWO.digest, weight_bp=5_000, auto=True)
    return driver


def rows(d: Driver) -> Iterator[Row]:
    return (row for record in d.records if (row := row_of(0, record.value)) is not None)


def arms(d: Driver, count: int) -> dict[str, bool]:
    canary = d.control.canary
    assert canary is not None
    return {f"s{n}": drawn(canary, AGENT, f"s{n}") for n in range(count)}


def items(d: Driver) -> list[Item]:
    assert d.control.canary is not None
    fold = Scores(d.control.canary)
    return [item for row in rows(d) for item in fold.add(row)]


def test_sessions_of_a_real_ledger(d: Driver) -> None:
    d.everyday()
    for name, bad in arms(d, 12).items():
        d.open_session(name)
        d.finish(d.call("desk.read", session=name).dispatches[0])
        if bad:
            d.call("desk.pay", {"value": 7}, session=name)
        d.close_session(name)
        for value, metric in ((900, "tone"), (2_549, "quality"), (9_000, "quality")):
            d.feed("reviews", Score(d.new_id("q"), AGENT, name, PERSON, "person", metric, value, d.now))
    found = [item for item in items(d) if item.closed][1:]
    assert [(i.arm, dict(i.scores)["refusal"]) for i in found] == [
        ("canary", 100) if bad else ("control", 0) for bad in arms(d, 12).values()
    ]
    qualities = [item.scores for item in items(d) if not item.closed]
    assert qualities == [(("quality", 25),)] * 12  # the first that is one, not the one of another metric
    everyday = dict(items(d)[0].scores)
    assert everyday["refusal"] == 100 and everyday["ungrounded"] == 0


def progress(d: Driver) -> Progress:
    assert d.control.canary is not None
    return begin(d.control.canary, ONE, TWO)


def test_rows_in_two_portions_twice_and_late(d: Driver) -> None:
    for name, bad in arms(d, 60).items():
        d.open_session(name)
        d.call("desk.pay", {"value": 7 if bad else "fine"}, session=name)
        d.close_session(name)
    every = list(rows(d))
    whole = progress(d)
    assert whole.feed(every, FOR_EVER) == ABORT
    assert whole.judge.evidence() == judge(ONE.canary, whole.judge.canary, items(d)).evidence()
    for cut in range(0, len(every), 17):
        parts = progress(d)
        parts.feed(every[:cut], every[cut].at)
        parts.feed(every[max(0, cut - 9) :], FOR_EVER)  # some of them again
        assert parts.judge.evidence() == whole.judge.evidence() and parts.late == 0
    late = progress(d)
    late.feed([], every[-1].at + 1)
    late.feed(every, FOR_EVER)
    assert (
        late.late == 60 and late.judge.verdict == "continue"
    )  # nothing of what should have been there earlier counts


# -- what is complete --------------------------------------------------------------------------------------------------


@dataclass
class Tables:
    """What ClickHouse holds: ranges (partition, first, last, offset, until) and events (partition, seq)."""

    ranges: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)

    def query(self, sql: str) -> Any:
        if "GROUP BY partition" in sql:
            return SimpleNamespace(result_rows=[])
        if "ingest_batches" in sql:
            known = dict(re.findall(r"partition = (\d+) AND last_offset > (-?\d+)", sql))
            return SimpleNamespace(
                result_rows=[r for r in sorted(self.ranges) if r[3] > int(known[str(r[0])])]
            )
        spans = re.findall(r"src_partition = (\d+) AND seq BETWEEN (\d+) AND (\d+)", sql)
        limit = int(sql.rsplit("LIMIT ", 1)[1].split()[0])
        found = []
        for p, a, b in spans:
            mine = [seq for q, seq in sorted(self.events) if q == int(p) and int(a) <= seq <= int(b)]
            found += [
                (seq * 10, int(p), seq, "routed", "", [], "i", "a", "s", 0, "r", False, 0)
                for seq in mine[:limit]
            ]
        return SimpleNamespace(result_rows=found)


@pytest.fixture
def source(tmp_path: Path) -> tuple[ClickHouseRows, Tables]:
    tables = Tables()
    return ClickHouseRows(Settings(home=tmp_path), bytes(16), 2, 0, _client=tables), tables


def read(source: ClickHouseRows, quiet: tuple[int, ...] = ()) -> tuple[list[tuple[int, int]], int]:
    source.manifest()
    found, until = source.rows(quiet, 50_000_000)
    return [(row.partition, row.seq) for row in found], until


def test_nothing_behind_a_hole_is_read(source: tuple[ClickHouseRows, Tables]) -> None:
    rows_, tables = source
    tables.events = [(p, seq) for p in (0, 1) for seq in range(30)]
    tables.ranges = [(0, 0, 9, 11, 90), (1, 0, 29, 31, 290), (0, 20, 29, 33, 290)]
    found, until = read(rows_)
    assert found == [(0, n) for n in range(10)] + [(1, n) for n in range(30)] and until == 90
    assert rows_.copies[0].hole and not rows_.copies[1].hole
    tables.ranges.append((0, 10, 19, 22, 190))
    assert read(rows_) == ([(0, n) for n in range(10, 30)], 290)
    assert not rows_.copies[0].hole
    assert read(rows_) == ([], 290)


def test_a_silent_partition_holds_nothing_up_when_kafka_says_so(
    source: tuple[ClickHouseRows, Tables],
) -> None:
    rows_, tables = source
    tables.events, tables.ranges = [(0, 0), (0, 1)], [(0, 0, 1, 3, 40_000_000)]
    assert read(rows_)[1] == 0  # partition 1 may hold anything
    assert read(rows_, (1,))[1] == 40_000_000
    assert read(rows_, (0, 1))[1] == 50_000_000 - SKEW_US


def test_a_late_watcher_catches_up_in_portions(
    source: tuple[ClickHouseRows, Tables], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_rows, "CHUNK_ROWS", 8)
    rows_, tables = source
    tables.events = [(0, seq) for seq in range(20)]
    tables.ranges = [(0, 0, 19, 21, 190)]
    found = [read(rows_, (1,)) for _ in range(3)]
    assert [until for _, until in found] == [70, 150, 190]
    assert [seq for portion, _ in found for _, seq in portion] == list(range(20))
