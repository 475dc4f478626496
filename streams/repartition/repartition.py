"""`sluicegate topics repartition`: the log goes on in another generation, with another number of partitions.

    1. begin    control: nothing new is permitted; the workers that run bring what is open to its end
    2. drain    every partition is folded until nothing is open and every transfer was taken
    3. seal     its lane's producer is fenced, and its last record names the root of all before it
    4. topics   of the new generation, all but `intents`: who looks for it finds the old one still
    5. import   every new partition gets genesis and its slices; what stands there already is gone on with
    6. start    control: from here on the new generation decides
    7. open     the topic `intents`, and what came too late for the old generation is handed on
Killed anywhere: the same command goes on. Before the first seal it can be called off. Never decides anything.
Next: `repartition/sealing.py` (the fold), `repartition/seam_writer.py` (steps 3 and 5), `processors/seam/seam.py` (what moves), `repartition/carrying.py` (step 7),
docs/repartition.md.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.agents.orders import waiting_orders
from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.seam import generations, seam
from sluicegate.processors.seam import records as seam_records
from sluicegate.processors.seam.generations import Generation
from sluicegate.processors.seam.seam import Census
from sluicegate.processors.state import MAX_REMEMBERED_IDS, MAX_SESSIONS
from sluicegate.schemas.errors import Retryable, Terminal, WrongUsage
from sluicegate.schemas.topics import full_name, space_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import changes
from sluicegate.streams.control import log as control_log
from sluicegate.streams.failpoints import hit
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.repartition.carrying import carry
from sluicegate.streams.repartition.sealing import Folded, Seam, seam_of
from sluicegate.streams.repartition.seam_writer import writer
from sluicegate.streams.scan import Advance, scan, stretches
from sluicegate.streams.settings import GENERATION_FILE, PARTITIONS_MAX, Settings

DRAIN_POLL_S = 0.5
IMPORTS_AT_ONCE = 16
"""Of one transaction: 4 MB."""
LAST_TOPIC = "intents"

Say = Callable[[str], None]


@dataclass(slots=True)
class Asked:
    """What an operator wants. `drain_s`: how long to wait until nothing is open."""

    to: int
    why: str
    drain_s: float = 60.0
    say: Say = lambda _: None
    advance: Advance = lambda _: None


@dataclass(slots=True)
class Told:
    """What was done, or would be.

    Attributes:
        census: by new partition.
        unsettled: by old partition, why it cannot be sealed yet.
        carried: inputs that were handed on.
    """

    generation: int
    partitions: int
    census: list[Census] = field(default_factory=list)
    unsettled: dict[int, str] = field(default_factory=dict)
    carried: int = 0


def check(control: Control, to: int) -> Generation | None:
    """The generation that is under way, or None where it has to be begun. Raises `Terminal` for what cannot be done."""
    now, begun = generations.current(control), control.repartition
    if not 0 < to <= PARTITIONS_MAX:
        raise WrongUsage(f"`{to}` partitions are out of range: give --to a number from 1 to {PARTITIONS_MAX}")
    if begun is not None and begun.partitions != to:
        raise Terminal(
            f"a repartition to {begun.partitions} is under way: finish it with --to {begun.partitions}, or take it back "
            "with --call-off while nothing is sealed"
        )
    if begun is None and to == now.partitions:
        raise Terminal(f"the log has {to} partitions already, in generation {now.number}")
    return begun


async def look(settings: Settings, asked: Asked) -> Told:
    """What would be moved, and what stands in the way. Changes nothing."""
    control = (await control_log.read(settings, any_generation=True)).control
    begun = check(control, asked.to)
    now = generations.current(control)
    told = Told(begun.number if begun else now.number + 1, asked.to)
    async with _consumer(settings) as consumer:
        folded = await _folded(settings, consumer, now, asked.advance)
        told.unsettled = await _unsettled(settings, consumer, control, folded)
    told.census = seam.census((one.state for one in folded), asked.to)
    return told


async def call_off(settings: Settings, keys: Keys, why: str, who: str) -> int:
    """Take a repartition back that has sealed nothing. Returns control's new head."""
    control = (await control_log.read(settings, any_generation=True)).control
    if control.repartition is None:
        raise Terminal("no repartition is under way: there is nothing to call off")
    async with _consumer(settings) as consumer:
        folded = await _folded(settings, consumer, generations.current(control), lambda _: None)
    if sealed := [one.place.partition for one in folded if one.state.sealed]:
        raise Terminal(
            f"partition {sealed[0]} is sealed already: finish it with --to {control.repartition.partitions}"
        )
    body: dict[str, object] = {"number": control.repartition.number}
    return await control_log.append(
        settings, keys, [(generations.CALLED_OFF, body)], who=who, why=why, expected_head=control.head
    )


