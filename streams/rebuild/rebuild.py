"""`sluicegate rebuild`: a partition's state folded anew from Kafka or from ClickHouse, and held against the others.

    1. cut        where each partition ends: a position, a moment, or the end as of now
    2. live       the workers are asked for the digest of their state, or the newest snapshot says it
    3. fold       from genesis, a process for each core; the digest is taken at the cut and where the live state was
    4. compare    with another store, the live state, or a digest you name; the first event that differs is found by the
                  hashes of prefixes: every header names the one before, so equal hashes are equal histories

State bytes are `processors/snapshot.py`'s. Reads only. Next: `stores.py` (where from), `rebuild/compare.py` (4),
`rebuild/agent.py` (one agent).
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from sluicegate.processors import snapshot
from sluicegate.processors.folding import Folder
from sluicegate.processors.state import PartitionState
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.streams.rebuild import files as rebuild_files
from sluicegate.streams.rebuild.files import Kept
from sluicegate.streams.settings import Settings
from sluicegate.streams.stores import Event, Store, make_store

CHECKPOINT_EVENTS = 8_192
"""Events between two prefix digests that are kept: 10,000,000 events give 1,221 of them."""
PROGRESS_S = 0.2

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class AsOf:
    """Up to where is folded: `until` in microseconds, or a seq a partition; neither is to the end."""

    until: int | None = None
    cut: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Folded:
    """One partition, folded.

    Attributes:
        seq: of the last event, -1 when there is none. header_hash: the chain's link after it.
        digest: sha256 of the state bytes. state_bytes: how many those are.
        digests: the same at other positions that were asked for.
        checkpoints: seq -> the link after it, every `CHECKPOINT_EVENTS`.
        broken: what ended the fold, or empty.
    """

    partition: int
    source: str
    events: int = 0
    seq: int = -1
    header_hash: str = ""
    decided_until: int = 0
    digest: str = ""
    state_bytes: int = 0
    seconds: float = 0.0
    digests: dict[int, str] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One partition to fold. `marks`: positions whose digest is wanted, too."""

    source: str
    partition: int
    log_id: bytes
    until: int | None = None
    cut: int | None = None
    marks: tuple[int, ...] = ()
    folder: Path | None = None
    """Where a fold is kept now and then, and `resume`: taken up from."""
    resume: bool = False


