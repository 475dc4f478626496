"""Roll an agent back: what it would change, the order on control, and how the partition took it in.

What is shown is made by the very functions that the partition's owner decides with, from the same ledger; what the owner
then writes is read back and told. Never decides and never writes anything but the order.
Next: `processors/agents/restore.py`, `lanes/restoring.py` (the owner's side), `commands/rollback_agent.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors import lifecycle
from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.agents.fold import AgentFold, Cuts
from sluicegate.processors.agents.orders import ROLLED_BACK_KIND, AgentOrder
from sluicegate.processors.agents.restore import Changes, at_cut_of, changes
from sluicegate.processors.agents.restore_fold import STAGE
from sluicegate.processors.control.control import Control
from sluicegate.processors.entries import OpenIntent
from sluicegate.processors.labels import CONFIDENTIALITY, header_labels, names_of
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.sessions.session import Session, from_mark
from sluicegate.processors.verify.reading import head, rest, split_two
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.times import iso
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import deployments
from sluicegate.streams.control.operations import Row
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.rebuild.remembering import Value, open_cells
from sluicegate.streams.settings import Settings
from sluicegate.streams.stores import FETCH_WAIT_MS, KafkaStore

TAKEN_IN_LIMIT_S = 120.0
"""For the owner to fold its ledger up to the cut: 1,000,000 events are some ten seconds."""
SHOWN_CHARS = 60
"""Of a remembered value, in a row."""
MAX_EFFECTS = 1_000
"""Calls since the cut that are named; all are counted."""

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class To:
    """Where an agent goes back to: a seq, a moment, or before an earlier rollback. `partition`: that of the seq, where it was said."""

    cut: int | None = None
    at: int | None = None
    undo: int = -1
    partition: int | None = None


@dataclass(slots=True)
class Look:
    """What a rollback would change, as the ledger stands.

    Attributes:
        calls: that have not ended, and what becomes of each.
        effects: calls since the cut that were executed and are more than reading: those are not taken back by this.
        values: cell -> what it holds now and then held, where `open_values` looked.
    """

    agent_id: str
    partition: int
    cut: int
    at: str
    changes: Changes
    fold: AgentFold
    body: Row
    calls: list[Row] = field(default_factory=list)
    effects: list[Row] = field(default_factory=list)
    effects_count: int = 0
    values: dict[bytes, list[Value]] = field(default_factory=dict)


async def look(
    settings: Settings, control: Control, agent_id: str, to: To, advance: Advance = lambda _: None
) -> Look:
    """Read the agent's partition. Raises `Terminal` for an agent or a cut that is none."""
    if agent_id not in control.agents:
        raise Terminal(f"agent `{agent_id[:80]}` is not registered, see `sluicegate agents list`")
    if to.at is not None and to.at > time.time_ns() // 1000:
        raise Terminal(f"`{iso(to.at, 'microseconds')}` is still to come: name a time that has passed")
    partition = partition_of(agent_id, await topics.partitions_of(settings))
    if to.partition not in (None, partition):
        raise Terminal(
            f"agent `{agent_id[:80]}` is in partition {partition}, not in {to.partition}: write {partition}:SEQ, or a time"
        )
    store = KafkaStore(settings)
    await store.open()
    try:
        if to.undo >= 0:
            to = To(cut=await _before(store, partition, agent_id, to.undo), undo=to.undo)
        return await _look(store, partition, agent_id, to, advance)
    finally:
        await store.close()