async def repartition(settings: Settings, keys: Keys, asked: Asked) -> Told:
    """The seven steps, from wherever an earlier run ended. Raises `Terminal` or `Retryable`."""
    return await _Run(settings, keys, asked).all()


async def finish(settings: Settings, keys: Keys, asked: Asked) -> Told | None:
    """What was left when a run was killed between the steps 6 and 7; None where this is no such generation."""
    control = (await control_log.read(settings, any_generation=True)).control
    now = generations.current(control)
    if control.repartition is not None or not now.number or now.partitions != asked.to:
        return None
    run = _Run(settings, keys, asked)
    run.take(control, now)
    async with _consumer(settings) as consumer:
        run.folded = await _folded(settings, consumer, run.old, asked.advance)
        return await run.open()


class _Run:
    """One run of the command."""

    def __init__(self, settings: Settings, keys: Keys, asked: Asked) -> None:
        self.settings, self.keys, self.asked = settings, keys, asked
        self.control = Control()
        self.folded: list[Folded] = []
        self.old = self.new = Generation(0, b"", 0)

    def take(self, control: Control, one: Generation) -> None:
        """The generation to come, and the one before."""
        before = generations.at(control, one.number - 1)
        assert before is not None
        self.control, self.old, self.new = control, before, one

    async def all(self) -> Told:
        """Every step."""
        await self._begin()
        hit("repartition.1.begun")
        async with _consumer(self.settings) as consumer:
            self.asked.say(f"folding the {self.old.partitions} partitions of generation {self.old.number}")
            self.folded = await _folded(self.settings, consumer, self.old, self.asked.advance)
            await self._drain(consumer)
            for one in self.folded:
                if not one.state.sealed:
                    await self._seal(consumer, one)
                    hit("repartition.3.sealed")
            made = seam_of(self.folded, self.new.partitions)
            if made.wrong:
                raise Terminal(f"{made.wrong[0]}: run `sluicegate ledger verify`")
            self.asked.say(f"making the topics of generation {self.new.number}")
            await topics.create(self._there(), without=(LAST_TOPIC,))
            for partition in range(self.new.partitions):
                await self._import(consumer, made, partition)
                hit("repartition.5.imported")
            await self._append(generations.STARTED, {"number": self.new.number})
            hit("repartition.6.started")
            return await self.open()

    def _there(self) -> Settings:
        return replace(self.settings, generation=self.new.number, partitions=self.new.partitions)

    async def _append(self, kind: str, body: dict[str, object]) -> None:
        await changes.write_alone(self.settings, self.keys, self.control.head, (kind, body), self.asked.why)
        self.control = (await control_log.read(self.settings, any_generation=True)).control

    async def _begin(self) -> None:
        """Step 1."""
        self.control = (await control_log.read(self.settings, any_generation=True)).control
        if check(self.control, self.asked.to) is None:
            number = generations.current(self.control).number + 1
            await self._append(
                generations.BEGUN,
                {
                    "number": number,
                    "log_id": secrets.token_hex(generations.LOG_ID_BYTES),
                    "partitions": self.asked.to,
                },
            )
        if self.control.repartition is None:
            raise Terminal(
                "control did not begin the generation: look at its last events with `sluicegate status`"
            )
        self.old, self.new = generations.current(self.control), self.control.repartition

    async def _drain(self, consumer: AIOKafkaConsumer) -> None:
        """Step 2."""
        deadline, said = time.monotonic() + self.asked.drain_s, ""
        while True:
            left = await _unsettled(self.settings, consumer, self.control, self.folded)
            if not left:
                break
            partition, why = next(iter(left.items()))
            if time.monotonic() > deadline:
                raise Retryable(
                    f"partition {partition} is not settled after {self.asked.drain_s:.0f} s: {why}. Let the workers run, settle "
                    "what people hold (`sluicegate approvals list`, `in-doubt list`), and run this again; or take it back with --call-off"
                )
            if why != said:
                self.asked.say(f"waiting: partition {partition}: {why}")
                said = why
            await asyncio.sleep(DRAIN_POLL_S)
            for one in self.folded:
                await one.catch_up(consumer, self.asked.advance)
        for at, due in enumerate(seam.census((f.state for f in self.folded), self.new.partitions)):
            if due.ids > MAX_REMEMBERED_IDS or due.sessions > MAX_SESSIONS:
                raise Terminal(
                    f"partition {at} of {self.new.partitions} would hold {due.ids:,} ids and {due.sessions:,} sessions, over its "
                    f"bounds of {MAX_REMEMBERED_IDS:,} and {MAX_SESSIONS:,}: call it off and take more partitions"
                )

    async def _seal(self, consumer: AIOKafkaConsumer, one: Folded) -> None:
        """Step 3. INVARIANT: nobody writes behind the seal, as the lane's producer was fenced before it (tests/integration/test_rebuild.py)."""
        partition = one.place.partition
        self.asked.say(f"sealing partition {partition}")
        async with writer(self.settings, one) as lane:
            await one.catch_up(consumer, self.asked.advance)
            left = await _unsettled(self.settings, consumer, self.control, [one])
            if one.state.sealed:
                return
            if left:
                raise Retryable(
                    f"partition {partition} began something again: {left[partition]}, run this again"
                )
            state = one.state
            log_id = state.log_id or self.old.log_id
            records: list[Outcome] = []
            if not state.seq:  # nobody ever owned it
                records.append(seam_records.genesis(self.old, partition, self.control, self._now()))
            await lane.append(log_id, records)
            outcome = seam_records.sealed(
                log_id, partition, state.seq, one.tree.root(), self.control, self.old.number, self._now()
            )
            await lane.append(log_id, [outcome])
            await lane.visible(consumer)

    async def _import(self, consumer: AIOKafkaConsumer, made: Seam, partition: int) -> None:
        """Step 5."""
        there = Folded(self.settings.env, self.new, partition)
        async with writer(self._there(), there) as lane:
            await there.catch_up(consumer, lambda _: None)
            log_id, facts = self.new.log_id, made.expected(partition)
            done = max(0, there.state.seq - 1)
            self.asked.say(f"partition {partition}: {len(facts) - done} import(s)")
            if not there.state.seq:
                await lane.append(
                    log_id, [seam_records.genesis(self.new, partition, self.control, self._now())]
                )
            for at in range(done, len(facts), IMPORTS_AT_ONCE):
                now, seq = self._now(), at + 1
                await lane.append(
                    log_id,
                    [
                        seam_records.imported(self.new, partition, seq + n, one, self.control, now)
                        for n, one in enumerate(facts[at : at + IMPORTS_AT_ONCE])
                    ],
                )
            await lane.visible(consumer)

    async def open(self) -> Told:
        """Step 7."""
        there = self._there()
        await topics.create(there)
        self.settings.home.mkdir(parents=True, exist_ok=True)
        (self.settings.home / GENERATION_FILE).write_text(f"{self.new.number}\n", "utf-8")
        told = Told(self.new.number, self.new.partitions)
        told.census = seam.census((one.state for one in self.folded), self.new.partitions)
        told.carried = await carry(self.settings, there, self.old.number, [one.state for one in self.folded])
        return told

    def _now(self) -> int:
        """Never before what any partition decided."""
        return max(time.time_ns() // 1000, self.control.at, *(one.state.now for one in self.folded))


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=20))
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _folded(
    settings: Settings, consumer: AIOKafkaConsumer, one: Generation, advance: Advance
) -> list[Folded]:
    made = [Folded(settings.env, one, partition) for partition in range(one.partitions)]
    for folded in made:
        await folded.catch_up(consumer, advance)
    return made


async def _unsettled(
    settings: Settings, consumer: AIOKafkaConsumer, control: Control, folded: Sequence[Folded]
) -> dict[int, str]:
    """Partition -> why it cannot be sealed yet."""
    found: dict[int, str] = {}
    for one in folded:
        state, partition = one.state, one.place.partition
        if state.sealed:
            continue
        if why := seam.unsettled(state):
            found[partition] = why
        elif state.seq and waiting_orders(state, control):
            found[partition] = "an order to take an agent back waits"
        else:
            place = TopicPartition(
                full_name(space_of(settings.env, one.generation.number), "transfers"), partition
            )
            [stretch] = await stretches(consumer, [place])
            start = max(stretch.begin, state.positions.get("transfers", 0))
            async for batch in scan(consumer, place, start, stretch.end):
                found[partition] = f"{len(batch):,} transfer(s) are not taken yet"
                break
    return found
