"""The claim protocol without Kafka: what is called, what never is, and what is said about it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, ProducerFenced
from sluicegate.executors import lane as lane_module
from sluicegate.executors import reports as reports_module
from sluicegate.executors.adapter import Adapter, Answer, Finished
from sluicegate.executors.calls import Calls
from sluicegate.executors.claim_log import Fetched
from sluicegate.executors.dispatcher import CLOCK_LIMIT_US, Executor
from sluicegate.executors.lane import Lane
from sluicegate.executors.reports import Reports
from sluicegate.executors.verifier import ReadsOnly
from sluicegate.schemas.errors import Retryable, Terminal, Unreadable
from sluicegate.schemas.records import Dispatch, Receipt
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.settings import Settings

from tests.executor_fakes import (
    SECOND_US,
    FakeAdapter,
    FakeLog,
    FakeReports,
    dispatch,
    now_us,
    sleeping,
    until,
)


class Bench:
    """One lane, or several, over fakes."""

    def __init__(
        self,
        adapter: Adapter | None = None,
        *,
        concurrency: int = 64,
        bound: int = 10_000,
        lanes: int = 1,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self.adapter = adapter if adapter is not None else FakeAdapter()
        self.reports = FakeReports(bound)
        self.calls = Calls(
            {"fake": self.adapter}, self.reports, env="dev", name="x", clock=clock, concurrency=concurrency
        )  # type: ignore[arg-type]
        self.logs = [FakeLog() for _ in range(lanes)]
        self.unreadable: list[tuple[int, Fetched, Unreadable]] = []
        self.lanes = [
            Lane(i, self.logs.__getitem__, self.calls, lambda *args: self.unreadable.append(args))
            for i in range(lanes)
        ]

    @property
    def log(self) -> FakeLog:
        return self.logs[0]

    @property
    def called(self) -> dict[str, int]:
        return dict(self.adapter.called)  # type: ignore[attr-defined]

    @property
    def receipts(self) -> list[Receipt]:
        return self.reports.receipts

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            tasks = [asyncio.create_task(lane.run()) for lane in self.lanes]
            try:
                await scenario()
            finally:
                for lane in self.lanes:
                    lane.finish()
                self.reports.let_go()
                await self.calls.drain(0.5)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())


def bench(**options: object) -> Bench:
    """A bench, made inside a loop because semaphores and events want one only when used."""
    return Bench(**options)  # type: ignore[arg-type]


async def settled(seconds: float = 0.15) -> None:
    """Long enough for what must not happen to have happened."""
    await asyncio.sleep(seconds)


# -- claims -----------------------------------------------------------------------------------------------------------


def test_read_needs_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "OFFSETS_EVERY_S", 0.05)
    b = bench()

    async def scenario() -> None:
        b.log.put(dispatch(1, tool_class="read_only"))
        await until(lambda: b.receipts)
        assert b.log.claimed == []
        await until(lambda: b.log.committed == 1)  # the offset follows by itself

    b.run(scenario)
    assert b.log.claims == []
    assert [(r.kind, r.result, r.sent) for r in b.receipts] == [("finished", b'"ok"', True)]


@pytest.mark.parametrize("tool_class", ["idempotent", "queryable", "irreversible", "unheard_of"])
def test_everything_else_is_claimed_before_it_is_called(tool_class: str) -> None:
    claims_at_call: list[int] = []

    async def behave(_: Dispatch) -> Answer:
        claims_at_call.append(len(b.log.claims))
        return Finished(b"1")

    b = bench(adapter=FakeAdapter(behave))

    async def scenario() -> None:
        before = now_us()
        b.log.put(one := dispatch(1, tool_class=tool_class))
        await until(lambda: b.receipts)
        (claim,) = b.log.claims
        assert (claim.kind, claim.dispatch_id, claim.finished_at) == ("claimed", one.dispatch_id, 0)
        assert before <= claim.started_at <= now_us()

    b.run(scenario)
    assert claims_at_call == [1]
    assert [(r.kind, r.attempt, r.executor) for r in b.receipts] == [("finished", 1, "x")]


@pytest.mark.parametrize(("tool_class", "said"), [("irreversible", 1), ("queryable", 1), ("idempotent", 0)])
def test_late_claim_never_calls(tool_class: str, said: int) -> None:
    b = bench()

    async def slow() -> None:
        await asyncio.sleep(0.2)

    async def scenario() -> None:
        b.log.before_commit = slow
        b.log.put(dispatch(1, tool_class=tool_class, lease_s=0.1))
        await until(lambda: b.log.claims)
        await settled()

    b.run(scenario)
    assert b.called == {}
    # Only for a class that the ledger does not repeat by itself is there something to say.
    assert [(r.kind, r.error_class, r.sent) for r in b.receipts] == [("failed", "unreachable", False)] * said


@pytest.mark.parametrize("error", [KafkaConnectionError(), TimeoutError(), ProducerFenced()])
def test_unknown_commit_never_calls(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed, and nobody told us: reading on finds that out, and says that nothing was sent."""
    monkeypatch.setattr(lane_module, "FENCED_PAUSE_S", 0.05)
    b = bench()

    async def fail() -> None:
        b.log.after_commit = None
        raise error

    async def scenario() -> None:
        b.log.after_commit = fail
        b.log.put(dispatch(1), dispatch(2))
        await until(lambda: len(b.receipts) == 2)
        b.log.put(dispatch(3))  # the lane goes on
        await until(lambda: len(b.receipts) == 3)

    b.run(scenario)
    assert b.called == {"key-agent-1-3": 1}
    assert [(r.kind, r.sent) for r in b.receipts] == [("failed", False)] * 2 + [("finished", True)]
    assert len(b.log.claims) == 3  # none was claimed again
    assert b.calls.counters.taints == 1


