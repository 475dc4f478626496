"""Notify: people are told of held calls, by a webhook, from the ledger's own records.

A member of a consumer group of its own reads the ledger beside everybody else: the ledger never waits for it. Its
place is committed only behind what was told or given up, so a restart tells again rather than not at all. What expired
meanwhile is told to nobody. A group that is new begins a day back: no call is held for longer.
Never decides and never writes the ledger. Next: `watch/webhook.py` (one address), `watch/monitor.py` (who hosts this).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.approval.holds import MAX_HOLD_US
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Header, HoldFacts, Outcome
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.webhook import Webhook

WAITING_MAX = 200
"""Events that wait for the webhook, about 2 kB each, at most 64 kB with content; then reading pauses."""
FETCH_MAX = 200
POLL_MS = 500
COMMIT_EVERY_S = 1.0
RETRY_S = 2.0
TYPE = "ai.sluicegate.approval.requested"

Opener = Callable[[str, bytes, bytes], bytes | None]

log = logging.getLogger("sluicegate.notify")


@dataclass(slots=True)
class Counters:
    """What became of held calls, for `/metrics`."""

    told: int = 0
    given_up: int = 0
    expired: int = 0


@dataclass(slots=True)
class _Item:
    place: TopicPartition
    offset: int
    ident: str
    body: bytes
    expires_at: int


@dataclass(slots=True)
class _Lane:
    """One partition: up to where it was read, and what of that is not settled yet, oldest first."""

    read: int
    open: dict[int, None] = field(default_factory=dict)
    committed: int = -1

    def settled(self) -> int:
        """Where a successor has to begin."""
        return next(iter(self.open), self.read)


class Notifier(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads `outcomes`, and tells the webhook of calls that were held.

    Args:
        opener: opens content, for a webhook that is told arguments too; None otherwise.
    """

    def __init__(
        self,
        settings: Settings,
        webhook: Webhook,
        opener: Opener | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._settings, self._webhook, self._opener, self._clock = settings, webhook, opener, clock
        self._topic = full_name(settings.space, "outcomes")
        self._waiting: deque[_Item] = deque()
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._arrived = asyncio.Event()
        self.counters = Counters()

    @property
    def waiting(self) -> int:
        """Events that are read and not settled."""
        return sum(len(lane.open) for lane in self._lanes.values())

    def metrics(self) -> dict[str, float]:
        """By name, for `/metrics`."""
        return {
            "sluicegate_notify_told_total": self.counters.told,
            "sluicegate_notify_given_up_total": self.counters.given_up,
            "sluicegate_notify_expired_total": self.counters.expired,
            "sluicegate_notify_waiting": self.waiting,
        }

    async def run(self) -> None:
        """Until cancelled. An error of Kafka ends a connection, never this."""
        telling = asyncio.create_task(self._tell(), name="notify-tell")
        try:
            while True:
                try:
                    await self._read()
                except (KafkaError, SluicegateError, OSError, TimeoutError) as error:
                    log.warning("kafka: %s, trying again", error)
                await asyncio.sleep(RETRY_S)
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
            await self._webhook.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        group = f"sluicegate.{self._settings.env}.notify"
        # Assigned by name only once the listener is there: `subscribe` takes both.
        consumer = self._consumer = kafka.consumer(self._settings, group=group, from_offset="earliest")
        consumer.subscribe([self._topic], listener=self)
        committed_at = 0.0
        try:
            await kafka.connect(consumer)
            while True:
                if len(self._waiting) >= WAITING_MAX:
                    consumer.pause(*consumer.assignment())
                elif consumer.paused():
                    consumer.resume(*consumer.paused())
                batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=FETCH_MAX)
                for place, records in batches.items():
                    for record in records:
                        self._take(place, record.offset, record.value or b"")
                for place in consumer.assignment() & self._lanes.keys():
                    at = await consumer.position(place)  # it passes markers too
                    if (lane := self._lanes.get(place)) is not None:
                        lane.read = max(lane.read, at)
                if time.monotonic() - committed_at >= COMMIT_EVERY_S:
                    await self._commit()
                    committed_at = time.monotonic()
        finally:
            self._consumer = None
            with suppress(KafkaError):
                await self._commit(consumer)
            self._waiting.clear()
            self._lanes.clear()
            await consumer.stop()

    def _take(self, place: TopicPartition, offset: int, value: bytes) -> None:
        lane = self._lanes.get(place)
        if lane is None:
            return
        lane.read = max(lane.read, offset + 1)
        item = self._item(place, offset, value)
        if item is not None:
            lane.open[offset] = None
            self._waiting.append(item)
            self._arrived.set()

    def _item(self, place: TopicPartition, offset: int, value: bytes) -> _Item | None:
        """What to tell of a ledger record, if it holds a call."""
        try:
            parts = reading.split(value)
            if parts.facts[: codec.PREFIX_BYTES] not in reading.HOLDS:
                return None
            header = codec.decode_as(Header, parts.header)
            facts = codec.decode_as(HoldFacts, parts.facts)
            content = self._content(header, codec.decode_as(Outcome, value).content)
        except SluicegateError as error:
            log.warning("record %s/%d/%d: %s", place.topic, place.partition, offset, error)
            return None
        body: dict[str, object] = {
            "type": TYPE, "id": header.event_id.hex(), "env": self._settings.env, "intent_id": header.intent_id,
            "agent_id": header.agent_id, "tenant": header.tenant, "session_id": header.session_id, "tool": facts.tool,
            "class": facts.tool_class, "held_at": header.decided_at, "expires_at": facts.expires_at,
            "quorum": facts.quorum, "reviewers": facts.reviewers, "policies": header.policies,
            "action_digest": facts.action_digest.hex(), "release": facts.release, **content,
        }  # fmt: skip
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return _Item(place, offset, header.event_id.hex(), data, facts.expires_at)

    def _content(self, header: Header, sealed: bytes | None) -> dict[str, object]:
        if not self._webhook.content or self._opener is None or sealed is None:
            return {}
        opened = self._opener(header.subject, header.event_id, sealed)
        try:
            found = json.loads(opened or b"{}")
        except ValueError:  # the input's own bytes, where the hold was an input's first record
            return {}
        return {name: found[name] for name in ("arguments", "why") if name in found}

    # -- telling ------------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            item = self._waiting.popleft()
            if self._clock() >= item.expires_at:
                self.counters.expired += 1
            elif await self._told(item):
                self.counters.told += 1
            else:
                self.counters.given_up += 1
            lane = self._lanes.get(item.place)
            if lane is not None:
                lane.open.pop(item.offset, None)

    async def _told(self, item: _Item) -> bool:
        try:
            return await self._webhook.tell(item.ident, item.body)
        except Exception:  # one event must not end the telling of all others
            log.exception("event %s could not be told", item.ident)
            return False

    # -- the group's place ------------------------------------------------------------------------------------------------

    async def _commit(self, consumer: AIOKafkaConsumer | None = None) -> None:
        consumer = consumer or self._consumer
        if consumer is None:
            return
        mine = consumer.assignment()
        moved = {p: lane.settled() for p, lane in self._lanes.items() if p in mine}
        moved = {p: at for p, at in moved.items() if at != self._lanes[p].committed}
        if moved:
            await consumer.commit(moved)
            for place, at in moved.items():
                if place in self._lanes:
                    self._lanes[place].committed = at

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """What is settled is committed; the rest is the next owner's."""
        with suppress(KafkaError):
            await self._commit()
        for place in revoked:
            self._lanes.pop(place, None)
        kept = [item for item in self._waiting if item.place not in revoked]
        self._waiting.clear()
        self._waiting.extend(kept)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Go on where the group is, or begin a day back."""
        consumer = self._consumer
        if consumer is None:
            return
        since_ms = (self._clock() - MAX_HOLD_US) // 1000
        for place in sorted(assigned):
            at = await consumer.committed(place)
            if at is None:
                found = (await consumer.offsets_for_times({place: since_ms}))[place]
                at = found.offset if found else (await consumer.end_offsets([place]))[place]
                consumer.seek(place, at)
            self._lanes[place] = _Lane(at)
