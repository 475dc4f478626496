"""The ledger: one owner per partition, and the commit protocol in five steps.

    1. Fetch    a due deadline becomes a Tick before any input; else a bounded batch, informing topics first
    2. Load     bytes that an open intent's decision asks for (a second offer, an approval, a repeated id)
    3. Decide   in order; fold each outcome; chain it
    4. Append   everything in one Kafka transaction; await every future
    5. Commit   only now is anything told to anyone

The docs, the failpoints (`failpoints.py`) and the crash tests use these numbers; docs/commit-protocol.md says what a
crash at each step costs. The ledger itself is the truth of input positions; consumer group offsets are for lag tools.
Any error or time-out taints the partition: abort, close the producer, drop the state, recover, go on in a new epoch.
Never decides (`processors/pipeline.py`), never looks at a clock in a decision: `now` is read here, once a batch.
Next: `lanes/service.py` (who owns which partition), `lanes/outgoing.py` (what a decision sends), `lanes/recovery.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.agents.restore import PLACE, releases_in
from sluicegate.processors.cache.entries import WAKE_AT
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.large_arguments import PLACE as ARGUMENTS
from sluicegate.processors.outcomes import Decision, Origin, Outcome, event_id, seal
from sluicegate.processors.pipeline import decide, machinery_failed
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import PartitionState, apply, due_intent, next_due
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.schemas.records import GenesisFacts
from sluicegate.schemas.topics import INPUTS, full_name
from sluicegate.streams import kafka
from sluicegate.streams.failpoints import hit, hit_if
from sluicegate.streams.lanes.metrics import LaneMetrics
from sluicegate.streams.lanes.outgoing import Outgoing
from sluicegate.streams.lanes.recovery import recover
from sluicegate.streams.lanes.resting_file import RestingFile
from sluicegate.streams.lanes.restoring import Restoring
from sluicegate.streams.lanes.snapshots import SNAPSHOT_EVENTS, store
from sluicegate.streams.rebuild.live_state import Asked
from sluicegate.streams.repartition import generation as standing
from sluicegate.streams.transactions import COMMIT_LIMIT_S, Transaction, close_quietly

if TYPE_CHECKING:
    from sluicegate.streams.lanes.service import LedgerService

BATCH_RECORDS = 500
"""Inputs of one transaction: about 2,000 outcomes of 700 bytes, 1.4 MB."""
DECIDING_LIMIT_S = 0.050
"""Deciding stops after this and the rest waits for the next transaction: the event loop serves other partitions."""
BATCH_BYTES = 4 * 1024 * 1024
"""Input bytes of one transaction; a batch of the largest intents is 16 of them."""
BATCH_TICKS = 100
"""Deadlines of one transaction, one intent each; those that find nothing due are free."""
IDLE_POLL_MS = 500
CLOCK_BACK_LIMIT_US = 5_000_000
"""A wall clock this far behind the ledger's stops the partition: deadlines would mean nothing."""
GROUP_OFFSETS_EVERY_S = 1.0
CONFIRM_WAIT_S = 1.0
"""A batch waits this long for control's head where it is stale; the reader asks for it every 0.1 s."""
RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
"""Pause before recovering after a taint, doubled each time."""
ALONE_AFTER, GIVE_UP_AFTER = 2, 3
"""The same input tainting this often is decided alone, then recorded as `machinery_failed`."""