async def _look(store: KafkaStore, partition: int, agent_id: str, to: To, advance: Advance) -> Look:
    body: Row = {"agent_id": agent_id, **({"at": to.at} if to.cut is None else {"cut": to.cut})}
    if to.undo >= 0:
        body["undoes"] = to.undo
    fold, effects = AgentFold(partition, agent_id), _Effects(agent_id)
    cuts = Cuts([AgentOrder(agent_id, 0, to.at, to.cut)], 0, 1)
    async for batch in store.events(partition):
        for header, facts in batch.events:
            fold.add(header, facts, cuts)
            if cuts.values:
                effects.take(header, facts)
        advance(len(batch.events))
    end = fold.state.seq - 1
    if to.cut is not None and to.cut > end:
        raise Terminal(f"partition {partition}, where the agent is, ends at seq {end}: name an earlier one")
    cuts.before(fold.state, 1 << 62)
    cut, then = at_cut_of(cuts.values[0])
    found = changes(fold.state, agent_id, then, fold.state.now)
    open_calls = [e for e in fold.state.intents.objects() if type(e) is OpenIntent and e.agent_id == agent_id]
    return Look(
        agent_id, partition, cut, iso(to.at or 0, "microseconds"), found, fold, body, [_call(e) for e in open_calls],
        effects.found, effects.count,
    )  # fmt: skip


async def _before(store: KafkaStore, partition: int, agent_id: str, event: int) -> int:
    """The last seq before the outcome that took this order in."""
    async for batch in store.events(partition):
        for header, facts in batch.events:
            h = head(header)
            if h.stage != STAGE or rest(h.rest).agent_id != agent_id:
                continue
            if codec.decode_as(r.RestoreFacts, facts).order == event:
                if h.reason:
                    raise Terminal(
                        f"control event {event} changed nothing (`{h.reason}`), so there is nothing to undo"
                    )
                return h.seq - 1
    raise Terminal(
        f"control event {event} rolled back no agent `{agent_id[:80]}`, see `sluicegate rollback list`"
    )


class _Effects:
    """Calls of one agent that were executed since the cut."""

    def __init__(self, agent_id: str) -> None:
        self._agent = agent_id
        self._classes: dict[str, str] = {}
        self.found: list[Row] = []
        self.count = 0

    def take(self, header: bytes, facts: bytes) -> None:
        h = head(header)
        if h.status != "dispatched" and h.status not in lifecycle.EXECUTED_TERMINAL:
            return
        about = rest(h.rest)
        if about.agent_id != self._agent:
            return
        if h.status == "dispatched":
            plan = codec.decode(facts)
            if isinstance(plan, r.PlanFacts | r.AttemptFacts):
                self._classes[about.intent_id] = plan.tool_class
            return
        tool_class = self._classes.pop(about.intent_id, "read_only")
        if tool_class != "read_only" and codec.schema_of(r.MemoryFacts).prefix != facts[: codec.PREFIX_BYTES]:
            self.count += 1
            if len(self.found) < MAX_EFFECTS:
                self.found.append(
                    {
                        "intent_id": about.intent_id,
                        "session_id": about.session_id,
                        "class": tool_class,
                        "state": h.status,
                    }
                )


def _call(entry: OpenIntent) -> Row:
    waits = entry.state in ("held", "waiting")
    then = "it is voided" if waits else "its result is not released"
    return {
        "intent_id": entry.intent_id,
        "session_id": entry.session_id,
        "tool": entry.tool,
        "state": entry.state,
        "then": then,
    }


async def open_values(settings: Settings, found: Look, opener: Opener, advance: Advance) -> None:
    """Keys and values of the memory that would be otherwise: one more reading of the partition, for who looks before acting."""
    have = agent_values.values_of(found.fold.state, found.agent_id).cells
    cells = [(key, have[key]) for key in found.changes.forgotten]
    for key, (cell, _) in found.changes.cells.items():
        cells += [(key, one) for one in (have.get(key), cell) if one is not None]
    opened = await open_cells(settings, found.partition, [cell for _, cell in cells], opener, advance)
    for (key, _), value in zip(cells, opened, strict=True):
        found.values.setdefault(key, []).append(value)


