"""The follower of control: a passing fault neither ends it nor leaves an event out, and a broken chain stops it for good."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from sluicegate.schemas.errors import Retryable
from sluicegate.streams import control_log
from sluicegate.streams.control_log import ControlReader
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
