"""Executors against a real Kafka: claims, takeovers, zombies, and a broker that goes away."""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerFenced
from sluicegate.executors import claim_log as claim_log_module
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.executors.claim_log import Claim, KafkaClaimLog, group_of
from sluicegate.executors.dispatcher import Executor
from sluicegate.schemas import codec, signing
from sluicegate.schemas.records import DeadLetter, Dispatch, Envelope, Receipt
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import kafka as clients
from sluicegate.streams import topics
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.settings import Settings

from tests.executor_fakes import FakeAdapter, dispatch, mac_signer, now_us, sleeping, until
from tests.kafka_fixture import delete_group

PARTITIONS = 4
LIMIT_S = 200.0
"""Seconds for one scenario. A cold broker on a crowded machine takes 20 s to lead a fresh topic."""
WAIT_S = 60.0


class World:
    """An environment of its own on a broker: topics, a publisher of dispatches, a reader of receipts."""

    def __init__(self, bootstrap: str) -> None:
        self.settings = Settings(env=f"x{uuid.uuid4().hex[:8]}", kafka=bootstrap, partitions=PARTITIONS)
        self.env = self.settings.env
        self.receipts: list[tuple[int, bytes, object, dict[str, bytes]]] = []
        self._executors: list[Executor] = []

    async def __aenter__(self) -> World:
        await topics.create(self.settings)
        self.producer: AIOKafkaProducer = await clients.connect(clients.producer(self.settings))
        self._consumer: AIOKafkaConsumer = await clients.connect(
            clients.consumer(self.settings, fetch_wait_ms=50)
        )
        places = [TopicPartition(f"{self.env}.receipts", i) for i in range(PARTITIONS)]
        self._consumer.assign(places)
        for place in places:
            self._consumer.seek(place, 0)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        for executor in self._executors:
            await executor.stop()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()
        await self.producer.stop()

    async def _read(self) -> None:
        while True:
            for place, found in (await self._consumer.getmany(timeout_ms=100)).items():
                for r in found:
                    self.receipts.append((place.partition, r.key, codec.decode(r.value), dict(r.headers)))

    async def executor(self, adapter: FakeAdapter, name: str, **options: object) -> Executor:
        made = Executor(self.settings, {"fake": adapter}, name=name, **options)  # type: ignore[arg-type]
        await made.start()
        self._executors.append(made)
        return made

    async def put(self, *dispatches: Dispatch) -> None:
        for one in dispatches:
            await self.producer.send_and_wait(
                f"{self.env}.dispatches", codec.encode(one), key=one.agent_id.encode(),
                partition=partition_of(one.agent_id, PARTITIONS),
            )  # fmt: skip

    def of(self, kind: str) -> list[Receipt]:
        return [r for _, _, r, _ in self.receipts if isinstance(r, Receipt) and r.kind == kind]

    async def offset_is(self, partition: int, offset: int) -> None:
        """Wait until the group is that far: reads move the offset a little later, and a transaction shows it a moment after its commit."""
        reader = await clients.connect(clients.consumer(self.settings, group=group_of(self.env)))
        place, found = TopicPartition(f"{self.env}.dispatches", partition), -1
        deadline = time.monotonic() + WAIT_S
        try:
            while (found := int(await reader.committed(place) or 0)) < offset:
                assert time.monotonic() < deadline, (found, offset)
                await asyncio.sleep(0.05)
        finally:
            await reader.stop()
        assert found == offset


def run(bootstrap: str, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LIMIT_S), World(bootstrap) as world:
            await scenario(world)

    asyncio.run(main())
    # A fenced producer of aiokafka leaves futures whose errors nobody reads. Collected later, in the middle of an
    # `ast.parse` of somebody else's, their tracebacks end CPython 3.11 in a SystemError.
    gc.collect()


def owning(executor: Executor, count: int = PARTITIONS) -> Callable[[], bool]:
    return lambda: len(executor.lanes) == count


def claim_of(one: Dispatch, name: str) -> Claim:
    receipt = Receipt(
        one.dispatch_id, one.intent_id, one.agent_id, one.session_id, "claimed", one.attempt, name, 1, 0
    )
    return Claim(one.agent_id.encode(), codec.encode(receipt), [])


