"""Alarms are told to people, from the control ledger's own records.

A member of a consumer group of its own reads control beside everybody else. Its place is committed only behind what was
told or given up, so a restart tells again rather than not at all. Only alarms that count are told: one that control's fold
left out (a second sentinel's, one that cools down) is nobody's business. A group that is new begins a day back.
Never writes control. Next: `watch/channels.py` (whom), `watch/notify.py` (the same for held calls).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.drift.alarm_events import RAISED
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import ControlFacts, Header, Outcome
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.channels import Channel

POLL_MS = 500
RETRY_S = 2.0
NEW_GROUP_US = 24 * 3_600 * 1_000_000
TYPE = "ai.sluicegate.alarm.raised"

log = logging.getLogger("sluicegate.alarms")


@dataclass(slots=True)
class Counters:
    """What became of alarms, one for each channel, for `/metrics`."""

    told: int = 0
    given_up: int = 0


class AlarmNotifier:
    """Reads `control`, and tells every channel of alarms that were raised."""

    def __init__(
        self, settings: Settings, channels: Sequence[Channel],
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:  # fmt: skip
        self._settings, self._channels, self._clock = settings, channels, clock
        self._place = TopicPartition(full_name(settings.space, "control"), 0)
        self.counters = Counters()

    def metrics(self) -> dict[str, float]:
        """By name, for `/metrics`."""
        return {
            "sluicegate_alarms_told_total": self.counters.told,
            "sluicegate_alarms_given_up_total": self.counters.given_up,
        }

    async def run(self) -> None:
        """Until cancelled. An error of Kafka ends a connection, never this."""
        try:
            while True:
                try:
                    await self._read()
                except (KafkaError, SluicegateError, OSError, TimeoutError) as error:
                    log.warning("kafka: %s, trying again", error)
                await asyncio.sleep(RETRY_S)
        finally:
            for channel in self._channels:
                await channel.close()

    async def _read(self) -> None:
        control = ControlReader(self._settings, with_release=False)
        consumer = kafka.consumer(
            self._settings, group=f"sluicegate.{self._settings.env}.alarms", from_offset="earliest"
        )
        consumer.subscribe([self._place.topic])
        try:
            await control.start()
            await kafka.connect(consumer)
            while True:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    for record in records:
                        await self._take(record.value or b"", control)
                        await self._commit(consumer, record.offset + 1)
        finally:
            with suppress(KafkaError, SluicegateError):
                await control.stop()
            await consumer.stop()

    async def _take(self, value: bytes, control: ControlReader) -> None:
        """Tell of one record, if it is an alarm that counts."""
        try:
            outcome = codec.decode_as(Outcome, value)
            header, facts = (
                codec.decode_as(Header, outcome.header),
                codec.decode_as(ControlFacts, outcome.facts),
            )
            if facts.kind != RAISED or header.decided_at < self._clock() - NEW_GROUP_US:
                return
            body = json.loads(facts.body)
        except (SluicegateError, ValueError) as error:
            log.warning("a control event cannot be read: %s", error)
            return
        await control.wait_for(header.seq)
        ident = str(body.get("id", ""))
        known = control.control.alarms.get(ident)
        if known is None or known.raised != header.seq:
            return
        await self._tell(
            ident, {**body, "type": TYPE, "env": self._settings.env, "raised_at": header.decided_at}
        )

    async def _tell(self, ident: str, alarm: dict[str, object]) -> None:
        answers = await asyncio.gather(
            *(channel.tell(ident, alarm) for channel in self._channels), return_exceptions=True
        )
        for channel, answer in zip(self._channels, answers, strict=True):
            if answer is True:
                self.counters.told += 1
                continue
            self.counters.given_up += 1
            if isinstance(answer, BaseException):
                log.error("channel %s: alarm %s could not be told: %r", channel.name, ident, answer)

    async def _commit(self, consumer: AIOKafkaConsumer, offset: int) -> None:
        with suppress(KafkaError):  # what was told is told again, no more
            await consumer.commit({self._place: offset})