def as_rows(found: Look) -> list[tuple[str, str, str, str]]:
    """(what, which, now, then) of everything that would be otherwise."""
    state, new = found.fold.state, found.changes
    have = agent_values.values_of(state, found.agent_id)
    rows: list[tuple[str, str, str, str]] = []
    if have.mark != new.mark:
        rows.append(("labels", found.agent_id, _labels(have.mark), _labels(new.mark)))
    rows += [("session", name, "open", "withdrawn") for name in new.withdrawn]
    for name, one in new.sessions.items():
        known = have.sessions.get(name)
        if known is None:
            rows.append(("session", name, "withdrawn", "open"))
            continue
        parted = [f.name for f in fields(Session) if getattr(known, f.name) != getattr(one, f.name)]
        rows += [
            ("session", f"{name} {f}", _short(f, getattr(known, f)), _short(f, getattr(one, f)))
            for f in parted
        ]
    for key in new.forgotten:
        was = f"version {have.cells[key].version}{_held(found, key, 0)}"
        rows.append(("memory", _cell(found, key), was, "forgotten"))
    for key, (cell, of) in new.cells.items():
        is_cell = have.cells.get(key)
        was = f"version {is_cell.version}{_held(found, key, 0)}" if is_cell is not None else "forgotten"
        then = f"version {cell.version}, the value of version {of}{_held(found, key, -1)}"
        rows.append(("memory", _cell(found, key), was, then))
    return rows + [("call", str(c["intent_id"]), str(c["state"]), str(c["then"])) for c in found.calls]


def _cell(found: Look, key: bytes) -> str:
    """What an agent calls it, where that could be opened."""
    named = next((one for one in found.values.get(key, ()) if one.key is not None), None)
    return key.hex() if named is None else f"{named.cell.scope} {named.key}"


def _held(found: Look, key: bytes, index: int) -> str:
    values = found.values.get(key)
    if not values:
        return ""
    value = values[index].value
    text = "gone" if value is None else value.decode()
    return f": {text}" if len(text) <= SHOWN_CHARS else f": {text[:SHOWN_CHARS]}…"


def _labels(mark: int) -> str:
    return ", ".join(header_labels(*from_mark(mark))) or "none"


def _short(name: str, value: object) -> str:
    """A field of a session for people; labels by their names."""
    if name == "integrity" and isinstance(value, int):
        return ", ".join(names_of(value)) or "user"
    if name == "confidentiality" and isinstance(value, int):
        return CONFIDENTIALITY[value]
    if isinstance(value, tuple):
        return f"{len(value)}"
    return value.hex()[:16] if isinstance(value, bytes) else str(value)[:40]


async def carry_out(
    settings: Settings, keys: Keys, found: Look, control: Control, why: str
) -> tuple[int, r.RestoreFacts | None]:
    """Order it, and wait until the partition has taken it in: (the control event, the first outcome's facts). Where the
    order takes several people it is only proposed: then there are no facts."""
    place = TopicPartition(full_name(settings.space, "outcomes"), found.partition)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        consumer.assign([place])
        consumer.seek(place, (await consumer.end_offsets([place]))[place])
        body: Row = {**found.body, "why": why}

        def plan(now: Control) -> tuple[list[tuple[str, Row]], str]:
            if now.head != control.head:
                raise Terminal(f"control moved from {control.head} to {now.head}, look at it and try again")
            return [(ROLLED_BACK_KIND, body)], ""

        done = await deployments.change(settings, keys, plan, why)
        return done.head, None if done.waits else await _taken_in(consumer, place, done.head)
    finally:
        await consumer.stop()


async def _taken_in(consumer: AIOKafkaConsumer, place: TopicPartition, event: int) -> r.RestoreFacts:
    try:
        async with asyncio.timeout(TAKEN_IN_LIMIT_S):
            while True:
                for record in (await consumer.getmany(place, timeout_ms=FETCH_WAIT_MS)).get(place, []):
                    header, raw = split_two(record.value)
                    h = head(header)
                    if h.stage != STAGE:
                        continue
                    facts = codec.decode_as(r.RestoreFacts, raw)
                    if facts.order == event:
                        if h.reason:
                            raise Terminal(f"the partition took it in as `{h.reason}`: nothing was changed")
                        return facts
    except TimeoutError as error:
        raise Retryable(
            f"control event {event} stands, and no worker has taken it in within {TAKEN_IN_LIMIT_S:.0f} s: the agent is "
            "refused until one does, see `sluicegate doctor`"
        ) from error