class Lane:
    """One partition of the ledger, as long as this process owns it."""

    def __init__(self, index: int, service: LedgerService) -> None:
        self.index = index
        self.service = service
        self.env, self.space = service.settings.env, service.settings.space
        self.places = {t: TopicPartition(full_name(self.space, t), index) for t in INPUTS}
        self.state = PartitionState(b"", index)
        self.metrics = LaneMetrics()
        self.stopped_because = ""
        self.reseek = False
        self._names = {place: topic for topic, place in self.places.items()}
        self._producer: AIOKafkaProducer | None = None
        self._waiting: deque[Input] = deque()
        self._closing = False
        self._begin: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._told_at = 0.0
        self._last_offset = -1
        self._snapshot_seq = 0
        self._suspect: tuple[Place, int] | None = None
        self._first: Place | None = None
        self._pause_s = RETRY_MIN_S
        self._lone = 0
        self._library, self.asked = Library(), Asked()
        self._restoring = Restoring(self.space, index, lambda: service.own_reader())
        self._outgoing = Outgoing(self.space, index, service.sign_dispatch, service.sign_transfer)

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Own the partition until cancelled or `finish` is called. Errors taint; they never end the lane."""
        while not self._closing:
            try:
                await self._open()
                while not self._closing:
                    await self._step()
            except Terminal as error:
                self.stopped_because = str(error)
                self.service.log.error("partition %d stopped: %s", self.index, error)
                return
            except Exception as error:  # whatever it was, the cure is the same: recover in a new epoch
                await self._taint(error)
            finally:
                await self._restoring.close()
                await close_quietly(self._producer)
                self._producer = None

    def finish(self) -> None:
        """Ask the lane to end after the transaction it is in."""
        self._closing = True

    async def _taint(self, error: Exception) -> None:
        self.metrics.taints += 1
        known = isinstance(error, KafkaError | SluicegateError | TimeoutError | OSError)
        self.service.log.warning(
            "partition %d tainted by %s: %s", self.index, type(error).__name__, error, exc_info=not known
        )
        away = isinstance(error, Retryable | TimeoutError | OSError) or getattr(error, "retriable", False)
        if self._first is not None and not away:
            times = self._suspect[1] + 1 if self._suspect and self._suspect[0] == self._first else 1
            self._suspect = (self._first, times)
        self._waiting.clear()
        self._told_at = 0.0
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(RETRY_MAX_S, self._pause_s * 2)

    async def _open(self) -> None:
        """Fence the predecessor, then recover, then seek: in this order (docs/commit-protocol.md)."""
        service = self.service
        started = time.monotonic()
        self._producer = await kafka.connect(
            kafka.producer(service.settings, transactional_id=standing.lane_id(service.settings, self.index))
        )
        async with service.own_reader() as reader:
            found = await recover(reader, self.space, self.index)
            self.state, self._last_offset = found.state, found.last_offset
            self._snapshot_seq = self.state.seq - found.folded
            self.state.sessions.move(RestingFile(service.settings.home / "resting"))
            begin = await reader.beginning_offsets(list(self.places.values()))
        await service.control.wait_for(self.state.control_head)
        # A process that stood still knows control as of then: it would refuse what nobody has to refuse.
        await service.control.confirmed()
        await service.control.have(
            self.state.sessions.releases() | {s.release for s in self.state.parked.values()}
        )
        standing.check(service.settings, service.control.control, self.state)
        if self.state.seq == 0:
            await self._genesis()
        standing.same_log(service.control.control, self.state)
        self.service.sign_dispatch.ready()
        for topic, place in self.places.items():
            expected = self.state.positions.get(topic, 0)
            if topic in self.state.positions and begin[place] > expected:
                # INVARIANT: never a silent gap (tests/integration/test_ledger_faults.py).
                raise Terminal(
                    f"input_lost: `{place.topic}` begins at {begin[place]}, partition {self.index} needs {expected}"
                )
            self._begin[topic] = begin[place]
        self._seek()
        self.metrics.recovered_events += found.folded
        self.metrics.recovery_s = time.monotonic() - started
        self._pause_s = RETRY_MIN_S

    def _seek(self) -> None:
        """Read on where the ledger says, never where the consumer group says."""
        self.reseek = False
        self._waiting.clear()
        for topic, place in self.places.items():
            self.service.seek(place, self.state.positions.get(topic, self._begin[topic]))

    async def _genesis(self) -> None:
        control = self.service.control.control
        self.state.log_id = control.log_id
        now = time.time_ns() // 1000
        origin = Origin("", "", "", "", SYSTEM, now, "", self.index, 0, control.head, "", ENGINE)
        ident = event_id(control.log_id, self.index, 0, "genesis", 0)
        facts = GenesisFacts(control.log_id, control.partitions, self.env, control.signing)
        decision = Decision(outcomes=[Outcome(origin, ident, "genesis", "genesis", "", facts)])
        transaction = Transaction(self._require())
        self._fold(decision, transaction)
        await self._append_and_commit(transaction)

    def _require(self) -> AIOKafkaProducer:
        assert self._producer is not None
        return self._producer

    # -- the five steps -----------------------------------------------------------------------------------------

    async def _step(self) -> None:
        self._first = None
        if self.service.control.control.log_id != self.state.log_id:  # the next generation was started
            standing.check(self.service.settings, self.service.control.control, self.state)
        await self.asked.serve(self.state)
        sources = await self._fetch()  # Step 1
        if not sources:
            self.service.passed(self)
            if self._offsets_due():
                await self._append_and_commit(Transaction(self._require()))
            return
        await self._confirmed()
        hit("ledger.1.fetched")
        hit_if(
            "transfer.3.fetched",
            lambda: any(isinstance(s, Input) and s.topic == "transfers" for s in sources),
        )
        transaction = Transaction(self._require())
        started, size = time.perf_counter(), 0
        while sources:
            source = sources.popleft()
            if isinstance(source, Input):
                self._first = self._first or (source.topic, source.offset)
                size += len(source.value)
                self.metrics.inputs += 1
                transaction.decides_transfer |= source.topic == "transfers"
            decision = await self._decide(source)  # Steps 2 and 3
            self._fold(decision, transaction)
            if time.perf_counter() - started > DECIDING_LIMIT_S or size > BATCH_BYTES or self._alone():
                break
        hit("ledger.3.decided")
        if transaction.records:
            await self._append_and_commit(transaction)  # Steps 4 and 5
        self._suspect = None
        await self._maybe_snapshot()

    async def _fetch(self) -> deque[Input | Tick]:
        """Step 1. A due deadline first; else what waits; else a poll that lasts until the next deadline at most."""
        now = self._now()
        if self.reseek:
            self._seek()
        order = self._restoring.ready(self.state, self.service.control.control, now)
        if order is not None:
            return deque((Tick(self.index, now, order=order),))
        due = next_due(self.state)
        stale = self.service.control.stale  # nothing is offered again under a head that cannot be confirmed
        if due == WAKE_AT and not stale:  # only those: other deadlines need `_receipts_read`
            return deque(Tick(self.index, WAKE_AT) for _ in range(BATCH_TICKS))
        if due is not None and due <= now and not stale:
            first = due_intent(self.state, now)
            lone = first is not None and (first[1].state == "held" or bool(first[1].awaits))
            self._lone = self._lone + 1 if lone else 0
            if lone and self._lone % BATCH_TICKS:  # now and then inputs, which may end what waits
                # No receipt can move it. INVARIANT: it alone is acted on: what is due after it may have been claimed
                # by now, and receipts were not read (tests/unit/test_due.py).
                return deque((Tick(self.index, due),))
            if not lone and (first is None or await self._receipts_read()):
                return deque(Tick(self.index, now) for _ in range(BATCH_TICKS))
        if not self._waiting:
            wait_ms = IDLE_POLL_MS if due is None else max(1, min(IDLE_POLL_MS, (due - now) // 1000))
            fetched = await self.service.poll(self.places.values(), wait_ms, BATCH_RECORDS)
            for topic in INPUTS:
                decided = self.state.positions.get(topic, 0)
                for record in fetched.get(self.places[topic], ()):
                    if record.offset < decided:
                        continue  # fetched before a seek: decided already
                    self._waiting.append(Input(topic, self.index, record.offset, record.value or b""))
        return self._waiting  # type: ignore[return-value]

    async def _confirmed(self) -> None:
        """Let a process that stood still learn where control is, before it refuses what nobody has to refuse."""
        if self.service.control.stale:
            with contextlib.suppress(Retryable):  # then it is stale, and permits are refused
                await self.service.control.confirmed(CONFIRM_WAIT_S)

    async def _receipts_read(self) -> bool:
        """Whether `receipts` was read to an end fetched after the lease and its margin ran out.

        INVARIANT: a claim made in time is never overlooked, so no irreversible call is offered twice
        (tests/crash). The end is fetched by another consumer: this one may be in a long poll.
        """
        place = self.places["receipts"]
        async with self.service.reader() as reader:
            end = int((await reader.end_offsets([place]))[place])
        if not self._waiting and await self.service.position(place) >= end:
            return True  # the consumer's position passes transaction markers, the ledger's does not
        return self.state.positions.get("receipts", 0) >= end

    async def _decide(self, source: Input | Tick) -> Decision:
        """Steps 2 and 3: decide; when bytes are needed, load them and decide again."""
        control = self.service.control.control
        source.control_stale = self.service.control.stale
        source.library = self._library
        now = self._now()
        if (
            self._suspect is not None
            and self._suspect[1] >= GIVE_UP_AFTER
            and self._suspect[0] == self._first
        ):
            self.metrics.machinery_failed += 1
            self.service.log.error("alarm: input %s broke the machinery %d times", self._first, GIVE_UP_AFTER)
            return machinery_failed(self.state, control, source, now, "tainted three times")
        decision = decide(self.state, control, source, now)
        while decision.needs:  # ends: each round loads what was missing, and a call has few rounds
            for place in decision.needs:
                source.contents[place] = await self._load(place, source)
            hit("ledger.2.loaded")
            decision = decide(self.state, control, source, now)
        await self.service.contents.keep(decision.stores)
        self._library.remember(source, decision)
        if decision.outcomes and decision.outcomes[0].reason == "machinery_failed":
            self.metrics.machinery_failed += 1
            self.service.log.error("alarm: a decision failed: %s", decision.outcomes[0].facts)
        return decision

    async def _load(self, place: Place, source: Input | Tick) -> bytes | None:
        """Step 2: an input's bytes. The library keeps what came with them: it is asked for next."""
        topic, offset = place
        if topic == ARGUMENTS:
            return await self.service.contents.arguments(source, offset, lambda at: self._load(at, source))
        if topic == PLACE:
            values = self._restoring.values(offset)
            if (
                values is not None
            ):  # a session that comes back may stand on what nobody stood on when this lane began
                await self.service.control.have(releases_in(values))
            return values
        known = self._library.raw(place)
        if known is not None:
            return known
        where, start = standing.place_of(self.service.settings, topic, self.index, offset)
        found = await self.service.load(where, start)
        for at, value in found.items() if start == offset else ():  # else it is of before a seam
            self._library.keep((topic, at), value)
        return found.get(start)

    def _fold(self, decision: Decision, transaction: Transaction) -> None:
        """Step 3, second half: fold and chain outcomes; gather what goes out beside them."""
        state, seal_content, on_outcome = self.state, self.service.keys.seal, self.service.on_outcome
        for outcome in decision.outcomes:
            value, state.prev_hash = seal(
                outcome, state.log_id, self.index, state.seq, state.prev_hash, seal_content
            )
            apply(state, outcome)
            self._outgoing.outcome(transaction, outcome, value)
            if on_outcome is not None:
                on_outcome(self.index, outcome)
        self._outgoing.beside(transaction, decision, state)
        self.metrics.outcomes += len(decision.outcomes)
        self.metrics.dead_letters += len(decision.dead_letters)
        self.metrics.rejected.update(letter.reason for letter in decision.dead_letters)

    async def _append_and_commit(self, transaction: Transaction) -> None:
        async with asyncio.timeout(COMMIT_LIMIT_S):
            last = await transaction.append()  # Step 4
            if self._offsets_due():
                await transaction.offsets(self._group_offsets(), self.service.group)
                self._told, self._told_at = dict(self.state.positions), time.monotonic()
            hit("ledger.4.appended")
            transaction.hit("transfer.1.appended", "transfer.4.appended")
            await transaction.commit()  # Step 5
        hit("ledger.5.committed")
        transaction.hit("transfer.2.committed", "transfer.5.committed")
        self._last_offset = last.get((full_name(self.space, "outcomes"), self.index), self._last_offset)
        self.metrics.transactions += 1
        self.service.passed(self)

    def _offsets_due(self) -> bool:
        """Group offsets are for lag tools only, so they trail by up to a second instead of costing every
        transaction two round trips."""
        waited = time.monotonic() - self._told_at >= GROUP_OFFSETS_EVERY_S
        return waited and self.state.positions != self._told

    def _group_offsets(self) -> dict[TopicPartition, int]:
        return {self.places[t]: offset for t, offset in self.state.positions.items() if t in self.places}

    # -- clock, snapshots ---------------------------------------------------------------------------------------

    def _now(self) -> int:
        """Microseconds: max(wall, last now). Raises `Terminal` when the wall clock is over 5 s behind."""
        wall = self.service.clock()
        if self.state.now - wall > CLOCK_BACK_LIMIT_US:
            raise Terminal(
                f"clock_backwards: this machine's clock is {(self.state.now - wall) / 1e6:.1f} s behind the ledger, set it"
            )
        return max(wall, self.state.now)

    def _alone(self) -> bool:
        return self._suspect is not None and self._suspect[1] >= ALONE_AFTER

    async def _maybe_snapshot(self, every: int = SNAPSHOT_EVENTS) -> None:
        if self.state.seq - self._snapshot_seq >= every:
            await self.snapshot()

    async def snapshot(self) -> None:
        """Store the committed state. It holds up this partition only."""
        await store(self._require(), self.space, self.state, self._last_offset)
        self._snapshot_seq = self.state.seq
