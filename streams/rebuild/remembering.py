"""What an agent remembers, now or as of an earlier position, told from the ledger.

    1. fold   the partition that keeps the scope, from its first record to the position or time
    2. open   the inputs that hold the values, from the ledger's own content, with the key store

Nothing is asked of a worker, and nothing of the input topics: a value is what the ledger holds, so one whose key was
destroyed is `gone`, whoever still has the bytes. Reads only. Next: `commands/memory.py`, `processors/memory/ops.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.folding import Folder
from sluicegate.processors.inputs import Place
from sluicegate.processors.memory.cells import SESSION, SHARED, Cell, known_scope, shelf_of
from sluicegate.processors.memory.ops import pieces_of, put_together
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.state import PartitionState, session_key
from sluicegate.processors.verify import reading
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.topics import TICK, partition_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.scan import FETCH_WAIT_MS, Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Where:
    """Whose memory. `session`: of the scope `session`. A shared one is the agent's tenant's, as control has it."""

    agent: str
    scope: str = SESSION
    session: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """Up to where the ledger counts: its `seq`, or a time in microseconds, both inclusive. With neither, to its end.
    `partition`: the one that the seq is meant of, where it was said."""

    seq: int | None = None
    at: int | None = None
    partition: int | None = None

    def passed(self, seq: int, decided_at: int) -> bool:
        """Whether a record lies behind it."""
        return (self.seq is not None and seq > self.seq) or (self.at is not None and decided_at > self.at)


@dataclass(slots=True)
class Value:
    """One remembered value. `key` and `value` are None where the bytes are gone. `cell`: where and by whom."""

    cell: Cell
    key: str | None = None
    value: bytes | None = None


@dataclass(slots=True)
class Remembered:
    """What a scope held. `seq`: the last record that counted, -1 for none."""

    partition: int
    seq: int
    values: list[Value] = field(default_factory=list)


def check_scope(where: Where) -> None:
    """Raise `WrongUsage` for a scope that cannot be, whatever is asked of it."""
    if not known_scope(where.scope):
        raise WrongUsage(
            f"`{where.scope[:80]}` is no scope, write `session`, `agent` or `shared:<name>` in small letters"
        )
    if where.scope == SESSION and not where.session:
        raise WrongUsage("the scope `session` is a session's own, name it with `--session`")


async def remembered(
    settings: Settings,
    where: Where,
    cut: Cut,
    opener: Opener,
    on_start: Callable[[int], Advance] = lambda total: lambda count: None,
) -> Remembered:
    """Everything a scope held at a cut, the last one written first. Raises `WrongUsage` for a scope and `Terminal` for a cut
    that cannot be."""
    check_scope(where)
    partitions = await topics.partitions_of(settings)
    shared = where.scope.startswith(SHARED)
    tenant = await _tenant(settings, where.agent) if shared else ""
    partition = partition_of(where.scope if shared else where.agent, partitions)
    if cut.partition not in (None, partition):
        raise Terminal(
            f"`{where.scope}` of `{where.agent[:80]}` is kept in partition {partition}, not in {cut.partition}: write {partition}:SEQ, or a time"
        )
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        [stretch] = await stretches(consumer, places(settings.space, "outcomes", [partition]))
        advance = on_start(2 * (stretch.end - stretch.begin))
        state = await _fold(consumer, stretch, cut, advance)
        if cut.seq is not None and cut.seq >= state.seq:
            raise Terminal(
                f"the ledger has no seq {cut.seq} in partition {partition}, it ends at {state.seq - 1}"
            )
        values = [Value(cell) for cell in _cells(state, where, tenant)]
        await _fill(consumer, stretch, values, opener, advance)
    finally:
        await consumer.stop()
    return Remembered(partition, state.seq - 1, values)


async def open_cells(
    settings: Settings, partition: int, cells: Iterable[Cell], opener: Opener, advance: Advance
) -> list[Value]:
    """What these cells of a partition hold, in their order."""
    values = [Value(cell) for cell in cells]
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        [stretch] = await stretches(consumer, places(settings.space, "outcomes", [partition]))
        await _fill(consumer, stretch, values, opener, advance)
    finally:
        await consumer.stop()
    return values


async def _fill(
    consumer: AIOKafkaConsumer, stretch: Stretch, values: list[Value], opener: Opener, advance: Advance
) -> None:
    """Keys and values of what can be opened."""
    wanted = {(piece.topic, piece.offset) for one in values for piece in pieces_of(one.cell)}
    opened = await _open(consumer, stretch, wanted, opener, advance)
    for one in values:
        raws = [opened.get((piece.topic, piece.offset)) for piece in pieces_of(one.cell)]
        said = put_together(one.cell, raws)
        if said is not None:
            one.key, one.value = said


async def _tenant(settings: Settings, agent: str) -> str:
    known = (await control_log.read(settings)).control.agents.get(agent)
    if known is None:
        raise Terminal(f"agent `{agent}` is not registered, name one of `sluicegate agents list`")
    return known.tenant


async def _fold(consumer: AIOKafkaConsumer, stretch: Stretch, cut: Cut, advance: Advance) -> PartitionState:
    """The state at the cut."""
    state = PartitionState(b"", stretch.place.partition)
    folder, at = Folder(state), stretch.begin
    # A scan that is left early must be closed at once: it pauses the partition when it ends.
    async with aclosing(scan(consumer, stretch.place, stretch.begin, stretch.end)) as batches:
        async for batch in batches:
            for record in batch:
                header, facts = reading.split_two(record.value)
                if _behind(header, cut):
                    return state
                folder.take(header, facts)
            advance(batch[-1].offset + 1 - at)
            at = batch[-1].offset + 1
    return state


def _behind(header: bytes, cut: Cut) -> bool:
    if cut.seq is None and cut.at is None:
        return False
    head = reading.head(header)
    return cut.passed(head.seq, reading.rest(head.rest).decided_at if cut.at is not None else 0)


def _cells(state: PartitionState, where: Where, tenant: str) -> Iterable[Cell]:
    """The cells of a scope, the last one written first."""
    if where.scope == SESSION:
        session = state.sessions.get(session_key(where.agent, where.session))
        mine = [state.memory[key] for key in (session.cells if session is not None else ())]
        return sorted(mine, key=lambda cell: -cell.seq)
    shelf = state.shelves.get(shelf_of(where.scope, where.agent, tenant), {})
    return [state.memory[key] for key in reversed(shelf)]


async def _open(
    consumer: AIOKafkaConsumer, stretch: Stretch, wanted: set[Place], opener: Opener, advance: Advance
) -> dict[Place, bytes | None]:
    """The inputs at these places, as the ledger holds them: None where their key was destroyed."""
    found: dict[Place, bytes | None] = {}
    if not wanted:
        return found
    at, before = stretch.begin, ("", -1)
    async with aclosing(scan(consumer, stretch.place, stretch.begin, stretch.end)) as batches:
        async for batch in batches:
            for record in batch:
                parts = reading.split(record.value)
                head = reading.head(parts.header)
                rest = reading.rest(head.rest)
                place = (rest.topic, rest.offset)
                first, before = place != before, place
                if first and place in wanted and rest.topic != TICK and parts.content is not None:
                    found[place] = opener(rest.subject, head.event_id, parts.content)
            advance(batch[-1].offset + 1 - at)
            at = batch[-1].offset + 1
            if len(found) == len(wanted):
                break
    return found
