"""The follower of control: a passing fault neither ends it nor leaves an event out, and a broken chain stops it for good."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import rfc8785
from aiokafka import TopicPartition
from sluicegate.processors.control.control import fold, fold_any
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.records import ControlFacts
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.settings import Settings

from tests.driver import Driver, Record, release, release_files


@dataclass
class Topic:
    """The control topic as a consumer sees it: what is there, and where the consumer stands."""

    records: list[Record]
    at: int = 0
    polled: list[int] = field(default_factory=list)

    async def getmany(self, place: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0)
        found = [r for r in self.records if r.offset >= self.at]
        if found:
            self.at = found[-1].offset + 1
        return {place: found}

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at = offset

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self.records[-1].offset + 1)

    async def position(self, place: TopicPartition) -> int:
        return self.at

    async def stop(self) -> None:
        """Nothing is open."""


def reader_of(records: list[Record], home: Path) -> tuple[ControlReader, Topic]:
    reader = ControlReader(Settings(env="test", home=home))
    topic = Topic(records)
    reader._consumer = topic  # type: ignore[assignment]
    return reader, topic


async def until(condition: object, limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_a_passing_fault_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that cannot be fetched at first: the event that deploys it is read again, and those after it follow."""
    driver = Driver()
    driver.control_event("quarantine.added", scope="tool", value="desk.pay", why="a test")
    asked: list[str] = []

    async def fetch(settings: Settings, digest: str) -> dict[str, str]:
        asked.append(digest)
        if len(asked) < 3:
            raise Retryable("kafka does not answer")
        return release_files()

    async def follow() -> None:
        monkeypatch.setattr(control_log.releases, "fetch", fetch)
        monkeypatch.setattr(control_log, "CONFIRM_EVERY_S", 0.01)
        reader, _ = reader_of(driver.control_records, tmp_path)
        reader._task = asyncio.create_task(reader._follow())
        await reader.wait_for(driver.control.head, 10.0)
        await reader.confirmed(10.0)
        assert reader.control.release is not None and reader.control.release.digest == release().digest
        assert reader.control.quarantines == {("tool", "desk.pay"): "a test"}
        assert len(asked) == 3 and not reader.stale
        await reader.stop()

    asyncio.run(follow())


def test_a_broken_chain_is_never_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.control_event("quarantine.added", scope="tool", value="desk.pay", why="a test")
    missing = [r for n, r in enumerate(driver.control_records) if n != 1]

    async def follow() -> None:
        monkeypatch.setattr(control_log, "POLL_MS", 1)
        reader, _ = reader_of(missing, tmp_path)
        reader._task = asyncio.create_task(reader._follow())
        await until(reader._task.done)
        assert reader.stale
        with pytest.raises(Retryable, match="not confirmed"):
            await reader.confirmed(0.05)
        await reader.stop()

    asyncio.run(follow())


MALFORMED: list[tuple[str, dict[str, object]]] = [
    ("change.proposed", {}),
    ("change.proposed", {"kind": "release.deployed", "body": [], "quorum": "x", "expires_at": 5}),
    ("change.agreed", {"change": [], "digest": 1}),
    ("change.withdrawn", {}),
    ("api_key.added", {"key_id": "k", "sha256": "", "agent_id": "a", "scopes": None, "rate_per_s": 1, "not_after": 1}),
    ("canary.paused", {}),
    ("quarantine.added", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body"), MALFORMED)
def test_an_event_of_no_form_stops_nobody(kind: str, body: dict[str, object], tmp_path: Path) -> None:
    """Else whoever may write control, the sentinel's process too, could stop every worker for ever."""
    driver = Driver()
    facts = ControlFacts(kind, "somebody", "a test", rfc8785.dumps(body))  # type: ignore[arg-type]
    with pytest.raises(Exception):  # noqa: B017 - whatever it is
        fold(driver.control, driver.control.head + 1, facts)
    after, wrong = fold_any(driver.control, driver.control.head + 1, facts)
    assert wrong and after == replace(driver.control, head=driver.control.head + 1)
    then, wrong = fold_any(
        after, after.head + 1, ControlFacts("quarantine.added", "somebody", "", QUARANTINE)
    )
    assert not wrong and ("tool", "desk.pay") in then.quarantines


QUARANTINE = b'{"scope":"tool","value":"desk.pay","why":"a test"}'


def test_the_follower_goes_on_behind_such_an_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    with pytest.raises(KeyError):
        driver.control_event("canary.paused")
    driver.controls.append(replace(driver.control, head=driver.control.head + 1))
    driver.control_event("quarantine.added", scope="tool", value="desk.pay", why="a test")
    reader, _ = reader_of(driver.control_records, tmp_path)
    asyncio.run(reader._poll())
    assert reader.control.head == driver.control.head and ("tool", "desk.pay") in reader.control.quarantines
    assert "`canary.paused`) has no effect" in caplog.text
