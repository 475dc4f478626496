"""Folding a partition from a store: cuts, digests on the way, folds that go on, and where two stores part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.agents.values import encode
from sluicegate.processors.state import PartitionState
from sluicegate.processors.verify.reading import head, split_two
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.memory import parse_as_of as memory_as_of
from sluicegate.streams.commands.rebuild import parse_as_of
from sluicegate.streams.commands.rollback_agent import parse_to
from sluicegate.streams.lanes.recovery import fold_record
from sluicegate.streams.rebuild import files as rebuild_files
from sluicegate.streams.rebuild import rebuild
from sluicegate.streams.rebuild.agent import fold_agent
from sluicegate.streams.rebuild.agent_rollback import To
from sluicegate.streams.rebuild.compare import Difference, first_difference
from sluicegate.streams.rebuild.rebuild import AsOf, Folded, Task, fold, tasks_for
from sluicegate.streams.rebuild.remembering import Cut
from sluicegate.streams.stores import Batch, Event

from tests.driver import AGENT, LOG_ID, T0, Driver, read

ROWS = 7
"""Of a batch, so that every cut falls into one somewhere."""


class MemoryStore:
    """A ledger partition in memory; a cursor is a place in it."""

    def __init__(self, d: Driver, name: str = "kafka") -> None:
        self.name = name
        self.rows: list[Event] = [split_two(record.value) for record in d.records]
        self.ends_after = 1 << 62

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def count(self, partition: int) -> int:
        return len(self.rows)

    async def events(self, partition: int, cursor: int = 0) -> AsyncIterator[Batch]:
        for at in range(cursor, len(self.rows), ROWS):
            if at >= self.ends_after:
                raise KeyboardInterrupt
            yield Batch(self.rows[at : at + ROWS], at + ROWS)

    async def between(self, partition: int, first: int, last: int) -> AsyncIterator[Batch]:
        found = [row for row in self.rows if first <= head(row[0]).seq <= last]
        for at in range(0, len(found), ROWS):
            yield Batch(found[at : at + ROWS], at + ROWS)


@pytest.fixture(scope="module")
def driver() -> Driver:
    d = Driver()
    d.everyday(3)
    return d


def state_at(d: Driver, seq: int) -> PartitionState:
    state = PartitionState(b"", 0)
    for record in d.records[: seq + 1]:
        fold_record(state, record.value)
    return state


def folded(store: MemoryStore, **task: object) -> Folded:
    return asyncio.run(fold(store, Task(store.name, 0, LOG_ID, **task)))[0]  # type: ignore[arg-type]


def test_the_whole_ledger_gives_the_live_state(driver: Driver) -> None:
    found = folded(MemoryStore(driver))
    assert (found.digest, found.seq, found.broken) == (
        snapshot.digest(driver.state).hex(),
        len(driver.records) - 1,
        "",
    )
    assert found.state_bytes == len(snapshot.encode(driver.state))
    assert found.header_hash == driver.state.prev_hash.hex()


@pytest.mark.parametrize("cut", [-1, 0, 1, 6, 7, 13, 40])
def test_a_cut_by_position_and_digests_on_the_way(driver: Driver, cut: int) -> None:
    found = folded(MemoryStore(driver), cut=cut)
    assert (found.seq, found.digest) == (cut, snapshot.digest(state_at(driver, cut)).hex())
    marked = folded(MemoryStore(driver), marks=(cut,)) if cut >= 0 else None
    assert marked is None or marked.digests == {cut: found.digest}


def test_a_cut_by_time_is_the_last_record_of_that_moment(driver: Driver) -> None:
    at = read(driver.records[30]).header.decided_at
    found = folded(MemoryStore(driver), until=at)
    last = max(n for n, record in enumerate(driver.records) if read(record).header.decided_at <= at)
    assert (found.seq, found.digest) == (last, snapshot.digest(state_at(driver, last)).hex())
    assert folded(MemoryStore(driver), until=T0 - 1).seq == -1


def test_a_cut_behind_the_end_is_said(driver: Driver) -> None:
    assert "ends at" in folded(MemoryStore(driver), cut=10_000).broken


def test_a_fold_that_was_ended_goes_on(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_files, "KEEP_EVENTS", 20)
    monkeypatch.setattr(rebuild, "CHECKPOINT_EVENTS", 5)
    whole = folded(MemoryStore(driver))
    store = MemoryStore(driver)
    store.ends_after = 49
    with pytest.raises(KeyboardInterrupt):
        folded(store, folder=tmp_path)
    kept = rebuild_files.load(tmp_path, "kafka", 0, LOG_ID)
    assert kept is not None and 20 <= kept.state.seq <= 49
    assert rebuild_files.load(tmp_path, "kafka", 0, bytes(16)) is None  # of another log
    read_again: list[int] = []
    store.ends_after = 1 << 62
    again, _ = asyncio.run(
        fold(store, Task("kafka", 0, LOG_ID, folder=tmp_path, resume=True), read_again.append)
    )
    assert (again.digest, again.checkpoints) == (whole.digest, whole.checkpoints)
    assert read_again[0] == kept.state.seq
    assert list(tmp_path.iterdir()) == []  # it came to its end
    rebuild_files.keep(tmp_path, "kafka", kept)
    earlier = folded(
        MemoryStore(driver), cut=3, folder=tmp_path, resume=True
    )  # the cut is before what was kept
    assert earlier.digest == snapshot.digest(state_at(driver, 3)).hex()
    assert [path.name for path in tmp_path.iterdir()] == [
        "kafka-0.fold"
    ]  # still there for who goes to the end


def test_what_was_kept_and_changed_is_not_taken(driver: Driver, tmp_path: Path) -> None:
    rebuild_files.keep(tmp_path, "kafka", rebuild_files.Kept(state_at(driver, 10), 11, {}))
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    assert rebuild_files.load(tmp_path, "kafka", 0, LOG_ID) is None
    assert (
        folded(MemoryStore(driver), folder=tmp_path, resume=True).digest
        == snapshot.digest(driver.state).hex()
    )


# -- where two stores part ------------------------------------------------------------------------------------------------


def parted(d: Driver, change: object, monkeypatch: pytest.MonkeyPatch) -> Difference | None:
    monkeypatch.setattr(rebuild, "CHECKPOINT_EVENTS", 8)
    one, other = MemoryStore(d), MemoryStore(d, "clickhouse")
    change(other.rows)  # type: ignore[operator]
    a, b = folded(one), folded(other)
    assert (a.digest == b.digest) == (one.rows == other.rows)
    return asyncio.run(first_difference(one, a, other, b))


@pytest.mark.parametrize("seq", [0, 1, 7, 8, 9, 31])
def test_the_first_event_that_differs_is_named(
    driver: Driver, seq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = head(split_two(driver.records[seq].value)[0]).event_id.hex()

    def facts(rows: list[Event]) -> None:
        rows[seq] = (rows[seq][0], rows[seq][1] + b"x")

    def header(rows: list[Event]) -> None:
        h = rows[seq][0]
        at = h.index(bytes.fromhex(event)) + 17  # in the word of the stage
        rows[seq] = (h[:at] + b"z" + h[at + 1 :], rows[seq][1])

    found = parted(driver, facts, monkeypatch)
    assert found is not None and (found.seq, found.event_id) == (seq, event) and "facts" in found.what
    found = parted(driver, header, monkeypatch)
    assert found is not None and (found.seq, found.event_id) == (seq, event) and "header" in found.what


def test_an_event_that_is_missing_and_ends_that_lag(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parted(driver, lambda rows: rows.pop(20), monkeypatch)
    assert found is not None and (found.seq, found.what) == (20, "clickhouse does not have it")
    found = parted(driver, lambda rows: rows.pop(), monkeypatch)
    assert found is not None and found.seq == len(driver.records) - 1
    assert parted(driver, lambda rows: None, monkeypatch) is None


# -- one agent, and what is written on the command line -------------------------------------------------------------------


def test_one_agent_as_of_a_position(driver: Driver) -> None:
    found = asyncio.run(fold_agent(MemoryStore(driver), AGENT, 1, AsOf(cut={0: 50})))
    whole = state_at(driver, 50)
    from sluicegate.processors.agents.values import values_of

    assert encode(found.values()) == encode(values_of(whole, AGENT))
    assert found.state.seq == 51
    with pytest.raises(Terminal, match="says nothing of partition 0"):
        asyncio.run(fold_agent(MemoryStore(driver), AGENT, 1, AsOf(cut={3: 50})))


def test_positions_cuts_and_moments() -> None:
    assert parse_as_of("") == AsOf()
    assert parse_as_of("2:1200") == AsOf(cut={2: 1200})
    assert parse_as_of("0:500,1:-1") == AsOf(cut={0: 500, 1: -1})
    assert parse_as_of("2026-11-18T00:00:00").until == parse_as_of("2026-11-18T01:00:00+01:00").until
    assert parse_to("7") == To(cut=7) and parse_to("2:7") == To(cut=7, partition=2)
    assert parse_to("-1") == To(cut=-1) and parse_to("", 5) == To(undo=5)
    assert memory_as_of("2:7") == Cut(seq=7, partition=2) and memory_as_of("7") == Cut(seq=7)
    assert memory_as_of("") == Cut() and memory_as_of("2026-11-18").at == parse_to("2026-11-18").at
    for text in ("2:", "x:1", "yesterday", "2:1,x"):
        for parse in (parse_as_of, parse_to, memory_as_of):
            with pytest.raises(Terminal, match=r"write `2:1200`"):
                parse(text)
    with pytest.raises(Terminal, match="does not exist"):
        tasks_for("kafka", [0, 1], LOG_ID, AsOf(cut={5: 1}), {})
