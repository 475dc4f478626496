"""The executor role of one process: which partitions of `dispatches` it owns, and the life of everything in it.

    dispatcher.py  membership, start, stop, health       lane.py   fetch, claim, commit (steps 1 to 3)
    claim_log.py   one partition on Kafka                calls.py  call, report (steps 4 and 5)

The consumer that is in the group only holds the membership: its partitions stay paused, and each lane reads with a
consumer of its own. What protects a claim is the producer epoch of the lane, never the membership.
Never decides whether a call is permitted: a dispatch is the permit, checked by `verifier.py`. Next: `lane.py`, then `adapter.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.executors.adapter import Adapter
from sluicegate.executors.calls import DEFAULT_CONCURRENCY, Calls, Counters, Keep
from sluicegate.executors.claim_log import ClaimLog, Fetched, KafkaClaimLog, group_of
from sluicegate.executors.lane import Lane
from sluicegate.executors.large_arguments import Whole, nothing
from sluicegate.executors.reports import Reports, Signer, packed
from sluicegate.executors.verifier import Verifier
from sluicegate.processors.intake import DEAD_LETTER_HEAD_BYTES
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import DeadLetter, Receipt
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings
from sluicegate.streams.transactions import cloud_event

LANE_END_LIMIT_S = 5.0
"""A lane's last claim may take this long before it is cut; its successor fences it anyway."""
DRAIN_LIMIT_S = 10.0
"""At a stop, running calls may take this long; then they are cut and the ledger's table applies."""
FLUSH_LIMIT_S = 5.0
"""At a stop, receipts may take this long to arrive."""
MEMBER_POLL_MS = 1_000
"""How often the member shows that it is alive; a member that does not poll for 300 s is put out of the group."""
REJOIN_PAUSE_S = 1.0
STALLED_AFTER_S = 30.0
"""A lane that could fetch and did not, or a receipt that waits, for this long is not alive."""
CLOCK_LIMIT_US = 2_000_000
"""A clock further behind the ledger's than the margin of a lease is a danger, and said so."""