def test_claims_and_receipts(kafka: str) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"

    async def scenario(world: World) -> None:
        adapter = FakeAdapter()
        executor = await world.executor(adapter, "one")
        work = [
            dispatch(i, agent=f"agent-{i}", tool_class=c, traceparent=trace)
            for i, c in enumerate(["read_only", "idempotent", "queryable", "irreversible"] * 5)
        ]
        await world.put(*work)
        await until(lambda: len(world.of("finished")) == 20, WAIT_S)
        assert {r.intent_id for r in world.of("claimed")} == {
            d.intent_id for d in work if d.tool_class != "read_only"
        }
        assert set(adapter.called.values()) == {1}
        by_id = {d.dispatch_id: d for d in work}
        seen: set[tuple[bytes, str]] = set()
        for partition, key, receipt, headers in world.receipts:
            assert isinstance(receipt, Receipt)
            one = by_id[receipt.dispatch_id]
            assert partition == partition_of(one.agent_id, PARTITIONS)
            assert (key, receipt.executor, receipt.attempt) == (one.agent_id.encode(), "one", 1)
            assert headers["ce_type"] == b"ai.sluicegate.receipt"
            assert headers["ce_source"] == f"/{world.env}/executors/one".encode()
            assert headers["traceparent"] == trace.encode()
            if receipt.kind == "finished" and one.tool_class != "read_only":
                assert (one.dispatch_id, "claimed") in seen  # the claim stands before the end
            seen.add((one.dispatch_id, receipt.kind))
        assert len({headers["ce_id"] for _, _, _, headers in world.receipts}) == 35
        assert executor.alive == ""

        reads = [dispatch(100 + i, agent=f"agent-{i}", tool_class="read_only") for i in range(20)]
        await world.put(*reads)
        await until(lambda: len(world.of("finished")) == 40, WAIT_S)
        for index in range(PARTITIONS):
            await world.offset_is(
                index, sum(partition_of(d.agent_id, PARTITIONS) == index for d in work + reads)
            )

    run(kafka, scenario)


def test_signed_receipts(kafka: str) -> None:
    async def scenario(world: World) -> None:
        signer = mac_signer(world.env, "exec", b"k" * 32, lambda: time.time_ns() // 1000)
        await world.executor(FakeAdapter(), "one", signer=signer)
        await world.put(dispatch(1))
        await until(lambda: len(world.receipts) == 2, WAIT_S)
        kinds = []
        for _, _, envelope, _ in world.receipts:
            assert isinstance(envelope, Envelope)
            assert envelope.audience == f"{world.env}/receipts"
            assert signing.verify(envelope, "HS256", b"k" * 32)
            kinds.append(codec.decode_as(Receipt, envelope.payload).kind)
        assert kinds == ["claimed", "finished"]

    run(kafka, scenario)


def test_unreadable_dispatch_becomes_a_dead_letter(kafka: str) -> None:
    async def scenario(world: World) -> None:
        await world.executor(FakeAdapter(), "one")
        await world.producer.send_and_wait(f"{world.env}.dispatches", b"no avro", partition=2)
        one = next(
            d for i in range(99) if partition_of((d := dispatch(i, agent=f"a{i}")).agent_id, PARTITIONS) == 2
        )
        await world.put(one)
        await until(lambda: world.of("finished"), WAIT_S)
        reader = await clients.connect(clients.consumer(world.settings, fetch_wait_ms=50))
        place = TopicPartition(f"{world.env}.dead-letters", 0)
        reader.assign([place])
        reader.seek(place, 0)
        letter = codec.decode_as(DeadLetter, (await reader.getone()).value)
        await reader.stop()
        assert (letter.partition, letter.offset, letter.reason, letter.head) == (2, 0, "not_avro", b"no avro")

    run(kafka, scenario)


def test_each_dispatch_is_claimed_and_called_once_while_executors_come_and_go(kafka: str) -> None:
    """One executor under load; a second joins, the first leaves: nobody claims twice, nothing is left."""

    async def scenario(world: World) -> None:
        adapters = [FakeAdapter(sleeping(0.005)), FakeAdapter(sleeping(0.005))]
        first = await world.executor(adapters[0], "first", concurrency=8)
        await until(owning(first), WAIT_S)
        work = [dispatch(i, agent=f"agent-{i % 23}", lease_s=50) for i in range(600)]
        publishing = asyncio.create_task(world.put(*work))
        await until(lambda: len(world.of("finished")) > 50, WAIT_S)
        second = await world.executor(adapters[1], "second", concurrency=8)
        await until(lambda: second.counters.finished > 20, WAIT_S)
        await until(lambda: len(first.lanes) == len(second.lanes) == 2, WAIT_S)
        assert first.lanes.keys() | second.lanes.keys() == set(range(PARTITIONS))
        await until(lambda: len(first._tasks) == 2, WAIT_S)  # the lanes it lost have ended
        await first.stop()
        await publishing
        await until(lambda: len({r.intent_id for r in world.of("finished")}) == len(work), WAIT_S)
        await asyncio.sleep(0.3)  # for what must not come
        claims = Counter(r.dispatch_id for r in world.of("claimed"))
        assert len(claims) == len(work)
        assert set(claims.values()) == {1}
        assert set((adapters[0].called + adapters[1].called).values()) == {1}
        assert len(world.of("finished")) == len(work)
        assert first.counters.claims > 50
        assert second.counters.claims > 20

    run(kafka, scenario)


def test_zombie(kafka: str) -> None:
    """The predecessor claims at the worst moment: when its successor has just found out where to read on."""

    async def scenario(world: World) -> None:
        work = [dispatch(i, agent="agent-1") for i in range(2)]
        index = partition_of("agent-1", PARTITIONS)
        await world.put(*work)
        zombie, successor = KafkaClaimLog(world.settings, index), KafkaClaimLog(world.settings, index)
        assert await zombie.open() == 0
        assert [codec.decode(f.value) for f in await zombie.fetch(10)] == work
        await zombie.claim([claim_of(work[0], "zombie")], 1, "t1")

        fenced: list[BaseException | None] = []
        real = AIOKafkaConsumer.committed

        async def then_the_zombie_claims(consumer: AIOKafkaConsumer, place: TopicPartition) -> object:
            offset = await real(consumer, place)
            try:
                await zombie.claim([claim_of(work[1], "zombie")], 2, "t2")
                fenced.append(None)
            except ProducerFenced as error:
                fenced.append(error)
            return offset

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claim_log_module.AIOKafkaConsumer, "committed", then_the_zombie_claims)
            assert await successor.open() == 1
        assert [type(e) for e in fenced] == [ProducerFenced]
        assert [codec.decode(f.value) for f in await successor.fetch(10)] == work[1:]
        await successor.claim([claim_of(work[1], "successor")], 2, "t3")
        async with asyncio.timeout(
            WAIT_S
        ):  # an offset is visible a moment after its transaction is committed
            while await successor.last_token() != "t3":
                await asyncio.sleep(0.05)
        await until(lambda: len(world.of("claimed")) == 2, WAIT_S)
        assert [r.executor for r in world.of("claimed")] == ["zombie", "successor"]
        await zombie.close()
        await successor.close()

    run(kafka, scenario)


