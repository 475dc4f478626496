"""`sluicegate replay without EVENT`: what the ledger would hold, had one event never come.

    1. find     the partition that holds it: of an intent by its agent, of an event by reading headers
    2. fold     that partition from genesis up to it
    3. again    every later input is decided again on a state that never saw it (`processors/replay/counterfactual.py`)
    4. others   only when something leads to another partition: all of them, side by side (`processors/replay/together.py`)

Never executes, never publishes, never seals. Next: `replay/replay.py`, `commands/without.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from aiokafka import ConsumerRecord
from sluicegate.processors.control.control import Control
from sluicegate.processors.replay.apart import Apart, Drop
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.replay.together import Together
from sluicegate.processors.verify.reading import head, rest, split_two
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.lanes.content_store import reader
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

EVENT_HEX = 32
"""Characters of an event id."""


@dataclass(slots=True)
class Told:
    """What was found, and where.

    Attributes:
        over: how many partitions were decided again.
    """

    event: str
    partition: int
    seq: int
    what: str
    decided_at: int = 0
    over: int = 1
    seconds: float = 0.0
    apart: Apart = field(default_factory=Apart)

    @property
    def verdict(self) -> str:
        """One line."""
        a = self.apart
        parts = [f"{len(a.dropped)} records left out", f"{a.changed:,} inputs certainly come out otherwise"]
        if a.unknown:
            sessions = sum(one.unknown_from >= 0 for one in a.sessions.values())
            parts.append(
                f"{a.unknown:,} asked in {sessions} sessions that nobody can know about (speculative)"
            )
        if elsewhere := a.touched - {self.partition}:
            names = ", ".join(map(str, sorted(elsewhere)))
            parts.append(f"it reaches partition {names}, by {a.crossed:,} exchanges")
        if a.erased:
            parts.append(f"{a.erased:,} ERASED: their content is gone, taken as recorded")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        a = self.apart
        rows = {f"{agent} {session}": asdict(one) for (agent, session), one in sorted(a.sessions.items())}
        names = ("dropped", "decided", "changed", "speculative", "unknown", "erased", "spends", "memory")
        return {
            "verdict": self.verdict, "event": self.event, "partition": self.partition, "seq": self.seq, "left_out": self.what,
            "seconds": round(self.seconds, 3), **{name: getattr(a, name) for name in names},
            "over": self.over, "touched": sorted(a.touched), "crossed": a.crossed, "sessions": rows, "changes": [asdict(c) for c in a.changes],
            "not_made": [{"agent_id": n.agent_id, "intent_id": n.intent_id, "speculative": n.speculative} for n in a.not_made],
            "leads_to": [{"agent_id": g, "session_id": s} for g, s in a.leads_to],
        }  # fmt: skip


async def without(settings: Settings, event: str, agent_id: str, opener: Opener, on_start: OnStart) -> Told:
    """Leave an event, or a whole call, out. Raises `Terminal` for one the ledger does not have."""
    started = time.monotonic()
    count = await topics.partitions_of(settings)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        ledgers = await stretches(consumer, places(settings.space, "outcomes", range(count)))
        advance = on_start(sum(s.end - s.begin for s in ledgers))
        drop, stretch, told = await _find(consumer, ledgers, event, agent_id, advance)
        control = await control_log.read(settings, keep_history=True, with_release=True)
        assert control.history is not None
        alone = _Run([stretch], control.history, opener, drop, told.decided_at)
        await alone.read(settings, on_start)
        told.over = 1
        if not alone.together.leaving:
            told.apart = alone.together.close()
        if alone.together.leaving:  # also what arrives after the last record may lead out
            run = _Run(ledgers, control.history, opener, drop, told.decided_at)
            await run.read(settings, on_start)
            told.apart, told.over = run.together.close(), len(ledgers)
    finally:
        await consumer.stop()
    told.seconds = time.monotonic() - started
    return told


class _Run:
    """Some partitions, side by side."""

    def __init__(
        self, ledgers: Sequence[Stretch], controls: Sequence[Control], opener: Opener, drop: Drop, at: int
    ) -> None:
        for one in ledgers:
            if one.begin > 0:
                raise Terminal(
                    f"`{one.place.topic}`/{one.place.partition} begins at {one.begin}, its genesis is gone from kafka, restore it from the archive"
                )
        self.ledgers = {one.place.partition: one for one in ledgers}
        self.together = Together(self.ledgers, controls, opener, drop, at)

    async def read(self, settings: Settings, on_start: OnStart) -> None:
        """Read them to their ends; one partition alone only until something leads to another."""
        together, advance = self.together, announce(on_start, self.ledgers.values())
        stored = reader(settings)
        for lane in together.lanes.values():
            lane.stored = stored
        async with AsyncExitStack() as stack:
            readers = {p: await self._reader(settings, one, stack) for p, one in self.ledgers.items()}
            while (partition := together.wants()) is not None and not together.leaving:
                batch = await anext(readers[partition], None)
                if batch is None:
                    together.end(partition)
                    continue
                for record in batch:
                    together.add(partition, record.offset, record.value or b"")
                advance(len(batch))

    async def _reader(
        self, settings: Settings, one: Stretch, stack: AsyncExitStack
    ) -> AsyncIterator[list[ConsumerRecord]]:
        """A consumer of its own: one reads a stretch at a time."""
        consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
        stack.push_async_callback(consumer.stop)
        return await stack.enter_async_context(aclosing(scan(consumer, one.place, one.begin, one.end)))


async def _find(
    consumer: Any, ledgers: list[Stretch], event: str, agent_id: str, advance: Advance
) -> tuple[Drop, Stretch, Told]:
    """The first record that is meant: by an event id if there is one of this name, else by an intent id."""
    wanted = bytes.fromhex(event) if _is_event(event) else b""
    owners: dict[str, tuple[Stretch, Told]] = {}
    for stretch in ledgers:
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                h = head(split_two(record.value or b"")[0])
                p, about = stretch.place.partition, rest(h.rest)
                if wanted and h.event_id == wanted:
                    told = Told(event, p, h.seq, f"{h.stage} {h.status}", about.decided_at)
                    return Drop(event=wanted), stretch, told
                mine = about.intent_id == event and agent_id in ("", about.agent_id)
                if mine and about.agent_id not in owners:
                    told = Told(event, p, h.seq, "all of the call", about.decided_at)
                    owners[about.agent_id] = (stretch, told)
            advance(len(batch))
    if len(owners) != 1:
        many = f"was asked by {len(owners)} agents, say which with --agent"
        said = (
            many
            if owners
            else "is neither an event nor an intent on the ledger, see `sluicegate intents` or `explain`"
        )
        raise Terminal(f"`{event[:80]}` {said}")
    [(owner, (stretch, told))] = owners.items()
    return Drop(intent_id=event, agent_id=owner), stretch, told


def _is_event(text: str) -> bool:
    return len(text) == EVENT_HEX and all(c in "0123456789abcdef" for c in text)