def test_unknown_commit_of_another_owner_is_left_alone() -> None:
    """The last token is not ours: the claim may be somebody else's, so nothing is said about it."""
    b = bench()

    async def fail() -> None:
        b.log.after_commit = None
        b.log.token = "successor"
        raise KafkaConnectionError

    async def scenario() -> None:
        b.log.after_commit = fail
        b.log.put(dispatch(1))
        await until(lambda: b.log.opened == 2)
        await settled()

    b.run(scenario)
    assert b.called == {}
    assert b.receipts == []


def test_refused_commit_is_claimed_again_and_called_once() -> None:
    b = bench()
    failures = iter([KafkaConnectionError(), KafkaConnectionError()])

    async def fail() -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    async def scenario() -> None:
        b.log.before_commit = fail
        b.log.put(dispatch(1))
        await until(lambda: b.receipts)
        await settled()

    b.run(scenario)
    assert b.called == {"key-agent-1-1": 1}
    assert len(b.log.claims) == 1
    assert (b.log.opened, b.calls.counters.taints) == (3, 2)


def test_claim_that_was_called_is_never_said_to_be_unsent() -> None:
    """Its token is still the last one when the lane fails for another reason."""
    b = bench()

    async def scenario() -> None:
        b.log.put(dispatch(1))
        await until(lambda: b.receipts)
        b.log.fetch_error = KafkaConnectionError()
        await until(lambda: b.log.opened == 2)
        b.log.put(dispatch(2))
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert [r.kind for r in b.receipts] == ["finished", "finished"]


def test_what_waited_behind_a_failed_claim_is_read_again() -> None:
    b = bench()
    release = asyncio.Event()

    async def fail() -> None:
        b.log.before_commit = None
        await release.wait()
        raise KafkaConnectionError

    async def scenario() -> None:
        b.log.before_commit = fail
        b.log.put(dispatch(0))
        await settled(0.05)
        b.log.put(dispatch(1), dispatch(2))
        await settled(0.05)
        release.set()
        await until(lambda: len(b.receipts) == 3)

    b.run(scenario)
    assert set(b.called.values()) == {1}
    assert len(b.called) == len(b.log.claims) == 3
    for (
        receipts,
        offset,
    ) in b.log.claimed:  # a claim beyond its offset would be read, and claimed, a second time
        assert all(int(r.intent_id.removeprefix("intent-")) < offset for r in receipts)