def test_a_fenced_executor_does_not_call_what_it_could_not_claim(kafka: str) -> None:
    """A whole executor is fenced from outside while it works: what it then cannot claim it does not call."""

    async def scenario(world: World) -> None:
        adapter = FakeAdapter()
        executor = await world.executor(adapter, "one")
        await until(owning(executor), WAIT_S)
        await world.put(dispatch(1, agent="agent-1"))
        await until(lambda: world.of("finished"), WAIT_S)
        index = partition_of("agent-1", PARTITIONS)
        rival = KafkaClaimLog(world.settings, index)
        assert await rival.open() == 1
        await world.put(two := dispatch(2, agent="agent-1"))
        await until(lambda: executor.counters.taints == 1, WAIT_S)
        assert adapter.called == {"key-agent-1-1": 1}
        await rival.claim([claim_of(two, "rival")], 2, "rival")
        await rival.close()
        # It opens again after its pause, reads on behind the rival's claim, and works.
        await world.put(dispatch(3, agent="agent-1", lease_s=30))
        await until(lambda: len(world.of("finished")) == 2, WAIT_S)
        assert adapter.called == {"key-agent-1-1": 1, "key-agent-1-3": 1}
        assert [r.executor for r in world.of("claimed")] == ["one", "rival", "one"]

    run(kafka, scenario)


@pytest.mark.parametrize("signed", [False, True])
def test_group_deleted(kafka: str, signed: bool) -> None:
    """The group's offsets are gone while dispatches may still be claimed: what was claimed before is not called again."""

    async def scenario(world: World) -> None:
        options = {"signer": mac_signer(world.env, "exec", b"k" * 32, now_us)} if signed else {}
        adapter = FakeAdapter()
        first = await world.executor(adapter, "first", **options)
        work = [dispatch(i, agent=f"agent-{i}", lease_s=50) for i in range(12)]
        await world.put(*work[:8])
        await until(lambda: first.counters.finished == 8, WAIT_S)
        await first.stop()
        await delete_group(world.settings, group_of(world.env))
        await world.put(*work[8:])
        second = await world.executor(adapter, "second", **options)
        await until(lambda: second.counters.finished == 4, WAIT_S)
        await until(lambda: second.counters.fetched == 12, WAIT_S)
        assert adapter.called == {d.idempotency_key: 1 for d in work}
        assert second.counters.duplicates == 8

    run(kafka, scenario)


