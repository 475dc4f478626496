"""Faults that stop one partition of the ledger on purpose: the others go on, and the message says what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from sluicegate.schemas import codec
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka as clients
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.ledger import CLOCK_BACK_LIMIT_US

from tests.driver import AGENT
from tests.integration import gate as gates
from tests.integration.gate import RESULT, Gate, intent, now_us, until

LIMIT_S = 120.0
HERE = partition_of(AGENT, 2)
"""The partition that stops."""


async def goes_on(gate: Gate) -> None:
    """The other partition still answers, and the one that stopped does not."""
    [other] = [a for a in gate.everywhere() if a != AGENT]
    reply = await gate.ask(intent(agent=other))
    assert (reply.status, reply.result) == ("released", RESULT)


def test_input_lost(kafka: str, tmp_path: Path) -> None:
    """Retention took input that was never decided: the partition stops and says so; the ledger itself is intact."""

    async def scenario() -> None:
        async with asyncio.timeout(LIMIT_S), gates.gate(gates.new_settings(kafka, tmp_path)) as gate:
            for agent in gate.everywhere():
                await gate.open_session(agent)
            await gate.good()
            await gate.service.stop()
            lost = [await gate.put("intents", codec.encode(intent())) for _ in range(3)]
            place = TopicPartition(full_name(gate.settings.env, "intents"), HERE)
            admin: AIOKafkaAdminClient = await clients.connect(clients.admin(gate.settings))
            try:
                await admin.delete_records({place: RecordsToDelete(before_offset=lost[1].offset)})
            finally:
                await admin.close()
            gate.service = LedgerService(gate.settings, Keys(gate.settings.home))
            await gate.service.start()
            await until(lambda: gate.service.alive, "the partition stopped")
            stopped = gate.service.lanes[HERE].stopped_because
            assert stopped == (
                f"input_lost: `{place.topic}` begins at {lost[1].offset}, partition {HERE} needs {lost[0].offset}"
            )
            assert gate.service.alive == f"partition {HERE} stopped: {stopped}"
            await goes_on(gate)
            assert gate.service.lanes[1 - HERE].stopped_because == ""
            assert not any(p.input_offset >= lost[1].offset for p in headers_of(gate, "intents"))

    asyncio.run(scenario())


def headers_of(gate: Gate, topic: str) -> list[codec.records.Header]:
    """What the stopping partition decided of one topic."""
    found = [e.header for partition, e in gate.events if partition == HERE]
    return [h for h in found if h.input_topic == topic]


def test_clock_backwards(kafka: str, tmp_path: Path) -> None:
    """A clock 6 s behind a partition's ledger stops that partition: its deadlines would mean nothing."""
    ahead_us = 0
    seen: list[int] = []

    def clock() -> int:
        seen.append(now_us() + ahead_us)
        return seen[-1]

    async def scenario() -> None:
        nonlocal ahead_us
        settings = gates.new_settings(kafka, tmp_path)
        async with asyncio.timeout(LIMIT_S), gates.gate(settings, clock=clock) as gate:
            for agent in gate.everywhere():
                await gate.open_session(agent)
            ahead_us = CLOCK_BACK_LIMIT_US + 1_000_000
            reply = await gate.ask(intent("desk.never"))  # this partition alone decides at a time ahead
            assert reply.decided_at > now_us() + CLOCK_BACK_LIMIT_US
            ahead_us = 0
            await gate.put("intents", codec.encode(intent()))
            await until(lambda: gate.service.alive, "the partition stopped")
            stopped = gate.service.lanes[HERE].stopped_because
            assert stopped.startswith("clock_backwards: ") and stopped.endswith("behind the ledger, set it")
            assert gate.service.lanes[1 - HERE].stopped_because == ""
            await goes_on(gate)
            await gate.intact()  # and nothing was decided at a time before the last one

    asyncio.run(scenario())


def test_clock_a_little_backwards(kafka: str, tmp_path: Path) -> None:
    """Less than the limit is no reason to stop: the ledger's time stands still until the clock has caught up."""
    stands = 0  # still, as long as a slow machine takes

    async def scenario() -> None:
        nonlocal stands
        settings = gates.new_settings(kafka, tmp_path)
        async with (
            asyncio.timeout(LIMIT_S),
            gates.gate(settings, clock=lambda: stands or now_us()) as gate,
        ):
            await gate.open_session()
            stands = now_us() + CLOCK_BACK_LIMIT_US - 2_000_000
            first = await gate.ask(intent("desk.never"))
            stands -= CLOCK_BACK_LIMIT_US - 2_000_000
            second = await gate.ask(intent("desk.never"))
            assert second.decided_at == first.decided_at
            assert gate.service.alive == ""
            await gate.intact()

    asyncio.run(scenario())
