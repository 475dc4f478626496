"""Old replies: where the newest ones are, few readers for all, and no question that reads everything."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from sluicegate.gateway import kept
from sluicegate.gateway.access import caller_of
from sluicegate.gateway.context import session_of
from sluicegate.gateway.hub import Hub
from sluicegate.gateway.kept import KNOWN_BYTES, MAX_KNOWN, MAX_READERS, MAX_SCANNED, Known, Readers
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.records import Intent, Reply
from sluicegate.streams.sdk.in_process import MAX_ERRANDS, Errand
from sluicegate.streams.sdk.transport import Acknowledged, Headers
from sluicegate.streams.settings import Settings

from tests.unit.test_gateway_access import TOKEN, a_gate, asked, control_with_key

AGENT = "north-1"
PLACE = TopicPartition("dev.replies", 0)
BATCH = 50_000


@dataclass
class Record:
    key: bytes
    value: bytes
    offset: int


@dataclass(frozen=True)
class At:
    offset: int


@dataclass
class Consumer:
    """What a consumer of one partition says; `log` is sparse: offset -> (key, value)."""

    end: int
    log: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    away: bool = False
    read: int = 0
    position_: int = 0
    stopped: bool = False

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.away:
            raise KafkaConnectionError
        return dict.fromkeys(places, self.end)

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, At | None]:
        return {place: At(at) if at < self.end else None for place, at in times.items()}

    def assign(self, places: list[TopicPartition]) -> None: ...

    def assignment(self) -> set[TopicPartition]:
        return {PLACE}

    def pause(self, *places: TopicPartition) -> None: ...

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.position_ = offset

    async def position(self, place: TopicPartition) -> int:
        return self.position_

    async def getmany(self, place: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await asyncio.sleep(0)
        start, self.position_ = self.position_, min(self.end, self.position_ + BATCH)
        self.read += self.position_ - start
        found = [Record(*self.log[o], o) for o in sorted(self.log) if start <= o < self.position_]
        return {place: found}

    async def stop(self) -> None:
        self.stopped = True


def reply(intent: str, status: str = "released", reason: str = "", agent: str = AGENT) -> tuple[bytes, bytes]:
    return agent.encode(), codec.encode(
        Reply(bytes(16), intent, agent, "s", status, "execute", reason, [], 1)
    )


def hub_on(consumer: Consumer, decided: int | None = None) -> Hub:
    async def when(agent_id: str, intent_id: str) -> int | None:
        return decided

    async def connect() -> Consumer:
        return consumer

    hub = Hub(Settings(home=Path("/nonexistent"), partitions=1), when)
    hub.partitions = 1
    hub._readers = Readers(connect)  # type: ignore[arg-type]
    hub.hear(AGENT, lambda said: None)
    return hub


async def found(hub: Hub, intent: str) -> list[tuple[str, str]]:
    async with aclosing(hub.about(AGENT, intent)) as values:
        said = [codec.decode_as(Reply, value) async for value in values]
    return [(one.status, one.reason) for one in said]


def test_nobodys_question_reads_all_that_is_kept() -> None:
    consumer = Consumer(end=100 * MAX_SCANNED, log={7: reply("old")})
    assert asyncio.run(found(hub_on(consumer), "old")) == []  # too long ago, and nobody says where
    assert consumer.read <= MAX_SCANNED
    there = Consumer(end=100 * MAX_SCANNED, log={7: reply("old")})
    assert asyncio.run(found(hub_on(there, decided=5_000), "old")) == [("released", "")]  # it is known when
    assert there.read <= MAX_SCANNED


def test_what_was_heard_is_found_at_its_place() -> None:
    consumer = Consumer(end=90 * MAX_SCANNED, log={5: reply("a", "held"), 9: reply("a")})
    hub = hub_on(consumer)
    for offset in (5, 9):
        hub._tell(Record(*consumer.log[offset], offset))  # type: ignore[arg-type]
    hub._tell(Record(*reply("a", "refused", "id_conflict"), 11))  # type: ignore[arg-type]  # about another request
    assert asyncio.run(found(hub, "a")) == [("released", "")]
    assert consumer.read <= BATCH  # one fetch
    hub.leave(AGENT)  # from here on nobody hears what comes, so what was noted may be old
    hub.hear(AGENT, lambda said: None)
    assert asyncio.run(found(hub, "a")) == []


def test_what_was_found_once_is_known() -> None:
    newest = 90 * MAX_SCANNED - 10
    consumer = Consumer(
        end=90 * MAX_SCANNED, log={newest: reply("a", "held"), newest + 1: reply("a", agent="south-1")}
    )
    hub = hub_on(consumer)
    assert asyncio.run(found(hub, "a")) == [("held", "")]
    read = consumer.read
    assert asyncio.run(found(hub, "a")) == [("held", "")]
    assert consumer.read - read <= BATCH


def test_places_are_bounded() -> None:
    known = Known(most=3)
    for number in range(5):
        known.note((b"a", 1, str(number)), number)
    assert len(known) == 3 and known.of((b"a", 1, "0")) is None and known.of((b"a", 1, "4")) == 4
    known.note((b"a", 1, "2"), 1)  # older than what is known
    known.note((b"a", 1, "9"), 9)
    assert known.of((b"a", 1, "2")) == 2 and known.of((b"a", 1, "3")) is None


def test_few_readers_serve_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Consumer] = []

    async def connect() -> Consumer:
        made.append(Consumer(end=10, away=len(made) == 0))
        return made[-1]

    async def run() -> None:
        readers = Readers(connect)  # type: ignore[arg-type]
        with pytest.raises(Retryable):
            await readers.page(PLACE, b"a", 0)
        assert made[0].stopped  # one that failed is lent to nobody
        await asyncio.gather(*(readers.page(PLACE, b"a", 0) for _ in range(100)))
        assert len(made) <= 1 + MAX_READERS
        monkeypatch.setattr(kept, "READER_WAIT_S", 0.01)
        async with readers.lent(), readers.lent(), readers.lent(), readers.lent():
            with pytest.raises(Retryable, match="ask again"):
                await readers.page(PLACE, b"a", 0)
        await readers.stop()
        assert all(consumer.stopped for consumer in made)

    asyncio.run(run())


def test_what_a_place_costs() -> None:
    known = Known()
    tracemalloc.start()
    try:
        for number in range(2 * MAX_KNOWN):
            known.note((b"north-1", 1, f"intent-{number}"), 10_000_000 + number)
        assert len(known) == MAX_KNOWN and tracemalloc.get_traced_memory()[0] < MAX_KNOWN * KNOWN_BYTES
    finally:
        tracemalloc.stop()
    assert known.of((b"north-1", 1, f"intent-{2 * MAX_KNOWN - 1}")) == 10_000_000 + 2 * MAX_KNOWN - 1
    for name in (
        (b"north-1", 1, "intent-7"),
        (b"north-1", 2, f"intent-{2 * MAX_KNOWN - 1}"),
        (b"north-", 1, f"1 intent-{MAX_KNOWN}"),
    ):
        assert known.of(name) is None


def test_agents_share_the_room_for_what_they_asked(tmp_path: Path) -> None:
    """However many agents: nobody's calls that were never answered take more than `MAX_ERRANDS` together."""
    hub = Hub(Settings(home=tmp_path, partitions=1))

    async def run() -> None:
        for number in range(MAX_ERRANDS + 100):
            asker = await hub.asker(f"agent-{number % 50}", None, None)
            asker.runner.own(f"i-{number}", Errand("shop.refund", "s", None))
        assert hub.sizes() == {"known": 0, "agents": 50, "errands": MAX_ERRANDS}
        (await hub.asker(f"agent-{(MAX_ERRANDS + 99) % 50}", None, None)).runner.forget(
            f"i-{MAX_ERRANDS + 99}"
        )
        (await hub.asker("agent-x", None, None)).runner.forget(f"i-{MAX_ERRANDS + 98}")  # another agent's id
        assert hub.sizes()["errands"] == MAX_ERRANDS - 1

    asyncio.run(run())


