"""`sluicegate reproduce`: chosen intents decided again, by the engine, release and control head that decided them.

    1. choose    the records of an intent, trace or session (`inspect/find.py`), or a sample of a period drawn by a seed
    2. engines   those of our version here; of another one in a process of that version (`replay/engines.py`), else ENGINE_MISSING
    3. fold      each partition that has one of them, from genesis to the last of them
    4. compare   every byte of their inputs (`processors/replay/reproduce.py`)

Never executes, never publishes, never seals. Next: `commands/reproduce.py`, `replay/reproduce_watch.py` (the scheduled sample).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaConsumer
from sluicegate.processors import erasure, lifecycle
from sluicegate.processors.control.control import Control
from sluicegate.processors.inputs import Place
from sluicegate.processors.replay import reproduce
from sluicegate.processors.replay.recorded import Event, Opener
from sluicegate.processors.replay.rederive import Kept
from sluicegate.processors.replay.reproduce import EXPIRED, Key, Remade, Reproduce, Result, row_of
from sluicegate.processors.verify import reading
from sluicegate.processors.work import ENGINE
from sluicegate.schemas import codec
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.inspect.find import LedgerEvent, decode
from sluicegate.streams.lanes.content_store import Read, reader
from sluicegate.streams.replay import before_seam, engines
from sluicegate.streams.replay.engines import Chosen, FailedError, MissingError
from sluicegate.streams.scan import (
    FETCH_WAIT_MS,
    Advance,
    OnStart,
    Stretch,
    announce,
    places,
    scan,
    stretches,
)
from sluicegate.streams.settings import Settings

SLACK = 1_000
"""Intents kept beyond those before they are looked through."""
ANY = "*"
"""Stands for every engine: what others decided is decided by this one."""


@dataclass(frozen=True, slots=True)
class Period:
    """A sample: so many intents that were first decided in a period. Times in microseconds; None is open."""

    count: int
    seed: str
    since: int | None = None
    until: int | None = None
    partitions: tuple[int, ...] = ()

    def holds(self, at: int) -> bool:
        """Whether an intent that was first decided then is in it."""
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)


@dataclass(slots=True)
class Targets:
    """The chosen inputs by (partition, seq of the record) -> a row with what the ledger says of it."""

    rows: dict[tuple[int, int], Remade] = field(default_factory=dict)

    def add(self, events: Iterable[LedgerEvent]) -> None:
        """Records of chosen intents."""
        for e in events:
            one = Event(e.offset, e.header, b"", e.facts, b"", e.sealed)
            self.rows[e.partition, e.header.seq] = row_of(one)

    def of_engine(self, version: str) -> dict[int, set[Key]]:
        """Intents of which this engine decided something."""
        found: dict[int, set[Key]] = defaultdict(set)
        for (partition, _), row in self.rows.items():
            if version in (ANY, row.engine):
                found[partition].add((row.agent_id, row.intent_id))
        return dict(found)

    def missing(self, version: str, verdict: str, why: str) -> Iterator[Remade]:
        """What this engine decided, one row an input, with a verdict that nobody could look further."""
        seen = set()
        for row in self.rows.values():
            if row.engine == version and row.input not in seen:
                seen.add(row.input)
                row.verdict, row.why = verdict, why
                yield row


async def reproduced(
    settings: Settings,
    targets: Targets,
    opener: Opener,
    *,
    any_engine: bool = False,
    where: Path | None = None,
    on_start: OnStart | None = None,
) -> Result:
    """Decide the chosen again, each by its engine."""
    started = time.monotonic()
    result = Result()
    versions = [ANY] if any_engine else sorted({row.engine for row in targets.rows.values()})
    for version in versions:
        chosen = targets.of_engine(version)
        if version in (ANY, ENGINE):
            rows = await here(settings, chosen, opener, on_start=on_start)
        else:
            try:
                engine = engines.find(where or engines.folder(settings), version)
                rows = await engines.run(engine, chosen, generation=settings.generation)
            except (MissingError, FailedError) as error:
                rows = list(targets.missing(version, *engines.absent(error)))
        result.rows += [row for row in rows if version in (ANY, row.engine)]
    for row in result.rows:
        row.generation = settings.generation or 0
    result.rows.sort(key=lambda row: (row.partition, row.seq))
    result.seconds = time.monotonic() - started
    return result


async def here(
    settings: Settings,
    chosen: Chosen,
    opener: Opener,
    *,
    on_start: OnStart | None = None,
) -> list[Remade]:
    """Decide again in this process, by this code, whoever decided."""
    # INVARIANT: nothing here can publish or execute (tests/unit/test_replay_modes.py).
    await topics.count_with(settings, chosen)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        ledgers = await stretches(consumer, places(settings.space, "outcomes", sorted(chosen)))
        control = await control_log.read(settings, keep_history=True, with_release=True)
        assert control.history is not None
        advance, stored = announce(on_start, ledgers), reader(settings)
        rows: list[Remade] = []
        for stretch in ledgers:
            if stretch.begin > 0:
                rows += await _expired(consumer, stretch, chosen[stretch.place.partition])
            else:
                again = partial(_fresh, stretch.place.partition, control.history, chosen[stretch.place.partition], opener, stored)  # fmt: skip
                rows += await _one(settings, consumer, stretch, again, advance)
        return rows
    finally:
        await consumer.stop()


def _fresh(
    partition: int, history: list[Control], chosen: set[Key], opener: Opener, stored: Read
) -> Reproduce:
    again = Reproduce(partition, history, opener, chosen, lambda subject: erased_by(history, subject))
    again.stored = stored
    return again


async def _one(
    settings: Settings, consumer: AIOKafkaConsumer, stretch: Stretch, fresh: Callable[[], Reproduce], advance: Advance
) -> list[Remade]:  # fmt: skip
    """Fold it; and again, once what its decisions ask of generations before was read there."""
    asked: set[Place] = set()
    far: dict[Place, Kept] = {}
    while True:
        again = fresh()
        again.far = far
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                again.add(record.offset, record.value or b"")
            advance(len(batch))
        again.finish()
        missed = again.missed - asked
        # INVARIANT: a decision of after a seam comes out again with the bytes of before (tests/unit/test_before_seam.py).
        if not missed:
            return again.rows
        asked |= missed
        far |= await before_seam.read(settings, consumer, missed)


async def _expired(consumer: AIOKafkaConsumer, stretch: Stretch, chosen: set[Key]) -> list[Remade]:
    """What is still there of them; its state is not."""
    why = (
        f"`{stretch.place.topic}`/{stretch.place.partition} begins at offset {stretch.begin}: the state before it "
        "cannot be folded from kafka, restore it from the archive"
    )
    targets = Targets()
    targets.add([e async for e in _of(consumer, stretch, chosen)])
    rows = [row for version in {r.engine for r in targets.rows.values()} for row in targets.missing(version, EXPIRED, why)]  # fmt: skip
    known = {(row.agent_id, row.intent_id) for row in rows}
    gone = sorted(chosen - known)
    rows += [
        Remade(stretch.place.partition, -1, -1, "", agent, intent, "", "", "", -1, ENGINE, EXPIRED, why=why)
        for agent, intent in gone
    ]
    return rows


async def _of(consumer: AIOKafkaConsumer, stretch: Stretch, chosen: set[Key]) -> AsyncIterator[LedgerEvent]:
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            about = reading.rest(reading.head(reading.split_two(record.value or b"")[0]).rest)
            if (about.agent_id, about.intent_id) in chosen:
                yield decode(stretch.place.partition, record.offset, record.value or b"")


class Best:
    """The intents of a period that a seed puts first, taken record by record; keeps about twice as many as are drawn."""

    def __init__(self, period: Period) -> None:
        self._period = period
        self._kept: dict[Key, int] = {}

    def take(self, partition: int, value: bytes) -> None:
        """One ledger record."""
        header, facts = reading.split_two(value)
        if facts[: codec.PREFIX_BYTES] not in reading.INTENTS:
            return
        head = reading.head(header)
        about = reading.rest(head.rest)
        if head.status == lifecycle.ATTACHED or not self._period.holds(about.decided_at):
            return
        self._kept[about.agent_id, about.intent_id] = partition
        if len(self._kept) > 2 * self._period.count + SLACK:
            self._kept = self.chosen()

    def chosen(self) -> dict[Key, int]:
        """Intent -> its ledger partition."""
        return {k: self._kept[k] for k in reproduce.sample(self._period.seed, self._kept, self._period.count)}


async def drawn(settings: Settings, period: Period, on_start: OnStart | None = None) -> Targets:
    """A sample of a period: read all headers, keep the intents that the seed puts first."""
    count = await topics.count_with(settings, period.partitions)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    targets = Targets()
    try:
        ledgers = await stretches(consumer, places(settings.space, "outcomes", period.partitions or range(count)))  # fmt: skip
        advance = announce(on_start, ledgers)
        best = Best(period)
        for stretch in ledgers:
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    best.take(stretch.place.partition, record.value or b"")
                advance(len(batch))
        chosen = best.chosen()
        for stretch in ledgers:
            mine = {key for key, partition in chosen.items() if partition == stretch.place.partition}
            if mine:
                targets.add([e async for e in _of(consumer, stretch, mine)])
    finally:
        await consumer.stop()
    return targets


async def events_of(settings: Settings, targets: Targets) -> dict[Key, list[LedgerEvent]]:
    """The records of the chosen intents, in ledger order."""
    chosen = targets.of_engine(ANY)
    found: dict[Key, list[LedgerEvent]] = {}
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        for stretch in await stretches(consumer, places(settings.space, "outcomes", sorted(chosen))):
            async for event in _of(consumer, stretch, chosen[stretch.place.partition]):
                found.setdefault((event.header.agent_id, event.header.intent_id), []).append(event)
    finally:
        await consumer.stop()
    return found


def erased_by(history: list[Control], subject: str) -> str:
    """By which control event a subject was erased, in words."""
    found = erasure.erased_by(history[-1], subject)
    if found is None:
        return f"the key of subject `{subject}` is not at hand, and no control event says that it was erased"
    return f"subject `{subject}` was erased by control event {found.event}, of {found.who}"