def test_offset_covers_claims() -> None:
    """Whatever the mixture: no dispatch below a committed offset is unclaimed, unless it is a read."""
    rng = random.Random(7)
    adapter = FakeAdapter()
    b = bench(adapter=adapter, concurrency=3)
    offers = [
        dispatch(i, tool_class=rng.choice(["read_only", "irreversible", "idempotent"])) for i in range(200)
    ]

    async def slow_tool(_: Dispatch) -> Answer:
        await asyncio.sleep(rng.random() * 0.004)
        return Finished(b"1")

    async def slow_claim() -> None:
        await asyncio.sleep(rng.random() * 0.004)

    adapter._behave = slow_tool

    async def scenario() -> None:
        b.log.before_commit = slow_claim
        b.log.put(*offers)
        await until(lambda: len(b.receipts) == len(offers))

    b.run(scenario)
    claimed: set[bytes] = set()
    for receipts, offset in b.log.claimed:
        claimed |= {r.dispatch_id for r in receipts}
        must = {d.dispatch_id for d in offers[:offset] if d.tool_class != "read_only"}
        assert must <= claimed
    assert len(b.log.claimed) > 10
    assert set(b.called.values()) == {1}
    assert len(b.called) == len(offers)


def test_read_never_waits_for_a_claim() -> None:
    b = bench()
    release = asyncio.Event()

    async def scenario() -> None:
        b.log.before_commit = release.wait  # type: ignore[assignment]
        b.log.put(dispatch(1))
        await settled(0.05)
        b.log.put(dispatch(2, tool_class="read_only"))
        await until(lambda: b.receipts, 1.0)
        assert b.called == {"key-agent-1-2": 1}
        release.set()
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert b.called == {"key-agent-1-2": 1, "key-agent-1-1": 1}


def test_claims_that_wait_go_together() -> None:
    b = bench()
    release = asyncio.Event()

    async def scenario() -> None:
        b.log.before_commit = release.wait  # type: ignore[assignment]
        b.log.put(dispatch(0))
        await settled(0.05)
        for i in range(1, 21):
            b.log.put(dispatch(i))
        await settled(0.05)
        release.set()
        await until(lambda: len(b.receipts) == 21)

    b.run(scenario)
    assert [len(receipts) for receipts, _ in b.log.claimed] == [1, 20]


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool_class", ["read_only", "irreversible"])
def test_past_its_lease_is_dropped_without_a_word(tool_class: str) -> None:
    b = bench()

    async def scenario() -> None:
        b.log.put(dispatch(1, tool_class=tool_class, lease_s=-0.01), dispatch(2, tool_class=tool_class))
        await until(lambda: b.receipts)

    b.run(scenario)
    assert b.called == {"key-agent-1-2": 1}
    assert [r.intent_id for r in b.receipts] == ["intent-2"]
    assert b.calls.counters.late == 1
    assert {r.intent_id for r in b.log.claims} <= {"intent-2"}


def test_lease_that_ends_while_waiting_for_a_slot_is_dropped() -> None:
    """Two lanes fetch for the one free slot; the second has to wait too long for it."""
    b = bench(adapter=FakeAdapter(sleeping(0.3)), concurrency=1, lanes=2)

    async def scenario() -> None:
        for i, log in enumerate(b.logs):
            log.put(dispatch(i, tool_class="read_only", lease_s=0.1))
        await until(lambda: b.calls.counters.late == 1)
        await settled()

    b.run(scenario)
    assert sum(b.called.values()) == 1