@pytest.mark.parametrize("really", [True, False])
def test_unknown_commit_on_kafka(kafka: str, really: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a commit is lost: committed or not, it is called at most once, and settled without a person."""
    real = KafkaClaimLog.claim
    lost: list[int] = []

    async def claim(self: KafkaClaimLog, claims: list[Claim], offset: int, token: str) -> None:
        if claims and not lost:
            lost.append(offset)
            if really:
                await real(self, claims, offset, token)
            raise TimeoutError
        await real(self, claims, offset, token)

    monkeypatch.setattr(KafkaClaimLog, "claim", claim)

    async def scenario(world: World) -> None:
        adapter = FakeAdapter()
        await world.executor(adapter, "one")
        await world.put(dispatch(1, lease_s=30))
        await until(lambda: world.of("finished") + world.of("failed"), WAIT_S)
        assert len(world.of("claimed")) == 1
        if really:
            assert adapter.called == {}
            assert [(r.error_class, r.sent) for r in world.of("failed")] == [("unreachable", False)]
        else:
            assert adapter.called == {"key-agent-1-1": 1}
            assert world.of("failed") == []

    run(kafka, scenario)


def test_stop_finishes_what_runs_and_leaves_the_rest(kafka: str) -> None:
    async def scenario(world: World) -> None:
        go_on = asyncio.Event()

        async def behave(_: Dispatch) -> Answer:
            await go_on.wait()
            return Finished(b'"done"')

        adapter = FakeAdapter(behave)
        executor = await world.executor(adapter, "one", concurrency=2)
        await world.put(*[dispatch(i, agent="agent-1", lease_s=100) for i in range(5)])
        await until(lambda: adapter.at_once == 2, WAIT_S)
        stopping = asyncio.create_task(executor.stop())
        await until(lambda: executor._closing, WAIT_S)  # it is told while both run
        go_on.set()
        await stopping
        assert adapter.closed
        await until(lambda: len(world.of("finished")) == len(adapter.called), WAIT_S)
        assert 2 <= len(adapter.called) <= 3  # the third may have been claimed when a slot came free
        claimed = {r.intent_id for r in world.of("claimed")}
        assert claimed == {r.intent_id for r in world.of("finished")}
        await world.offset_is(partition_of("agent-1", PARTITIONS), len(claimed))

    run(kafka, scenario)


def test_receipts_survive_a_broker_that_goes_away(tmp_path: Path) -> None:
    """The call ends while Kafka is down; its receipt arrives when Kafka is back."""
    broker = EmbeddedBroker(tmp_path)
    bootstrap = broker.start()
    release = asyncio.Event()

    async def behave(_: Dispatch) -> Answer:
        await release.wait()
        return Finished(b'"kept"')

    async def scenario(world: World) -> None:
        adapter = FakeAdapter(behave)
        executor = await world.executor(adapter, "one")
        await world.put(dispatch(1, timeout_ms=50_000))
        await until(lambda: adapter.at_once == 1, WAIT_S)
        await asyncio.to_thread(broker.stop)
        release.set()
        await until(lambda: executor.receipts_waiting == 1, WAIT_S)
        assert await asyncio.to_thread(broker.start) == bootstrap
        await until(lambda: world.of("finished"), WAIT_S)
        assert [r.result for r in world.of("finished")] == [b'"kept"']
        await until(lambda: executor.receipts_waiting == 0, WAIT_S)
        # And it goes on: the next dispatch is claimed and called.
        await world.put(dispatch(2, lease_s=40))
        await until(lambda: len(world.of("finished")) == 2, WAIT_S)
        assert set(adapter.called.values()) == {1}
        assert executor.alive == ""

    try:
        run(bootstrap, scenario)
    finally:
        broker.stop()


def test_lane_reads_wake_up_at_once(kafka: str) -> None:
    """A read is not held up by empty fetches: below the 500 ms that one of those lasts, on any machine."""

    async def scenario(world: World) -> None:
        adapter = FakeAdapter()
        executor = await world.executor(adapter, "one")
        await until(owning(executor), WAIT_S)
        await world.put(dispatch(0, tool_class="read_only"))
        await until(lambda: adapter.called, WAIT_S)
        waits = []
        for i in range(1, 21):
            await world.put(one := dispatch(i, tool_class="read_only"))
            visible = time.monotonic()
            await until(lambda one=one: one.idempotency_key in adapter.began, WAIT_S)
            waits.append(adapter.began[one.idempotency_key] - visible)
        assert sorted(waits)[10] < 0.25, waits

    run(kafka, scenario)
