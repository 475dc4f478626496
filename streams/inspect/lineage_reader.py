"""What the ledger tells of one call and of what followed from it: records into a lineage, contents on demand.

Reads Kafka, with ClickHouse's index where there is one. A cascade reads its partition since the call once, and those of
agents to whom work was handed on. Never writes. Next: `processors/replay/lineage.py` (the lineage), `undo/rollback.py` (who asks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import orjson
from aiokafka import AIOKafkaConsumer
from sluicegate.processors.jobs.compensate import MAX_TRIES, undo_id
from sluicegate.processors.payload import record_in
from sluicegate.processors.replay.lineage import Call, Cascade, Lineage, Place, cascade
from sluicegate.processors.replay.recorded import Opener
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import topics
from sluicegate.streams.inspect.find import Finder, LedgerEvent, decode
from sluicegate.streams.lanes.recovery import read_one
from sluicegate.streams.scan import places, scan, since, stretches
from sluicegate.streams.settings import Settings

CLOCKS_MS = 5_000
"""Another partition is read from so long before the call: clocks differ by less than a second."""

MAX_SAME = 50
"""Later calls of the compensation's tool that are looked at, those of the session first; 60 ms each."""


class LineageReader:
    """Fills a lineage from the ledger, as far as one call leads."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, advance: Callable[[int], None]
    ) -> None:
        self._settings, self._consumer, self._advance = settings, consumer, advance
        self._finder = Finder(settings, consumer)
        self._loaded: set[int] = set()
        self._since_ms = 0
        self.lineage = Lineage("")

    async def root(self, intent_id: str, agent_id: str) -> Call:
        """The call it begins at. Raises `Terminal` for one the ledger does not know, or that several agents asked for."""
        await self._finder.open()
        events = await self._finder.intent(intent_id, agent_id) if intent_id else []
        owners = sorted({e.header.agent_id for e in events})
        if len(owners) != 1:
            many = f"was asked by {len(owners)} agents, say which with --agent"
            said = many if owners else "is not on the ledger, look for it with `sluicegate intents`"
            raise Terminal(f"intent `{intent_id[:80]}` {said}")
        self.lineage = Lineage(events[0].header.tenant)
        self._since_ms = events[0].header.decided_at // 1000 - CLOCKS_MS
        self._take(events)
        call = self.lineage.calls.get((owners[0], intent_id))
        if call is None:
            raise Terminal(f"intent `{intent_id[:80]}` is no call, name one that `sluicegate intents` lists")
        return call

    def _take(self, events: Iterable[LedgerEvent]) -> None:
        for e in events:
            self.lineage.take(e.partition, e.offset, e.header, e.facts)

    async def followed(self, root: Call, *, wide: bool, seen: bool) -> Cascade:
        """What followed: the agent's own partition, and those to which work was handed on, as far as that leads;
        every partition, once one of these calls wrote what agents share."""
        if not wide:
            self._take(await self._finder.session(root.session_id, root.agent_id))
            return Cascade(root.key, [root.key], {}, {}, set())
        count = await topics.partitions_of(self._settings)
        self.lineage = Lineage(root.tenant)
        await self._load(root.partition)
        while True:
            found = cascade(self.lineage, root.key, seen=seen)
            known = (
                range(count) if found.everywhere else (partition_of(agent, count) for agent in found.hands)
            )
            missing = sorted(set(known) - self._loaded)
            if not missing:
                return found
            for partition in missing:
                await self._load(partition)

    async def read_compensations(self, found: Cascade, by: str) -> None:
        """How the compensations stand that were asked for before."""
        if self._loaded:  # a cascade: their partition is read once, since the call
            home = partition_of(by, await topics.partitions_of(self._settings))
            if home not in self._loaded:
                await self._load(home)
            return
        for attempt in range(1, MAX_TRIES + 1):
            events = await self._finder.intent(undo_id(*found.root, attempt), by)
            self._take(events)
            if not events:
                return

    async def _load(self, partition: int) -> None:
        self._loaded.add(partition)
        [place] = places(self._settings.space, "outcomes", [partition])
        [stretch] = await stretches(self._consumer, [place])
        begin = (await since(self._consumer, [stretch], self._since_ms))[place]
        async for batch in scan(self._consumer, place, begin, stretch.end):
            self._take(decode(partition, record.offset, record.value) for record in batch)
            self._advance(len(batch))

    async def same(self, mine: Call, tool: str, arguments: object, by: str, opener: Opener) -> Call | None:
        """A later call of this tool with these arguments, of anybody but `by`."""
        found = [c for c in self.lineage.calls.values() if c.tool == tool and c.agent_id != by and c.end >= 0]
        later = [c for c in found if c.decided_at > mine.decided_at and c.key != mine.key]
        near = sorted(later, key=lambda c: (c.session_id != mine.session_id, c.decided_at))
        for call in near[:MAX_SAME]:
            if (await self.contents(call, opener))[0] == arguments:
                return call
        return None

    async def contents(self, call: Call, opener: Opener) -> tuple[object, object]:
        """The call's arguments and its result, None where they were erased or there are none."""
        args = await self._record(call.first, opener)
        edit = await self._record(call.edited, opener)
        last = await self._record(call.last, opener)
        asked = edit.arguments if isinstance(edit, r.Review) else None
        if asked is None and call.edited is None and isinstance(args, r.Intent):
            asked = args.arguments
        told = last.result if isinstance(last, r.Receipt | r.Resolution) else None
        return _json(asked), _json(told)

    async def _record(self, at: Place | None, opener: Opener) -> object:
        if at is None:
            return None
        [place] = places(self._settings.space, "outcomes", [at[0]])
        record = await read_one(self._consumer, place, at[1])
        if record is None:
            return None
        event = decode(at[0], at[1], record.value)
        if event.sealed is None:
            return None
        try:
            return record_in(opener(event.header.subject, event.header.event_id, event.sealed))
        except SluicegateError:
            return None


def _json(value: bytes | None) -> object:
    try:
        return None if value is None else cast(object, orjson.loads(value))
    except orjson.JSONDecodeError:
        return None