def test_clock_behind_the_ledger_does_not_lengthen_a_lease() -> None:
    """Our clock says ten minutes ago. The ledger's stamp on the record shows how wrong that is."""
    behind = 600 * SECOND_US
    b = bench(clock=lambda: now_us() - behind)

    async def scenario() -> None:
        b.log.put(dispatch(1, lease_s=0.2))
        await until(lambda: b.receipts)  # the claim is dated by the ledger's clock, as well as we know it
        assert abs(b.log.claims[0].started_at - now_us()) < behind // 10
        # Given 5 s by the ledger, 4.9 s ago: without the correction it would look good for ten minutes.
        b.log.put(dispatch(2, lease_s=-0.01), appended_at=now_us() - 4_900_000)
        await until(lambda: b.calls.counters.late == 1)

    b.run(scenario)
    assert b.called == {"key-agent-1-1": 1}
    assert b.lanes[0].behind_us > CLOCK_LIMIT_US


def test_timeout_ends_the_call_and_frees_its_slot() -> None:
    b = bench(adapter=FakeAdapter(sleeping(30)), concurrency=1)

    async def scenario() -> None:
        began = time.monotonic()
        b.log.put(dispatch(1, tool_class="read_only", timeout_ms=100), dispatch(2, timeout_ms=100))
        await until(lambda: len(b.receipts) == 2)
        assert 0.19 < time.monotonic() - began < 15  # a call sleeps for 30

    b.run(scenario)
    assert [(r.kind, r.error_class, r.sent) for r in b.receipts] == [("failed", "timeout", True)] * 2


def test_slow_claim_shortens_the_call() -> None:
    """The ledger's lease of a claim runs from started_at, so the call is cut before started_at + timeout_ms."""
    b = bench(adapter=FakeAdapter(sleeping(30)))

    async def slow() -> None:
        await asyncio.sleep(0.2)

    async def scenario() -> None:
        b.log.before_commit = slow
        b.log.put(dispatch(1, timeout_ms=400))
        await until(lambda: b.receipts)

    b.run(scenario)
    (claim,), (receipt,) = b.log.claims, b.receipts
    assert receipt.finished_at - claim.started_at < 450_000
    assert receipt.started_at - claim.started_at > 190_000
    assert receipt.error_class == "timeout"


def test_claim_that_used_up_the_call_sends_nothing() -> None:
    b = bench()

    async def slow() -> None:
        await asyncio.sleep(0.1)

    async def scenario() -> None:
        b.log.before_commit = slow
        b.log.put(dispatch(1, timeout_ms=50))
        await until(lambda: b.receipts)

    b.run(scenario)
    assert b.called == {}
    assert [(r.error_class, r.sent) for r in b.receipts] == [("timeout", False)]


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_bounded_concurrency_over_all_lanes() -> None:
    adapter = FakeAdapter(sleeping(0.01))
    b = bench(adapter=adapter, concurrency=3, lanes=3)

    async def scenario() -> None:
        for i in range(60):
            b.logs[i % 3].put(dispatch(i, tool_class="read_only" if i % 2 else "irreversible"))
        await until(lambda: len(b.receipts) == 60)

    b.run(scenario)
    assert adapter.most_at_once == 3  # reached, and never passed
    assert b.calls.counters.most_at_once == 3


def test_claim_never_waits_for_the_slot_of_another() -> None:
    """Of two dispatches fetched together only one finds a slot: it is claimed at once, with the slot it holds."""
    b = bench(adapter=FakeAdapter(sleeping(0.5)), concurrency=2, lanes=2)

    async def scenario() -> None:
        b.logs[0].put(dispatch(0, tool_class="read_only"))
        b.logs[1].put(dispatch(1), dispatch(2))
        await until(lambda: len(b.called) == 2, 0.3)
        assert "key-agent-1-1" in b.called

    b.run(scenario)