def wall_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class Executor(ConsumerRebalanceListener):  # type: ignore[misc]
    """The executor role of one process. It closes the adapters it was given.

    Attributes:
        counters: what it did so far.
        crashed: a future that fails when it cannot go on; set by `start`.
    """

    def __init__(
        self,
        settings: Settings,
        adapters: Mapping[str, Adapter],
        *,
        name: str,
        concurrency: int = DEFAULT_CONCURRENCY,
        clock: Callable[[], int] = wall_clock,
        signer: Signer | None = None,
        verifier: Verifier | None = None,
        keep: Keep | None = None,
        whole: Whole = nothing,
    ) -> None:
        self.settings = settings
        self.name = name
        self.crashed: asyncio.Future[None] | None = None
        self.lanes: dict[int, Lane] = {}
        self._adapters = adapters
        self._reports = Reports(settings)
        self._calls = Calls(
            adapters, self._reports, env=settings.env, name=name, clock=clock, concurrency=concurrency,
            signer=signer, stopped=verifier.stopped if verifier is not None else lambda dispatch: "", keep=keep,
            whole=whole,
        )  # fmt: skip
        self._clock = clock
        self._verifier = verifier
        self._topic = full_name(settings.space, "dispatches")
        self._log = logging.getLogger("sluicegate.executor")
        self._group: AIOKafkaConsumer | None = None
        self._member: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], Lane] = {}
        self._letters: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def counters(self) -> Counters:
        """What this process did so far."""
        return self._calls.counters

    @property
    def receipts_waiting(self) -> int:
        """Receipts that Kafka does not have yet."""
        return self._reports.waiting

    @property
    def running(self) -> int:
        """Calls begun whose receipt is not in Kafka yet."""
        return self._calls.running

    async def report(self, partition: int, receipt: Receipt) -> None:
        """Return when Kafka has a receipt that no call of this process made: a tool called back."""
        value, headers = packed(receipt, self._calls.source, self._calls.signer, "")
        await self._reports.send(partition, receipt.agent_id.encode(), value, headers)

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and join the group; lanes run as they are assigned."""
        self.crashed = asyncio.get_running_loop().create_future()
        await self._reports.start()
        self._group = kafka.consumer(self.settings, group=group_of(self.settings.env))
        self._group.subscribe([self._topic], listener=self)
        try:
            await kafka.connect(self._group)
        except BaseException:
            await self._reports.stop(0)
            raise
        self._member = asyncio.create_task(self._stay(), name="executor-member")
        self._member.add_done_callback(self._done)

    async def stop(self) -> None:
        """Drain within bounds: end the lanes, leave the group, let calls end, let receipts arrive."""
        self._closing = True
        lanes = list(self._tasks)
        for lane in self._tasks.values():
            lane.finish()
        if self._member is not None:
            self._member.cancel()
            await asyncio.gather(self._member, return_exceptions=True)
        if self._group is not None:
            await self._group.stop()  # now, so that another process takes over while the last calls end here
        if lanes:
            _, late = await asyncio.wait(lanes, timeout=LANE_END_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        cut = await self._calls.drain(DRAIN_LIMIT_S)
        lost = await self._reports.stop(FLUSH_LIMIT_S)
        if cut or lost:
            self._log.warning("stopped with %d calls cut and %d receipts not in kafka", cut, lost)
        for adapter in self._adapters.values():
            await adapter.close()

    @property
    def alive(self) -> str:
        """Empty while every lane makes progress or has nothing to do; else what is wrong."""
        now = time.monotonic()
        if self.crashed is not None and self.crashed.done() and not self.crashed.cancelled():
            return f"an executor task crashed: {self.crashed.exception()!r}"
        if self._reports.waited_s > STALLED_AFTER_S:
            return f"{self._reports.waiting} receipts have waited for kafka for over {STALLED_AFTER_S:.0f} s"
        for lane in self.lanes.values():
            if lane.stopped_because:
                return f"partition {lane.index} stopped: {lane.stopped_because}"
            if now - lane.progress_at > STALLED_AFTER_S and not self._calls.full:
                return f"partition {lane.index} made no progress for {STALLED_AFTER_S:.0f} s"
            if lane.behind_us > CLOCK_LIMIT_US:
                return f"this machine's clock is {lane.behind_us / 1e6:.1f} s behind the ledger's, set it"
        return ""

    # -- membership ---------------------------------------------------------------------------------------------

    async def _stay(self) -> None:
        """Keep the membership: a member must poll, and learns of errors by polling."""
        assert self._group is not None
        while True:
            try:
                await self._group.getmany(timeout_ms=MEMBER_POLL_MS)
            except KafkaError as error:
                if not getattr(error, "retriable", False):
                    raise
                self._log.warning("the executor group is not reachable: %s", error)
                await asyncio.sleep(REJOIN_PAUSE_S)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Nothing ends here: with the eager protocol everything is revoked, most of it comes back at once."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Start and end lanes, without waiting: heartbeats do not run in here, and epochs fence what ends late."""
        if self._closing or self._group is None:
            return
        if assigned:
            self._group.pause(*assigned)
        mine = {place.partition for place in assigned}
        for index in [i for i in self.lanes if i not in mine]:
            self.lanes.pop(index).finish()
        for index in sorted(mine - self.lanes.keys()):
            lane = self.lanes[index] = Lane(
                index, self._open_log, self._calls, self._unreadable, self._verifier
            )
            task = asyncio.create_task(lane.run(), name=f"executor-{index}")
            self._tasks[task] = lane
            task.add_done_callback(self._done)

    def _open_log(self, index: int) -> ClaimLog:
        return KafkaClaimLog(self.settings, index)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._log.error("executor task %s crashed: %r", task.get_name(), error)
        if self.crashed is not None and not self.crashed.done():
            self.crashed.set_exception(error)

    # -- what cannot be read ------------------------------------------------------------------------------------

    def _unreadable(self, index: int, record: Fetched, error: Unreadable) -> None:
        value = record.value
        digest = hashlib.sha256(value).digest()
        letter = DeadLetter(
            "dispatches", index, record.offset, error.reason, str(error), len(value), digest,
            value[:DEAD_LETTER_HEAD_BYTES], self._clock(),
        )  # fmt: skip
        self._log.error("alarm: dispatch %d/%d cannot be read: %s", index, record.offset, error)
        headers = cloud_event(digest[:16], self._calls.source, b"ai.sluicegate.dead-letter")
        key = f"dispatches/{index}/{record.offset}".encode()
        task = asyncio.create_task(self._reports.send_dead_letter(key, codec.encode(letter), headers))
        self._letters.add(task)
        task.add_done_callback(self._letters.discard)
