"""Calls: the bounded number of tool calls of one process, each from its slot to its receipt.

`admit` takes a dispatch in (never one that is late, never a key that is already in flight), `start` calls and reports
(steps 4 and 5 of `lane.py`). Nothing here decides whether a call is permitted or claimed: the lane does.
Never repeats a call, never lets an adapter's exception text out: it may hold what a tool was told.
Next: `adapter.py` (what is called), `reports.py` (where receipts go), `lane.py` (steps 1 to 3).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import lru_cache

import orjson
from sluicegate.executors.adapter import (
    ERROR_CHARS,
    Adapter,
    Answer,
    Failed,
    Finished,
    Parked,
    Pending,
    Traceless,
)
from sluicegate.executors.large_arguments import Whole, nothing
from sluicegate.executors.reports import Reports, Signer, packed
from sluicegate.processors.artifacts import STORED, limit_of
from sluicegate.processors.control.quarantine import REASON as QUARANTINED
from sluicegate.processors.jobs import jobs
from sluicegate.processors.ticks import REPEATABLE
from sluicegate.schemas.records import Dispatch, Receipt
from sluicegate.schemas.topics import MAX_RESULT_BYTES
from sluicegate.streams.failpoints import hit

DEFAULT_CONCURRENCY = 128
"""Calls at a time in one process, from before the claim; at 80 ms for both that is 1,600 a second, about what one core of
Python does. Results of 64 kB at most: 8 MB."""

MAX_BEGUN = 100_000
"""Dispatches remembered until their lease is over: 5 s of 20,000 calls a second, about 150 bytes each, 15 MB."""

OWN_CUT_S, OWN_CUT_PART = 0.05, 0.05
"""An adapter is told this much less (seconds, or part of the time if that is shorter), so that it can end the call itself and say
whether anything was sent; if it does not, it is cut."""


LARGE_AT_ONCE = 4
"""Calls at a time that may answer with 64 MB each: 256 MB, and as much again while one is sealed."""

Keep = Callable[[Dispatch, bytes, float], Awaitable[Answer]]
"""(dispatch, result, seconds) -> `Finished` with a reference, or why it is not kept (`artifact_keeper.py`)."""


ENDS_OF_A_LOOK = ("refused_by_tool", "result_too_large", "malformed_result")
"""What a tool itself says of work that it ended."""


@dataclass(slots=True)
class Counters:
    """What this process did, read by `/metrics` and tests."""

    fetched: int = 0
    late: int = 0
    duplicates: int = 0
    unreadable: int = 0
    unverified: int = 0
    claims: int = 0
    claim_transactions: int = 0
    given_back: int = 0
    quarantined: int = 0
    taints: int = 0
    calls: int = 0
    finished: int = 0
    failed: int = 0
    parked: int = 0
    streamed: int = 0
    pieces: int = 0
    most_at_once: int = 0


@dataclass(slots=True, eq=False)
class Offer:
    """A dispatch this process took in.

    Attributes:
        deadline: monotonic seconds; no claim and no call begins after it.
        started_at: wall microseconds of the claim, 0 before; what the ledger's lease counts from.
        cut_at: monotonic seconds at which the call of a claim is cut, so that it is over before the lease.
        calling: whether the adapter is at work on it now.
    """

    dispatch: Dispatch
    partition: int
    deadline: float
    started_at: int = 0
    cut_at: float = 0.0
    calling: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether the ledger calls again by itself when no receipt comes."""
        return self.dispatch.tool_class in REPEATABLE

    @property
    def late(self) -> bool:
        """Whether nothing may begin any more."""
        return time.monotonic() >= self.deadline


@lru_cache(maxsize=1_024)
def kind_of(executor: bytes) -> str:
    """The kind of a contract's executor object; empty when it has none."""
    try:
        parsed = orjson.loads(executor)
    except orjson.JSONDecodeError:
        return ""
    return str(parsed.get("kind", "")) if isinstance(parsed, dict) else ""