def test_receipts_wait_for_kafka_and_stop_new_calls() -> None:
    b = bench(concurrency=4, bound=5)

    async def scenario() -> None:
        b.reports.hold()
        b.log.put(*[dispatch(i, tool_class="read_only") for i in range(100)])
        await settled(0.3)
        held = sum(b.called.values())
        assert 5 <= held <= 5 + 2 * 4  # the bound, what ran, and what the last fetch brought
        b.reports.let_go()
        await until(lambda: len(b.receipts) == 100)

    b.run(scenario)
    assert set(b.called.values()) == {1}


def test_a_slow_tool_stops_the_fetching_and_nothing_is_lost() -> None:
    """Back-pressure: what waits, waits in Kafka."""
    adapter = FakeAdapter(sleeping(0.005))
    b = bench(adapter=adapter, concurrency=8)
    most = 0

    async def scenario() -> None:
        nonlocal most
        b.log.put(
            *[
                dispatch(i, tool_class="read_only" if i % 2 else "irreversible", lease_s=300)
                for i in range(400)
            ]
        )
        while len(b.receipts) < 400:
            most = max(most, b.calls.counters.fetched - len(b.receipts))
            await asyncio.sleep(0.001)

    b.run(scenario)
    assert most <= 3 * 8, "taken in: what runs, what the last fetch brought, and receipts on their way"
    assert set(b.called.values()) == {1} and len(b.called) == 400


def test_key_in_flight() -> None:
    """The ledger offered a call again that still runs here: it is not started beside itself."""
    adapter = FakeAdapter(sleeping(0.2))
    b = bench(adapter=adapter)

    async def scenario() -> None:
        b.log.put(dispatch(1, key="k", tool_class="idempotent"))
        await until(lambda: adapter.at_once == 1)
        b.log.put(dispatch(1, key="k", tool_class="idempotent", attempt=2))
        await until(lambda: b.receipts)
        b.log.put(dispatch(1, key="k", tool_class="idempotent", attempt=3))
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert adapter.called == {"k": 2}
    assert adapter.most_at_once == 1
    assert [r.attempt for r in b.receipts] == [1, 3]
    assert b.calls.counters.duplicates == 1


def test_key_stays_in_flight_until_its_receipt_arrived() -> None:
    b = bench()

    async def scenario() -> None:
        b.reports.hold()
        b.log.put(dispatch(1, key="k", tool_class="read_only"))
        await until(lambda: b.reports.waiting)
        b.log.put(dispatch(1, key="k", tool_class="read_only", attempt=2))
        await until(lambda: b.calls.counters.duplicates)

    b.run(scenario)
    assert b.called == {"k": 1}


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_unreadable_dispatch_is_reported_and_passed() -> None:
    b = bench()

    async def scenario() -> None:
        b.log.put(b"no avro", dispatch(1))
        await until(lambda: b.receipts)

    b.run(scenario)
    (index, record, error) = b.unreadable[0]
    assert (index, record.value, error.reason) == (0, b"no avro", "not_avro")
    assert b.called == {"key-agent-1-1": 1}


@pytest.mark.parametrize("executor", [b'{"kind":"mcp"}', b"{", b"[]"])
def test_kind_without_adapter_fails_with_proof_that_nothing_was_sent(executor: bytes) -> None:
    b = bench()

    async def scenario() -> None:
        b.log.put(dispatch(1, executor=executor))
        await until(lambda: b.receipts)

    b.run(scenario)
    assert [(r.error_class, r.sent) for r in b.receipts] == [("unreachable", False)]
    assert len(b.log.claims) == 1


def test_adapter_defect_is_a_receipt_without_its_text() -> None:
    async def behave(_: Dispatch) -> Answer:
        raise RuntimeError("canary-in-exception")

    b = bench(adapter=FakeAdapter(behave))

    async def scenario() -> None:
        b.log.put(dispatch(1))
        await until(lambda: b.receipts)

    b.run(scenario)
    (receipt,) = b.receipts
    assert (receipt.error_class, receipt.sent) == ("crashed", True)
    assert "canary" not in receipt.error
    assert "RuntimeError" in receipt.error