@dataclass(slots=True)
class Fold:
    """A fold in progress."""

    task: Task
    state: PartitionState
    result: Folded
    folder: Folder

    def take(self, events: Sequence[Event]) -> bool:
        """Fold a batch; False when the cut was passed. Raises `SluicegateError` where the chain breaks."""
        state, take = self.state, self.folder.take
        at = 0
        while at < len(events):
            stop = self._next_stop()
            n = min(len(events) - at, stop - state.seq)
            for header, facts in events[at : at + n]:
                if not take(header, facts):
                    return False
            at += n
            if state.seq == stop and not self._passed():
                return False
        return True

    def _next_stop(self) -> int:
        """The number of events after which something is noted."""
        seq = self.state.seq
        stops = [(seq // CHECKPOINT_EVENTS + 1) * CHECKPOINT_EVENTS]
        stops += [mark + 1 for mark in self.task.marks if mark + 1 > seq]
        if self.task.cut is not None:
            stops.append(self.task.cut + 1)
        return min(stops)

    def _passed(self) -> bool:
        """Note what is asked for at this position; False at the cut."""
        last = self.state.seq - 1
        if self.state.seq % CHECKPOINT_EVENTS == 0:
            self.result.checkpoints[last] = self.state.prev_hash.hex()
        if last in self.task.marks:
            self.result.digests[last] = snapshot.digest(self.state).hex()
        return self.task.cut is None or last < self.task.cut


async def fold(store: Store, task: Task, advance: Advance = lambda _: None) -> tuple[Folded, PartitionState]:
    """Fold one partition of an open store. A broken chain is a result, not an error."""
    started = time.monotonic()
    kept = _taken_up(store, task)
    state = kept.state
    result = Folded(task.partition, store.name, checkpoints=kept.checkpoints)
    run = Fold(task, state, result, Folder(state))
    run.folder.until = task.until
    advance(state.seq)
    stored = state.seq
    if task.cut is None or task.cut >= 0:
        gc.freeze()
        gc.disable()  # the fold makes no cycles, and looking for them costs a tenth
        try:
            async for batch in store.events(task.partition, kept.cursor):
                more = run.take(batch.events)
                advance(len(batch.events))
                if not more:
                    break
                if task.folder is not None and state.seq - stored >= rebuild_files.KEEP_EVENTS:
                    rebuild_files.keep(task.folder, store.name, Kept(state, batch.cursor, result.checkpoints))
                    stored = state.seq
        except SluicegateError as error:
            result.broken = str(error)
        finally:
            gc.enable()
            gc.unfreeze()
    result.events, result.seq, result.header_hash = state.seq, state.seq - 1, state.prev_hash.hex()
    result.decided_until = state.now
    if not result.broken:
        digest, size = _digest(state)
        result.digest, result.state_bytes = digest, size
        if task.cut is not None and task.cut > result.seq:
            result.broken = (
                f"the ledger has no seq {task.cut} in partition {task.partition}, it ends at {result.seq}"
            )
    if task.folder is not None and not result.broken and task.cut is task.until is None:
        rebuild_files.forget(task.folder, store.name, task.partition)
    result.seconds = time.monotonic() - started
    return result, state


def _taken_up(store: Store, task: Task) -> Kept:
    """Where to begin: at a fold that was kept before everything that is asked for, else at the first record."""
    if task.resume and task.folder is not None:
        found = rebuild_files.load(task.folder, store.name, task.partition, task.log_id)
        if found is not None:
            last, now = found.state.seq - 1, found.state.now
            stops = [*task.marks, *([task.cut] if task.cut is not None else [])]
            if all(last < stop for stop in stops) and (task.until is None or now <= task.until):
                return found
    return Kept(PartitionState(b"", task.partition), 0, {})


def _digest(state: PartitionState) -> tuple[str, int]:
    total, size = hashlib.sha256(), 0
    for part in snapshot.encode_parts(state):
        total.update(part)
        size += len(part)
    return total.hexdigest(), size


# -- several processes ------------------------------------------------------------------------------------------------

_queue: Any = None


def _init(queue: Any) -> None:
    global _queue
    _queue = queue


def _in_process(settings: Settings, task: Task) -> Folded:
    async def run() -> Folded:
        store = make_store(task.source, settings, task.log_id)
        await store.open()
        try:
            return (await fold(store, task, _queue.put))[0]
        finally:
            await store.close()

    return asyncio.run(run())


async def fold_all(
    settings: Settings, tasks: Sequence[Task], processes: int, advance: Advance = lambda _: None
) -> list[Folded]:
    """Fold partitions in so many processes; with one, in this one."""
    if processes <= 1 or len(tasks) <= 1:
        found = []
        for task in tasks:
            store = make_store(task.source, settings, task.log_id)
            await store.open()
            try:
                found.append((await fold(store, task, advance))[0])
            finally:
                await store.close()
        return found
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with ProcessPoolExecutor(min(processes, len(tasks)), context, _init, (queue,)) as pool:
        waiting = [asyncio.wrap_future(pool.submit(_in_process, settings, task)) for task in tasks]
        whole = asyncio.gather(*waiting)
        while not whole.done():
            await asyncio.wait([whole], timeout=PROGRESS_S)
            _drain(queue, advance)
        return await whole


def _drain(queue: Any, advance: Advance) -> None:
    while True:
        try:
            advance(queue.get_nowait())
        except Empty:
            return


# -- what is to fold ----------------------------------------------------------------------------------------------------


def tasks_for(
    source: str, partitions: Sequence[int], log_id: bytes, as_of: AsOf, marks: dict[int, int],
    folder: Path | None = None, resume: bool = False,
) -> list[Task]:  # fmt: skip
    """What is to fold."""
    if as_of.cut and (missing := [p for p in as_of.cut if p not in partitions]):
        raise Terminal(
            f"partition `{missing[0]}` of `--as-of` does not exist, this log has 0 to {len(partitions) - 1}"
        )
    wanted = sorted(as_of.cut) if as_of.cut else partitions
    return [
        Task(
            source,
            p,
            log_id,
            as_of.until,
            as_of.cut.get(p),
            (marks[p],) if p in marks else (),
            folder,
            resume,
        )
        for p in wanted
    ]
