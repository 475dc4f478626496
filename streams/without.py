"""`sluicegate replay without EVENT`: what the ledger would hold, had one event never come.

    1. find     the partition that holds it: of an intent by its agent, of an event by reading headers
    2. fold     that partition from genesis up to it
    3. again    every later input is decided again on a state that never saw it (`processors/counterfactual.py`)

Never executes, never publishes, never seals. Next: `replay.py`, `commands/without.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sluicegate.processors.apart import Apart, Drop
from sluicegate.processors.counterfactual import Without
from sluicegate.processors.reading import head, rest, split_two
from sluicegate.processors.rederive import Opener
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import control_log, kafka, topics
from sluicegate.streams.scan import FETCH_WAIT_MS, Advance, Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings

EVENT_HEX = 32
"""Characters of an event id."""


@dataclass(slots=True)
class Told:
    """What was found, and where."""

    event: str
    partition: int
    seq: int
    what: str
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
            "sessions": rows, "changes": [asdict(c) for c in a.changes],
            "not_made": [{"agent_id": g, "intent_id": i, "speculative": s} for g, i, s in a.not_made],
            "leads_to": [{"agent_id": g, "session_id": s} for g, s in a.leads_to],
        }  # fmt: skip


async def without(
    settings: Settings, event: str, agent_id: str, opener: Opener, on_start: Callable[[int], Advance]
) -> Told:
    """Leave an event, or a whole call, out. Raises `Terminal` for one the ledger does not have."""
    started = time.monotonic()
    count = await topics.partitions_of(settings)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        ledgers = await stretches(consumer, places(settings.env, "outcomes", range(count)))
        advance = on_start(sum(s.end - s.begin for s in ledgers))
        drop, stretch, told = await _find(consumer, ledgers, event, agent_id, advance)
        if stretch.begin > 0:
            raise Terminal(
                f"`{stretch.place.topic}`/{told.partition} begins at {stretch.begin}, its genesis is gone from kafka"
            )
        control = await control_log.read(settings, keep_history=True, with_release=True)
        assert control.history is not None
        run = Without(told.partition, control.history, opener, drop)
        advance = on_start(stretch.end - stretch.begin)
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                run.add(record.offset, record.value or b"")
            advance(len(batch))
        told.apart = run.close()
    finally:
        await consumer.stop()
    told.seconds = time.monotonic() - started
    return told


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
                p = stretch.place.partition
                if wanted and h.event_id == wanted:
                    return Drop(event=wanted), stretch, Told(event, p, h.seq, f"{h.stage} {h.status}")
                about = rest(h.rest)
                mine = about.intent_id == event and agent_id in ("", about.agent_id)
                if mine and about.agent_id not in owners:
                    owners[about.agent_id] = (stretch, Told(event, p, h.seq, "all of the call"))
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