class Opening(Hub):
    """A hub on a bus that opens every session at once."""

    offset = 0

    async def send_for(self, agent_id: str, topic: str, value: bytes, headers: Headers) -> Acknowledged:
        asked = codec.decode_as(Intent, value)
        opened = Reply(
            bytes(16), asked.intent_id, agent_id, asked.session_id, "opened", "session", "", [], 1, release="sha256:x"
        )  # fmt: skip
        self.offset += 1
        self._tell(Record(agent_id.encode(), codec.encode(opened), self.offset))  # type: ignore[arg-type]
        return self._taken

    async def _taken(self) -> None:
        await asyncio.sleep(0)  # the loop lets go of time-outs that are over


def test_a_hundred_thousand_sessions_cost_what_one_does(tmp_path: Path) -> None:
    """Opened as the doors open them. Nothing is kept of one while nobody listens, but what is bounded: places of replies."""
    driver = control_with_key()
    gate, hub = a_gate(driver, tmp_path), Opening(Settings(home=tmp_path, partitions=1), known=1_000)
    gate.hub, hub.partitions = hub, 1
    caller = caller_of(asked(x_api_key=TOKEN), driver.control, driver.now, gate.rates)

    async def opened(*numbers: int) -> int:
        """Memory blocks of this process once they are open."""
        for number in range(*numbers):
            await session_of(gate, caller, f"s-{number}", goal="a test", new=True)
        gc.collect()
        return sys.getallocatedblocks()

    async def run() -> None:
        before = await opened(2_000)  # by now what is bounded is full
        grown = await opened(2_000, 102_000) - before
        assert grown < 5_000, f"{grown} blocks for 100,000 sessions"
        assert hub.offset == 102_000 and hub.sizes() == {"known": 1_000, "agents": 1, "errands": 0}

    asyncio.run(run())
