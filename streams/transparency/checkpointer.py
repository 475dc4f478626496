"""The role `checkpointer`: follows the ledger and control, grows a tree for each partition, signs heads and shows them.

    SLUICEGATE_CHECKPOINT_EVERY_S    seconds between heads of a log that grew (default 5)
    SLUICEGATE_WITNESS_POLICY        a C2SP policy file; its witnesses with an address are asked to cosign

The head of a log that rests is signed again with a newer time, ever more seldom: a minute after it, at last once an hour. So it can
be shown that nothing followed. A log whose ledger, tiles and published heads contradict each other gets no further signature: it is an alarm, `/health` says
which, and the other logs go on. Run one at a time; a second one signs the same heads, so it costs work and harms nothing.
Never writes the ledger. Next: `transparency/log_tree.py` (the four steps), `transparency/topic.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.transparency.checkpoints import CONTROL, CheckpointFault, Signed, keys_of
from sluicegate.processors.transparency.tiles import TileFault
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal, Unreadable
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.lanes import batches
from sluicegate.streams.lanes.service import wall_clock
from sluicegate.streams.scan import scan_values
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.transparency.head_signer import HeadKey, HeadSigner
from sluicegate.streams.transparency.log_tree import Head, LogTree
from sluicegate.streams.transparency.tile_store import TileStore, store_of
from sluicegate.streams.transparency.topic import record_of
from sluicegate.streams.transparency.witness_client import Witnesses, policy_from

VARIABLE = "SLUICEGATE_CHECKPOINT_EVERY_S"
EVERY_S = 5.0
"""Five logs that grow all day: 86,000 heads of 900 bytes, 80 MB."""
REST_MIN_S, REST_MAX_S = 60, 3_600
"""A head of a log that rests is signed again when it is so old, and each time twice as old, up to an hour. A rest of a day
is 28 heads; 13 logs that rest all year are 114,000, 100 MB; a log that grows every other minute has two heads for one."""
MAX_UNSIGNED = 250_000
"""Leaves of one log that are only in memory, 32 MB of tiles: then it is sealed before its time."""
FETCH_MS, FETCH_BYTES = 250, 256 * 1024
"""A look is answered with so much, or after so long: a busy ledger commits a hundred times a second, and an answer for each would
cost it and the broker more than the tree does. A head is at most this much later."""
RETRY_S = 1.0
GC_THRESHOLD = 100_000
"""As in the projector: records come and go in thousands."""

log = logging.getLogger("sluicegate.checkpointer")


def every_from(environ: Mapping[str, str]) -> float:
    """Raises `Terminal`."""
    text = environ.get(VARIABLE, "").strip() or str(EVERY_S)
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.05 <= found <= 86_400:
        raise Terminal(f"`{VARIABLE}` is `{text[:40]}`, give seconds from 0.05 to 86400")
    return found


class Checkpointer:
    """The component.

    Attributes:
        faults: log -> why it is not signed any more.
        waiting: what could not be done for now, empty when all goes well.
        shown: heads that were published.
        newest: by log, the size of the last of them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: TileStore | None = None,
        clock: Callable[[], int] = wall_clock,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.faults: dict[str, str] = {}
        self.waiting = ""
        self.shown = 0
        self.newest: dict[str, int] = {}
        self._settings, self._clock = settings, clock
        self._every_s = every_from(environ)
        self._store = store or store_of(settings, environ)
        self._signer = HeadSigner(settings.home, environ)
        self.witnesses = Witnesses(policy_from(environ))
        self._control = ControlReader(settings, with_release=False)
        self._trees: dict[TopicPartition, LogTree] = {}
        self._at: dict[TopicPartition, int] = {}
        """Where each log that has no fault is read on."""
        self._unshown: dict[TopicPartition, Signed] = {}
        self._behind: list[TopicPartition] = []
        """Logs whose tree has to go on with what Kafka has let go of."""
        self._rests: dict[TopicPartition, int] = {}
        """How old a head may be before it is signed again, in seconds."""
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def trees(self) -> list[LogTree]:
        """One a log, control's first."""
        return list(self._trees.values())

    async def start(self) -> None:
        """Lead every tree back to what was signed and shown, then follow. Raises `SluicegateError`."""
        gc.set_threshold(max(GC_THRESHOLD, gc.get_threshold()[0]), *gc.get_threshold()[1:])
        try:
            await self._control.start()
            control = self._control.control
            if control.head < 0:
                raise Retryable("the environment has no genesis yet, make it: sluicegate topics create")
            self._signer.choose(control, self._second())
            self._consumer = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=FETCH_MS))
            self._producer = await kafka.connect(kafka.producer(self._settings))
            await self._open()
        except BaseException:
            await self.stop()
            raise
        self._task = asyncio.create_task(self._run(), name="checkpointer")

    def _second(self) -> int:
        return self._clock() // 1_000_000

    async def _open(self) -> None:
        assert self._consumer is not None
        control, env = self._control.control, self._settings.env
        places = {TopicPartition(full_name(env, "control"), 0): CONTROL}
        space = self._settings.space
        places |= {TopicPartition(full_name(space, "outcomes"), p): p for p in range(control.partitions)}
        logs = {p: control.own_log if p == CONTROL else control.log_id for p in places.values()}
        trees = {place: LogTree(self._store, env, logs[p], p) for place, p in places.items()}
        keys = keys_of(control)
        shown = await checkpoint_topic.newest(self._consumer, env, [t.origin for t in trees.values()], keys)
        ends = await self._consumer.end_offsets(list(trees))
        begins = await self._consumer.beginning_offsets(list(trees))
        for place, tree in trees.items():
            before = [Head(s.head.size, s.head.root) for s in shown[tree.origin]]
            try:
                await asyncio.to_thread(tree.open, keys, before)
                if tree.size and tree.offset >= ends[place]:
                    raise CheckpointFault(
                        "shrunk",
                        f"`{tree.origin}` ends before its event {tree.size - 1}, which is signed: {_LOST}",
                    )
            except (CheckpointFault, TileFault) as error:
                self._stop(place, tree, error)
            if tree.signed is not None and tree.signed.head.size > max((h.size for h in before), default=0):
                self._unshown[place] = tree.signed  # killed after step 3
            if tree.origin in self.faults:
                continue
            at = max(0, tree.offset)
            if at < begins[place]:
                self._behind.append(place)
            else:
                self._at[place] = at
        self._trees = trees

    def _stop(self, place: TopicPartition, tree: LogTree, error: Exception) -> None:
        """No further signature for this log; somebody has to look."""
        log.error("alarm: `%s` gets no further checkpoint: %s", tree.origin, error)
        self.faults[tree.origin] = str(error)
        self._at.pop(place, None)

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            try:
                await self._from_archive()
                await self._follow()
                full = any(t.size - t.kept > MAX_UNSIGNED for t in self.trees)
                if full or time.monotonic() >= due:
                    due = time.monotonic() + self._every_s
                    await self._seal()
                self.waiting = ""
            except (Retryable, KafkaError, OSError) as error:
                self._wait(str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_S)

    def _wait(self, problem: str) -> None:
        if self.waiting != problem:
            log.warning("no checkpoint for now: %s", problem)
        self.waiting = problem

    async def _from_archive(self) -> None:
        """Tiles are lost, and Kafka has let old events go: they come from the archive. Raises `Terminal` across a gap."""
        assert self._consumer is not None
        while self._behind:
            place = self._behind[0]
            reader = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=FETCH_MS))
            try:
                begin = (await reader.beginning_offsets([place]))[place]
                async for records in scan_values(reader, place, max(0, self._trees[place].offset), begin):
                    if not self._take(place, records):
                        break
            except Terminal as error:  # archive and kafka do not meet, or a bundle is damaged
                self._stop(place, self._trees[place], error)
            finally:
                await stop_consumer(reader)
            del self._behind[0]
            if self._trees[place].origin not in self.faults:
                self._at[place] = begin

    async def _follow(self) -> None:
        """Take what the ledger has grown by."""
        assert self._consumer is not None
        if not self._at:  # every log has its fault
            await asyncio.sleep(FETCH_MS / 1_000)
        for place, answer in (await batches.fetch(self._consumer, self._at, FETCH_MS, FETCH_BYTES)).items():
            if self._take(place, answer.records):
                self._at[place] = answer.next_offset

    def _take(self, place: TopicPartition, records: Sequence[batches.Record]) -> bool:
        """Whether the log goes on: else it has its fault."""
        tree = self._trees[place]
        try:
            tree.add_many(records)
        except (CheckpointFault, TileFault, Unreadable) as error:
            self._stop(place, tree, error)
        return tree.origin not in self.faults

    async def _seal(self) -> None:
        """Sign and show what grew; show again what could not be shown."""
        if self._control.stale:  # a key may have ended
            raise Retryable("control's head could not be confirmed, check Kafka")
        chosen = self._signer.choose(self._control.control, self._second())
        await asyncio.gather(*(self._sign(place, tree, chosen) for place, tree in self._trees.items()))
        await asyncio.gather(*(self._show(place, signed) for place, signed in list(self._unshown.items())))

    async def _sign(self, place: TopicPartition, tree: LogTree, chosen: HeadKey) -> None:
        """Steps 1 to 3 of one log. Raises `Retryable`: then nothing was signed, and it is tried again."""
        if tree.origin in self.faults:
            return
        key, second = chosen.key, self._second()
        again = await self._rested(place, tree, second)
        seal = partial(tree.seal, key.public, key.kid, chosen.signer, second, again=again)
        try:
            signed = await asyncio.to_thread(seal)
            if tree.owed:
                await self._owed(place, tree)
        except (CheckpointFault, TileFault) as error:
            self._stop(place, tree, error)
            return
        if signed is not None:
            self._unshown[place] = signed
            self._rests[place] = (
                min(REST_MAX_S, 2 * self._rests.get(place, REST_MIN_S)) if again else REST_MIN_S
            )

    async def _rested(self, place: TopicPartition, tree: LogTree, second: int) -> bool:
        """Whether a head is to be signed again, since nothing came after it up to that second.

        INVARIANT: what Kafka has and the tree has not is never under a newer time (tests/unit/test_resting_heads.py).
        """
        assert self._consumer is not None
        if tree.signed is None or tree.size != tree.kept or tree.owed or place in self._unshown:
            return False
        if second - tree.signed.second < self._rests.get(place, REST_MIN_S):
            return False
        end = (await self._consumer.end_offsets([place]))[place]
        return bool(self._at[place] >= end)

    async def _owed(self, place: TopicPartition, tree: LogTree) -> None:
        """A head was published that the ledger does not reach any more."""
        assert self._consumer is not None
        end = (await self._consumer.end_offsets([place]))[place]
        if self._at[place] >= end and tree.owed > tree.size:
            raise CheckpointFault(
                "shrunk",
                f"`{tree.origin}` has {tree.size} events, and its checkpoint {tree.owed} was published: {_LOST}",
            )

    async def _show(self, place: TopicPartition, signed: Signed) -> None:
        """Step 4: witnesses first, so that the topic has their signatures."""
        assert self._producer is not None
        tree = self._trees[place]
        more = await self.witnesses.ask(signed, tree.consistency)
        if more:
            signed = Signed(signed.head, signed.note.with_signatures(*more), signed.kid, signed.second)
            await asyncio.to_thread(tree.keep, signed)
        record = codec.encode(record_of(tree.log_id, tree.partition, signed))
        topic = full_name(self._settings.space, checkpoint_topic.TOPIC)
        await self._producer.send_and_wait(topic, record, key=tree.origin.encode())
        self._unshown.pop(place, None)
        self.newest[tree.origin] = signed.head.size
        self.shown += 1

    async def stop(self) -> None:
        """What is not signed yet is signed by the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SluicegateError):
                await self._task
        await self.witnesses.stop()
        if self._consumer is not None:
            await stop_consumer(self._consumer)
        if self._producer is not None:
            await self._producer.stop()
        await self._control.stop()

    @property
    def alive(self) -> str:
        """What is wrong, or nothing."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            return f"the checkpointer ended: {self._task.exception()!r}"
        return next(iter(self.faults.values()), "") or self.waiting

    def metrics(self) -> Mapping[str, float]:
        """Sizes and signatures."""
        found: dict[str, float] = {
            "sluicegate_checkpoint_shown_total": self.shown,
            "sluicegate_checkpoint_faults": len(self.faults),
        }
        for tree in self.trees:
            label = f'{{partition="{"control" if tree.partition == CONTROL else tree.partition}"}}'
            found[f"sluicegate_checkpoint_size{label}"] = tree.kept
            found[f"sluicegate_checkpoint_unsigned{label}"] = tree.size - tree.kept
        for name, problem in self.witnesses.problems.items():
            label = f'{{witness="{name}"}}'
            found[f"sluicegate_checkpoint_witness_away{label}"] = bool(problem)
            found[f"sluicegate_checkpoint_refusals_total{label}"] = self.witnesses.refusals[name]
        return found


_LOST = "events that were signed are gone; nothing more is signed, run `sluicegate ledger verify`"