def test_result_too_large_never_leaves() -> None:
    async def behave(one: Dispatch) -> Answer:
        return Finished(b"1" * (MAX_RESULT_BYTES + (one.intent_id == "intent-2")))

    b = bench(adapter=FakeAdapter(behave))

    async def scenario() -> None:
        b.log.put(dispatch(1), dispatch(2))
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    kinds = {r.intent_id: (r.kind, r.error_class) for r in b.receipts}
    assert kinds == {"intent-1": ("finished", ""), "intent-2": ("failed", "result_too_large")}


def test_terminal_error_stops_the_lane_and_says_why() -> None:
    b = bench()

    async def fail() -> None:
        raise Terminal("kafka does not let this user in")

    async def scenario() -> None:
        b.log.before_commit = fail
        b.log.put(dispatch(1))
        await until(lambda: b.lanes[0].stopped_because)

    b.run(scenario)
    assert b.lanes[0].stopped_because == "kafka does not let this user in"
    assert b.called == {}
    assert b.log.closed == 1


def test_drain_cuts_without_a_receipt() -> None:
    """Nobody knows what a cut call did, so nothing is said: the ledger's table decides by its class."""
    b = bench(adapter=FakeAdapter(sleeping(30)))

    async def scenario() -> None:
        b.log.put(dispatch(1, timeout_ms=60_000))
        await until(lambda: b.called)
        assert await b.calls.drain(0.05) == 1

    b.run(scenario)
    assert b.receipts == []


def test_finish_claims_what_was_taken_in() -> None:
    b = bench()
    release = asyncio.Event()

    async def scenario() -> None:
        b.log.before_commit = release.wait  # type: ignore[assignment]
        b.log.put(dispatch(1))
        await settled(0.05)
        b.log.put(dispatch(2))
        await settled(0.05)
        b.lanes[0].finish()
        b.log.put(dispatch(3))
        release.set()
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert b.called == {"key-agent-1-1": 1, "key-agent-1-2": 1}
    assert b.log.committed == 2


# -- receipts on their way ----------------------------------------------------------------------------------------------


class FakeProducer:
    """Takes records, or fails as aiokafka does: by the future, or by `send` itself."""

    def __init__(self, took: list[bytes], fail: str = "") -> None:
        self.took, self.fail, self.stopped = took, fail, False

    async def send(self, topic: str, value: bytes, **_: object) -> asyncio.Future[None]:
        if self.fail == "send":
            raise KafkaError("no")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.fail == "future":
            asyncio.get_running_loop().call_later(0.01, future.set_exception, KafkaError("no"))
        elif self.fail == "silence":
            pass
        elif self.fail == "late":
            self.took.append(value)
            asyncio.get_running_loop().call_later(0.01, future.set_result, None)
        else:
            self.took.append(value)
            future.set_result(None)
        return future

    async def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("fail", ["send", "future"])
