"""The sentinel's process side: Kafka's heads, control as it is, ClickHouse, and the key that signs what it proposes.

In a signed environment it signs with a key of its own, of a person with the role `sentinel`: control's fold bounds what
such a person may do. With an operator's key it refuses to act: then nothing would bound it.

    sluicegate people register sentinel --role sentinel
    sluicegate keys new sentinel --role operator --file <home>/keys/sentinel.jwk

Never decides. Next: `watch/sentinel.py` (what a look is), `watch/monitor.py` (the leader's timer).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from sluicegate.processors.control.control import Control
from sluicegate.processors.drift.alarm_events import SENTINEL
from sluicegate.processors.drift.sentinel_plan import Event
from sluicegate.schemas.errors import Retryable
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import operators
from sluicegate.streams.control.log import ControlReader
from sluicegate.streams.inspect.tail import newest
from sluicegate.streams.keys.files import PrivateKey
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.scan import places, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.sentinel import Sentinel
from sluicegate.streams.watch.windows import Head, Windows

LOOK_EVERY_S = 5.0
"""Between two looks: with buckets of 10 s and a sink that writes each second a change is seen within 20 s of its evidence."""
WHY_CHARS = 500


class SentinelService:
    """One sentinel and its connections; made at the leader's first look."""

    def __init__(self, settings: Settings, windows: Windows | None = None) -> None:
        self._settings = settings
        self._windows = windows or clickhouse(settings)
        self._reader = ControlReader(settings, with_release=True)
        self._consumer: AIOKafkaConsumer | None = None
        self._heads: dict[int, tuple[int, Head]] = {}
        self._keys: Keys | None = None
        self.sentinel: Sentinel | None = None

    async def look(self) -> None:
        """Connect where that was not done yet, and look once."""
        if self.sentinel is None:
            reader = ControlReader(self._settings, with_release=True)
            await reader.start()
            self._reader = reader
            self._consumer = await kafka.connect(kafka.consumer(self._settings, fetch_wait_ms=20))
            self._keys = Keys(self._settings.home)
            self.sentinel = Sentinel(self._windows, self._reader, self.heads, self.propose, _now_us, self.who)
        await self.sentinel.look()

    async def stop(self) -> None:
        """Close everything."""
        sentinel, self.sentinel = self.sentinel, None
        if sentinel is not None:
            await self._reader.stop()
        if self._consumer is not None:
            await self._consumer.stop()
        if self._keys is not None:
            self._keys.close()

    def metrics(self) -> dict[str, float]:
        """Empty where another process is the leader."""
        return self.sentinel.metrics() if self.sentinel is not None else {}

    async def heads(self) -> Mapping[int, Head]:
        """The newest outcome of every partition; one whose end did not move is not read again. Raises `Retryable`."""
        try:
            return await self._newest()
        except (KafkaError, OSError) as error:
            raise Retryable(
                f"kafka does not answer: {type(error).__name__}, see `sluicegate doctor`"
            ) from error

    async def _newest(self) -> Mapping[int, Head]:
        assert self._consumer is not None
        count = self._reader.control.partitions
        found = {}
        for stretch in await stretches(
            self._consumer, places(self._settings.space, "outcomes", range(count))
        ):
            partition = stretch.place.partition
            known = self._heads.get(partition)
            if known is None or known[0] != stretch.end:
                events = await newest(self._consumer, stretch, 1)
                head = Head(events[-1].header.seq, events[-1].header.decided_at) if events else Head(-1, 0)
                known = self._heads[partition] = stretch.end, head
            found[partition] = known[1]
        return found

    def control(self) -> Control:
        """Control as it is now."""
        return self._reader.control

    def who(self) -> str:
        """Who it signs as."""
        key = self._key(self._reader.control)
        return SENTINEL if key is None else self._reader.control.keys[key.kid].principal

    async def propose(self, events: list[Event], why: str, expected_head: int) -> Control:
        """Append to control, and read it back."""
        assert self._keys is not None
        head = await control_log.append(
            self._settings, self._keys, events, who=SENTINEL, why=why[:WHY_CHARS], expected_head=expected_head,
            key=self._key(self._reader.control),
        )  # fmt: skip
        await self._reader.wait_for(head)
        return self._reader.control

    def _key(self, control: Control) -> PrivateKey | None:
        return operators.sentinel_key(self._settings, control)


def clickhouse(settings: Settings) -> Windows:
    """The real store, asked as a reader; connected at the first question, and again after one without an answer."""
    from sluicegate.sinks.embedded import connect, database
    from sluicegate.streams.watch.windows_clickhouse import ClickHouseWindows

    name = database(settings)
    return ClickHouseWindows(lambda: connect(settings, "reader", name), name)


def _now_us() -> int:
    return time.time_ns() // 1000
