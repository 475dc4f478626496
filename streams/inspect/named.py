"""What a name on the command line means: an intent, a session, an event or a trace, and the records of its intents.

    intent     as the agent named it: one call of a tool or model, which is a tool call's id
    session    all intents that were asked in it
    event      32 hex digits: the intent that this ledger event, dispatch or idempotency key is of
    trace      32 hex digits, or a whole `traceparent`: all intents that were asked under it. It is content: it is found
               only where the key store opens it, and by reading the ledger

In every generation of the log up to the one that the settings name. Reads only. Next: `inspect/find.py` (where it looks), `inspect/explain.py`, `replay/reproduce.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors import lifecycle
from sluicegate.processors.payload import record_in
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.replay.reproduce import Key
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal, WrongUsage
from sluicegate.streams import kafka, topics
from sluicegate.streams.inspect.find import Finder, LedgerEvent
from sluicegate.streams.repartition.generation import up_to
from sluicegate.streams.scan import FETCH_WAIT_MS, places, scan, stretches
from sluicegate.streams.settings import Settings

MAX_INTENTS = 1_000
"""Of one name: a session or trace with more is told by parts, with `--agent` or by intents."""
NO_STEP = frozenset((*lifecycle.OTHER, lifecycle.ATTACHED))
_HEX = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Named:
    """What was found under a name: `what` is intent, session, event or trace."""

    name: str
    what: str
    events: list[LedgerEvent] = field(default_factory=list)
    opened: list[LedgerEvent] = field(default_factory=list)
    source: str = ""

    def intents(self) -> dict[Key, list[LedgerEvent]]:
        """(agent, intent) -> its records in order; those of the earliest first."""
        found: dict[Key, list[LedgerEvent]] = {}
        for event in self.events:
            found.setdefault((event.header.agent_id, event.header.intent_id), []).append(event)
        return found


async def find(settings: Settings, name: str, opener: Opener, *, agent: str = "") -> Named:
    """Find it. Raises `Terminal` when nothing has this name, or several agents use it for an intent."""
    if not name:  # records that belong to no intent have it
        raise WrongUsage("an intent's id is not empty, name one that `sluicegate intents` lists")
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        finder = Finder(settings, consumer, seams=True)
        await finder.open()
        found = await _found(settings, consumer, finder, name, opener, agent)
        found.source = finder.source
        intents = found.intents()
        if not intents:
            who = f" of agent `{agent}`" if agent else ""
            gone = await _gone(settings, consumer)
            raise Terminal(f"the ledger of `{settings.env}` knows no intent `{name}`{who}, nor a session, trace or event of this name, look for it with `sluicegate intents`{gone}")  # fmt: skip
        agents = sorted({key[0] for key in intents})
        if found.what == "intent" and len(agents) > 1:
            raise Terminal(f"intent `{name}` was asked by {len(agents)} agents, say which: --agent {' or '.join(agents)}")  # fmt: skip
        if len(intents) > MAX_INTENTS:
            raise Terminal(f"{found.what} `{name}` has {len(intents):,} intents, {MAX_INTENTS:,} are told at once, name one of them")  # fmt: skip
        for events in intents.values():
            begun = first_caused(events)
            for cause in begun.header.caused_by:
                one = await finder.event(begun, cause)
                found.opened += [] if one is None else [one]
            if found.what != "intent":
                break  # those of a session have the same opening
        return found
    finally:
        await consumer.stop()


async def _found(
    settings: Settings, consumer: AIOKafkaConsumer, finder: Finder, name: str, opener: Opener, agent: str
) -> Named:  # fmt: skip
    events = await finder.intent(name, agent)
    if events:
        return Named(name, "intent", events)
    events = [e for e in await finder.session(name, agent, whole=True) if e.header.intent_id]
    calls = {_key(e) for e in events if e.header.status == "delegated" or e.header.status not in NO_STEP}
    events = [e for e in events if _key(e) in calls]  # a message's id stands there, too
    if events:
        return Named(name, "session", events)
    whole = _TRACEPARENT.fullmatch(name.lower())
    ident = whole[1] if whole else name.lower()
    if not _HEX.fullmatch(ident):
        return Named(name, "intent")
    what, keys = await _by_hex(settings, consumer, ident, opener)
    events = []
    for owner, intent in sorted(keys):
        if agent in ("", owner):
            events += await finder.intent(intent, owner)
    events.sort(key=lambda e: (e.header.decided_at, e.generation, e.partition, e.header.seq))
    return Named(name, what, events)


def first_caused(events: list[LedgerEvent]) -> LedgerEvent:
    """Of an intent's records the first that says by what it was caused: a refusal that was not remembered may not."""
    return next((e for e in events if e.header.caused_by), events[0])


async def _gone(settings: Settings, consumer: AIOKafkaConsumer) -> str:
    """What nobody can look through: old records that neither kafka nor the archive has."""
    lost = [one for one in await stretches(consumer, await _ledgers(settings)) if one.begin > 0]
    if not lost:
        return ""
    return f"; `{lost[0].place.topic}`/{lost[0].place.partition} begins at offset {lost[0].begin}: what was before is read where SLUICEGATE_ARCHIVE has it"


async def _ledgers(settings: Settings) -> list[TopicPartition]:
    """Every partition of the ledger, of every generation."""
    return [
        place
        for one in up_to(settings)
        for place in places(one.space, "outcomes", range(await topics.partitions_of(one)))
    ]


def _key(event: LedgerEvent) -> Key:
    return event.header.agent_id, event.header.intent_id


async def _by_hex(
    settings: Settings, consumer: AIOKafkaConsumer, ident: str, opener: Opener
) -> tuple[str, set[Key]]:
    """The intents of an event, or of a trace, by reading the whole ledger once."""
    event_id, traced = bytes.fromhex(ident), set()
    for stretch in await stretches(consumer, await _ledgers(settings)):
        async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
            for record in batch:
                parts = reading.split(record.value or b"")
                head = reading.head(parts.header)
                first = parts.facts[: codec.PREFIX_BYTES] in reading.INTENTS
                if head.event_id != event_id and not (first and parts.content is not None):
                    continue
                about = reading.rest(head.rest)
                key = about.agent_id, about.intent_id
                if head.event_id == event_id and about.intent_id:
                    return "event", {key}
                if first and _traceparent(opener, about.subject, head.event_id, parts.content).startswith(ident, 3):  # fmt: skip
                    traced.add(key)
    return "trace", traced


def _traceparent(opener: Opener, subject: str, event_id: bytes, sealed: bytes | None) -> str:
    try:
        record = record_in(opener(subject, event_id, sealed or b""))
    except SluicegateError:
        return ""
    return record.traceparent.lower() if isinstance(record, r.Intent) else ""