def test_receipt_is_sent_again_by_a_new_producer(fail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[bytes] = []
    producers = [FakeProducer(took, fail), FakeProducer(took, fail), FakeProducer(took)]
    left = list(producers)

    async def connect(_: object) -> FakeProducer:
        return left.pop(0)

    monkeypatch.setattr(reports_module.kafka, "connect", connect)
    monkeypatch.setattr(reports_module.kafka, "producer", lambda *_: None)
    monkeypatch.setattr(reports_module, "RETRY_MIN_S", 0.01)

    async def main() -> None:
        reports = Reports(Settings(kafka="nowhere:1"))
        await reports.start()
        async with asyncio.timeout(5):
            await asyncio.gather(*[reports.send(0, b"k", bytes([i]), []) for i in range(5)])
        assert reports.waiting == 0
        assert await reports.stop(1) == 0

    asyncio.run(main())
    assert sorted(took) == [bytes([i]) for i in range(5)]
    assert [p.stopped for p in producers] == [True, True, True]


@pytest.mark.parametrize("fail", ["late", "future"])
def test_many_receipts_are_gathered_in_order_and_none_is_lost(
    fail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than go at once; with `future` the first producer fails under them."""
    took: list[bytes] = []
    left = [FakeProducer(took, fail), FakeProducer(took, "late")]

    async def connect(_: object) -> FakeProducer:
        return left.pop(0)

    monkeypatch.setattr(reports_module.kafka, "connect", connect)
    monkeypatch.setattr(reports_module.kafka, "producer", lambda *_: None)

    async def main() -> None:
        reports = Reports(Settings(kafka="nowhere:1"))
        await reports.start()
        async with asyncio.timeout(10):
            await asyncio.gather(*[reports.send(0, b"k", bytes([i]), []) for i in range(50)])
        assert reports.waiting == 0
        assert await reports.stop(1) == 0

    asyncio.run(main())
    assert sorted(set(took)) == [bytes([i]) for i in range(50)]
    if fail == "late":
        assert took == [bytes([i]) for i in range(50)], "once each, and in order"


def test_reports_say_what_kafka_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(_: object) -> FakeProducer:
        return FakeProducer([], "silence")

    monkeypatch.setattr(reports_module.kafka, "connect", connect)
    monkeypatch.setattr(reports_module.kafka, "producer", lambda *_: None)

    async def main() -> None:
        reports = Reports(Settings(kafka="nowhere:1"), max_waiting=2)
        await reports.start()
        tasks = [asyncio.create_task(reports.send(0, b"k", b"v", [])) for _ in range(2)]
        await asyncio.sleep(0)
        assert reports.full
        assert await reports.stop(0.05) == 2
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(r) for r in results] == [asyncio.CancelledError] * 2

    asyncio.run(main())


def test_copy_of_a_dispatch() -> None:
    """Somebody who may write the topic puts a committed dispatch there again: it is not called again."""
    b = bench()

    async def scenario() -> None:
        one = dispatch(1)
        b.log.put(one)
        await until(lambda: len(b.receipts) == 1)
        b.log.put(one, dispatch(2))
        await until(lambda: len(b.receipts) == 2)

    b.run(scenario)
    assert sorted(b.called.values()) == [1, 1]
    assert b.calls.counters.duplicates == 1


def test_what_cannot_be_judged_now_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call, no dead letter: the ledger's tick offers it again."""

    class Behind(ReadsOnly):
        async def open(self, partition: int, value: bytes) -> Dispatch:
            raise Retryable("control is behind")

    b = bench()
    b.lanes[0]._verifier = Behind()

    async def scenario() -> None:
        b.log.put(dispatch(1), dispatch(2, tool_class="read_only"))
        await until(lambda: b.calls.counters.unverified == 2)

    b.run(scenario)
    assert (b.called, b.receipts, b.unreadable) == ({}, [], [])


# -- health -------------------------------------------------------------------------------------------------------------


def test_alive_says_what_is_wrong() -> None:
    async def main() -> None:
        executor = Executor(Settings(kafka="nowhere:1"), {}, name="x")
        assert executor.alive == ""
        lane = executor.lanes[2] = Lane(2, lambda _: FakeLog(), executor._calls, lambda *_: None)
        assert executor.alive == ""
        lane.behind_us = CLOCK_LIMIT_US + 1_000_000
        assert "3.0 s behind" in executor.alive
        lane.progress_at -= 31
        assert executor.alive == "partition 2 made no progress for 30 s"
        lane.stopped_because = "no right"
        assert executor.alive == "partition 2 stopped: no right"
        executor.crashed = asyncio.get_running_loop().create_future()
        assert executor.alive == "partition 2 stopped: no right"
        executor.crashed.set_exception(KafkaError("no group"))
        assert "no group" in executor.alive

    asyncio.run(main())
