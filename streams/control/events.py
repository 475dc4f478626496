"""The events of the control ledger one by one, as they were written: for listings. Reads only.

What is in force is said by `control/log.py`, which folds them. Next: `rebuild/agent_rollback.py`, `commands/rollback.py`.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams import kafka
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 20


class ControlEvent(NamedTuple):
    """One event. `at` in microseconds."""

    seq: int
    at: int
    kind: str
    who: str
    why: str
    body: dict[str, object]


async def control_events(settings: Settings, kinds: frozenset[str]) -> list[ControlEvent]:
    """Those of these kinds, the oldest first."""
    found: list[ControlEvent] = []
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        [stretch] = await stretches(consumer, places(settings.space, "control", [0]))
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                outcome = codec.decode_as(r.Outcome, record.value or b"")
                facts = codec.decode_as(r.ControlFacts, outcome.facts)
                if facts.kind in kinds:
                    h = codec.decode_as(r.Header, outcome.header)
                    body = json.loads(facts.body)
                    found.append(ControlEvent(h.seq, h.decided_at, facts.kind, facts.who, facts.why, body))
    finally:
        await consumer.stop()
    return found
