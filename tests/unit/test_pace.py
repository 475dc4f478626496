"""When a ledger partition waits a moment before it polls: only while it is busy, and never for a backlog."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.streams.lanes import service as ledger_service
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.ledger import BATCH_RECORDS
from sluicegate.streams.pace import BUSY_RECORDS, GATHER_S, gather_s


@pytest.mark.parametrize(
    ("took", "waits"),
    [
        (0, False),
        (BUSY_RECORDS - 1, False),
        (BUSY_RECORDS, True),
        (BATCH_RECORDS // 4 - 1, True),
        (BATCH_RECORDS // 4, False),
        (BATCH_RECORDS, False),
    ],
)
def test_only_a_busy_partition_waits(took: int, waits: bool) -> None:
    assert gather_s(took, BATCH_RECORDS) == (GATHER_S if waits else 0.0)


class Consumer:
    """aiokafka's side of a poll: so many records each time."""

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    async def getmany(
        self, *places: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[object]]:
        return {places[0]: [SimpleNamespace()] * self._counts.pop(0), places[1]: []}


def test_a_busy_partition_holds_up_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(ledger_service, "asyncio", SimpleNamespace(sleep=sleep))
    service = cast(LedgerService, LedgerService.__new__(LedgerService))
    service._took = {}
    service._consumer = cast(AIOKafkaConsumer, Consumer([30, 1, 3, 1]))
    places = [[TopicPartition("t.messages", n), TopicPartition("t.intents", n)] for n in range(2)]

    async def main() -> None:
        await service.poll(places[0], 5, BATCH_RECORDS)  # 30 records
        await service.poll(places[1], 5, BATCH_RECORDS)
        assert paused == []
        await service.poll(places[0], 5, BATCH_RECORDS)  # after 30: waits, and finds 3
        assert paused == [GATHER_S]
        await service.poll(places[0], 5, BATCH_RECORDS)
        assert paused == [GATHER_S]

    asyncio.run(main())