class Calls:
    """The calls of one process."""

    def __init__(
        self,
        adapters: Mapping[str, Adapter],
        reports: Reports,
        *,
        env: str,
        name: str,
        clock: Callable[[], int],
        concurrency: int = DEFAULT_CONCURRENCY,
        signer: Signer | None = None,
        stopped: Callable[[Dispatch], str] = lambda dispatch: "",
        keep: Keep | None = None,
        whole: Whole = nothing,
    ) -> None:
        self.counters = Counters()
        self.stopped = stopped
        self.name = name
        self.clock = clock
        self.signer = signer
        self.source = f"/{env}/executors/{name}".encode()
        self._adapters = adapters
        self._reports = reports
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._keep, self._whole = keep, whole
        self._held = 0
        self._keys: dict[str, Offer] = {}
        self._begun: OrderedDict[bytes, float] = OrderedDict()  # its oldest is found without a walk
        self._tasks: dict[asyncio.Task[None], Offer] = {}
        self._log = logging.getLogger("sluicegate.executor")

    # -- slots and keys -----------------------------------------------------------------------------------------

    async def room(self) -> int:
        """Wait until a call could begin and receipts are taken; how many could."""
        await self._reports.room()
        if self._slots.locked():
            async with self._slots:
                pass
        return max(1, self._concurrency - self._held)

    @property
    def full(self) -> bool:
        """Whether there is a reason not to fetch: no slot is free, or too many receipts wait."""
        return self._slots.locked() or self._reports.full

    async def admit(self, offer: Offer) -> bool:
        """Hold a slot and the key for this offer, or drop it: late, or its key is in flight already."""
        key = offer.dispatch.idempotency_key
        # INVARIANT: one process never runs a key twice at a time (tests/unit/test_dispatcher.py::test_key_in_flight),
        # and never a dispatch twice, also when somebody copied the record (test_copy_of_a_dispatch).
        if key in self._keys or offer.dispatch.dispatch_id in self._begun:
            self.counters.duplicates += 1
            return False
        self._keys[key] = offer
        try:
            if not offer.late:
                await self._slots.acquire()
                self._held += 1
                self.counters.most_at_once = max(self.counters.most_at_once, self._held)
                if not offer.late:
                    return True
                self._release()
        except BaseException:
            self._forget(offer)
            raise
        self._forget(offer)
        self.counters.late += 1
        return False

    def _remember(self, offer: Offer) -> None:
        """Until the lease is over, or as many were begun since as are kept."""
        now = time.monotonic()
        while self._begun:
            ident, until = next(iter(self._begun.items()))
            if until > now and len(self._begun) < MAX_BEGUN:
                break
            del self._begun[ident]
        self._begun[offer.dispatch.dispatch_id] = offer.deadline

    def drop(self, offer: Offer) -> None:
        """Let an admitted offer go without a call. The ledger's tick offers it again."""
        self._release()
        self._forget(offer)

    def _forget(self, offer: Offer) -> None:
        if self._keys.get(offer.dispatch.idempotency_key) is offer:
            del self._keys[offer.dispatch.idempotency_key]

    def _release(self) -> None:
        self._held -= 1
        self._slots.release()

    @property
    def running(self) -> int:
        """Calls begun whose receipt is not in Kafka yet."""
        return len(self._tasks)

    # -- calls --------------------------------------------------------------------------------------------------

    def start(self, offer: Offer) -> None:
        """Steps 4 and 5 for an admitted offer, in a task of their own."""
        self._remember(offer)
        self._spawn(self._run(offer), offer)

    def give_back(self, offer: Offer) -> None:
        """Let go of a claim that is committed but too late to call."""
        self.drop(offer)
        self.report_unsent(offer)

    def report_unsent(self, offer: Offer) -> None:
        """Say about a committed claim that nothing was called.

        A repeatable class says nothing: the ledger offers it again. Else this proof spares a person the question
        whether the call was made.
        """
        self.counters.given_back += 1
        if not offer.repeatable:
            answer = Failed(
                "unreachable", "the claim was not known to be committed in time, nothing was called", False
            )
            self._spawn(self._report(offer, offer.started_at, answer), offer)

    def _spawn(self, work: Coroutine[None, None, None], offer: Offer) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = offer
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        offer = self._tasks.pop(task)
        self._forget(offer)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("alarm: a call's task failed: %r", task.exception())

    async def _run(self, offer: Offer) -> None:
        started = self.clock()
        offer.calling = True
        try:
            answer = await self._call(offer)
        finally:
            offer.calling = False
            self._release()
        hit("claim.4.called")
        await self._report(offer, started, answer)
        hit("claim.5.reported")

    async def _call(self, offer: Offer) -> Answer:
        """Step 4. What fails of a look says nothing about the work it looks at, unless the tool said so."""
        answer = await self._attempt(offer)
        if offer.dispatch.purpose and isinstance(answer, Failed) and answer.error_class not in ENDS_OF_A_LOOK:
            return Pending(answer.error_class, answer.error)
        return answer

    async def _attempt(self, offer: Offer) -> Answer:
        dispatch = offer.dispatch
        adapter = self._adapters.get(kind := kind_of(dispatch.executor))
        if adapter is None:
            return Failed("unreachable", f"this executor has no adapter of kind `{kind[:40]}`", sent=False)
        limit_s = dispatch.timeout_ms / 1000
        if offer.started_at:
            # INVARIANT: a claimed call is over before started_at + timeout_ms, which is what the ledger counts its
            # lease from (tests/unit/test_dispatcher.py::test_slow_claim_shortens_the_call).
            limit_s = min(limit_s, offer.cut_at - time.monotonic())
            if limit_s <= 0:
                text = f"claiming took the {dispatch.timeout_ms} ms of the call, raise `timeout_ms`"
                return Failed("timeout", text, sent=False)
        # INVARIANT: what is quarantined by now is not called, whatever was claimed before
        # (tests/unit/test_quarantine.py::test_claimed_and_then_quarantined_is_not_called).
        # A look goes on: what was begun is not undone, and its end is still wanted.
        if not dispatch.purpose and (stopped := self.stopped(dispatch)):
            self.counters.quarantined += 1
            return Failed(QUARANTINED, stopped, sent=False)
        self.counters.calls += 1
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._through(adapter, dispatch, limit_s)
        except TimeoutError:
            return Failed("timeout", f"the tool did not answer within {dispatch.timeout_ms} ms")
        except Exception as error:  # an adapter's defect must not end the process
            self._log.error("alarm: adapter `%s` raised %s", kind[:40], type(error).__name__)
            return Failed("crashed", f"the adapter failed with {type(error).__name__}")
        if isinstance(answer, Finished) and not answer.stored and len(answer.result) > MAX_RESULT_BYTES:
            said = f"the result has more than {MAX_RESULT_BYTES} bytes"
            return Failed("result_too_large", said, streamed=answer.streamed)
        return answer

    async def _through(self, adapter: Adapter, dispatch: Dispatch, limit_s: float) -> Answer:
        """Call the adapter with the arguments, wherever they stand."""
        own_s = limit_s - min(OWN_CUT_S, limit_s * OWN_CUT_PART)
        if not dispatch.arguments_ref:
            return await self._kept(adapter, dispatch, own_s)
        until = time.monotonic() + own_s
        async with self._whole(dispatch, own_s) as found:
            if isinstance(found, Failed):
                return found
            return await self._kept(adapter, found, until - time.monotonic())

    async def _kept(self, adapter: Adapter, dispatch: Dispatch, own_s: float) -> Answer:
        """Call the adapter; what is too large for a receipt is kept beside the ledger, where the contract says so."""
        if self._keep is None or limit_of(dispatch.executor) <= MAX_RESULT_BYTES:
            return await adapter.call(dispatch, own_s)
        until = time.monotonic() + own_s
        async with self._large:
            answer = await adapter.call(dispatch, until - time.monotonic())
            if isinstance(answer, Finished) and len(answer.result) > MAX_RESULT_BYTES:
                return await self._keep(dispatch, answer.result, until - time.monotonic())
            return answer

    async def _report(self, offer: Offer, started: int, answer: Answer) -> None:
        """Step 5."""
        dispatch = offer.dispatch
        receipt = Receipt(
            dispatch.dispatch_id, dispatch.intent_id, dispatch.agent_id, dispatch.session_id, "finished",
            dispatch.attempt, self.name, started, self.clock(),
        )  # fmt: skip
        streamed = answer.streamed if isinstance(answer, Finished | Failed) else None
        if streamed is not None:
            self.counters.streamed += 1
            self.counters.pieces += streamed.pieces
            receipt.message, receipt.pieces, receipt.streamed = (
                streamed.message,
                streamed.pieces,
                streamed.digest,
            )
        if isinstance(answer, Finished):
            self.counters.finished += 1
            receipt.kind, receipt.result = STORED if answer.stored else receipt.kind, answer.result
            receipt.said = answer.said
        elif isinstance(answer, Failed):
            self.counters.failed += 1
            receipt.kind, receipt.error_class, receipt.sent = "failed", answer.error_class, answer.sent
            receipt.error, receipt.retry_after_ms = answer.error[: 2 * ERROR_CHARS], answer.retry_after_ms
        else:
            self.counters.parked += 1
            _tell(receipt, answer)
        value, headers = packed(receipt, self.source, self.signer, dispatch.traceparent)
        await self._reports.send(offer.partition, dispatch.agent_id.encode(), value, headers)

    async def drain(self, limit_s: float) -> int:
        """Let running calls end, then cut the rest, without a receipt: nobody knows what those did.

        Returns how many were cut; for them the ledger follows the table of DESIGN §5.4. Receipts that still wait
        for Kafka are the business of `Reports.stop`.
        """
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=limit_s)
        late = [task for task, offer in self._tasks.items() if offer.calling]
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)


def _tell(receipt: Receipt, answer: Parked | Pending | Traceless) -> None:
    """What is no end, in the words of `processors/jobs/jobs.py`."""
    if isinstance(answer, Parked):
        receipt.kind = jobs.PARKED
        receipt.result = orjson.dumps({"completion": answer.completion, "job": answer.job})
    elif isinstance(answer, Pending):
        receipt.kind, receipt.error_class = jobs.PROGRESS, answer.error_class
        receipt.error = answer.error[: 2 * ERROR_CHARS]
    else:
        receipt.kind = jobs.TRACELESS
