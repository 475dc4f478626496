"""Read what agents asked for off the ledger, for suggestions and first contracts.

    1. cut       the committed ends of the ledger, and control: who exists, which release is deployed
    2. read      every partition from its first record, or from where the window begins
    3. open      each intent's own bytes with the key store; what was erased is counted

Never decides, publishes or executes. Next: `processors/policy/observed.py`, `commands/policy.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.processors.control.control import Control
from sluicegate.processors.policy.observed import Collector, Observation, Opener
from sluicegate.processors.replay.recorded import Event
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.replay.window import Window
from sluicegate.streams.scan import FETCH_WAIT_MS, Advance, places, scan, stretches
from sluicegate.streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Read:
    """What was read. `erased` intents have content that is gone, or that these keys do not open."""

    control: Control
    intents: int
    erased: int


async def read(
    settings: Settings,
    window: Window,
    opener: Opener,
    take: Callable[[Observation], None],
    *,
    on_start: Callable[[int], Advance] | None = None,
) -> Read:
    """Give every observed call whose intent the window holds to `take`."""
    count = await topics.partitions_of(settings)
    wanted = sorted(window.partitions) or list(range(count))
    intents = erased = 0

    def counted(observation: Observation) -> None:
        nonlocal intents
        intents += 1
        take(observation)

    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        control = (await control_log.read(settings)).control
        ledgers = await stretches(consumer, places(settings.space, "outcomes", wanted))
        advance = on_start(sum(s.end - s.begin for s in ledgers)) if on_start else None
        for stretch in ledgers:
            collector = Collector(opener, control.agents, counted)
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                for record in batch:
                    _add(collector, record.offset, record.value, window)
                if advance is not None:
                    advance(len(batch))
            collector.finish()
            erased += collector.erased
    finally:
        await consumer.stop()
    return Read(control, intents, erased)


def _add(collector: Collector, offset: int, value: bytes, window: Window) -> None:
    outcome = codec.decode_as(r.Outcome, value)
    header = codec.decode_as(r.Header, outcome.header)
    facts = codec.decode(outcome.facts)
    begins = isinstance(facts, r.IntentFacts)
    event = Event(offset, header, outcome.header, facts, outcome.facts, outcome.content)
    if not begins or window.everything or window.holds([event]):
        collector.add(header, facts, outcome.content)
