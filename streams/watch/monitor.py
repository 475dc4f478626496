"""The monitor: Faust's own strengths, at low rates.

An agent reacts to dead letters (it counts and logs them: an alarm a person can read), and a timer that runs on the
leader only measures how far inputs and ClickHouse trail the ledger. A webhook, where one is set, is told of held calls
(`watch/notify.py`), alarms are told to every channel (`watch/alarm_notify.py`), and the leader's sentinel looks for drift
(`watch/sentinel.py`), lets a sample be decided again (`replay/reproduce_watch.py`) and takes up issuers' newer keys (`watch/issuer_watch.py`). It only watches and proposes; it never decides
and never writes the ledger. Nothing escapes an agent's body: Faust would acknowledge the event all the same.
Next: `app.py`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import faust
import mode
from aiokafka import TopicPartition
from sluicegate.executors.egress import Egress
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import DeadLetter
from sluicegate.schemas.topics import INPUTS, full_name
from sluicegate.streams import kafka
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.reproduce_watch import ReproduceWatch
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import canary_watcher, sentinel_service
from sluicegate.streams.watch.alarm_notify import AlarmNotifier
from sluicegate.streams.watch.channels import channels_from
from sluicegate.streams.watch.issuer_watch import IssuerWatch
from sluicegate.streams.watch.notify import Notifier
from sluicegate.streams.watch.sentinel_service import SentinelService
from sluicegate.streams.watch.webhook import Webhook, WebhookSettings

MEASURE_EVERY_S = 5.0


class MonitorService(mode.Service):
    """Holds what the monitor has seen, for `/metrics`."""

    def __init__(self, settings: Settings, announce: Path, port: int) -> None:
        super().__init__()
        self.settings = settings
        self.gauges: dict[str, float] = {"sluicegate_monitor_dead_letters_total": 0}
        self.ready = False
        self._announce = announce
        self._about = {"role": "monitor", "pid": os.getpid(), "port": port, "started_at": time.time()}

    async def on_start(self) -> None:
        """Say where we are."""
        self._announce.parent.mkdir(parents=True, exist_ok=True)
        self._announce.write_text(json.dumps(self._about))
        self.ready = True

    async def on_stop(self) -> None:
        """Nothing to drain."""
        self._announce.unlink(missing_ok=True)

    def dead_letter(self, value: bytes) -> None:
        """Count and log one dead letter."""
        self.gauges["sluicegate_monitor_dead_letters_total"] += 1
        try:
            letter = codec.decode_as(DeadLetter, value)
        except SluicegateError as error:
            self.log.warning("a dead letter is itself unreadable: %s", error)
            return
        self.log.warning(
            "dead letter: %s %s/%d/%d: %s",
            letter.reason,
            letter.topic,
            letter.partition,
            letter.offset,
            letter.detail,
        )

    async def measure(self) -> None:
        """How far the ledger trails its inputs, by committed group offsets and log ends."""
        env = self.settings.env
        consumer = await kafka.connect(kafka.consumer(self.settings))
        client = await kafka.connect(kafka.admin(self.settings))
        try:
            done = await client.list_consumer_group_offsets(f"sluicegate.{env}.ledger")
            names = [full_name(self.settings.space, t) for t in INPUTS]
            places = [TopicPartition(n, p) for n in names for p in consumer.partitions_for_topic(n) or ()]
            ends = await consumer.end_offsets(places)
            for place, end in ends.items():
                at = done[place].offset if place in done else 0
                label = f'{{topic="{place.topic}",partition="{place.partition}"}}'
                self.gauges[f"sluicegate_monitor_input_lag{label}"] = max(0, end - at)
        finally:
            await client.close()
            await consumer.stop()


class NotifyService(mode.Service):
    """Tells the webhook of held calls, where one is set."""

    def __init__(self, settings: Settings, webhook: WebhookSettings, gauges: dict[str, float]) -> None:
        super().__init__()
        self._settings, self._webhook, self._gauges = settings, webhook, gauges
        self._notifier: Notifier | None = None

    @mode.Service.task
    async def _notify(self) -> None:
        """Beside everything else: the ledger never waits for it."""
        keys = Keys(self._settings.home) if self._webhook.content else None
        webhook = Webhook(self._webhook, Egress.from_env())
        self._notifier = Notifier(self._settings, webhook, keys.open if keys else None)
        await self._notifier.run()

    @mode.Service.timer(1.0)
    async def _count(self) -> None:
        if self._notifier is not None:
            self._gauges.update(self._notifier.metrics())


class SentinelHost(mode.Service):
    """The sentinel, where this monitor is the leader, and the channels that alarms are told to."""

    def __init__(self, settings: Settings, gauges: dict[str, float]) -> None:
        super().__init__()
        self._settings, self._gauges = settings, gauges
        self._sentinel = SentinelService(settings)
        self._sampling = ReproduceWatch(self._sentinel.control, self._sentinel.propose)
        self._issuers = IssuerWatch(self._sentinel.control, self._sentinel.propose, self._sentinel.who)

    async def on_stop(self) -> None:
        """Nothing to drain: a restart reads the same rows again."""
        await self._sentinel.stop()

    @mode.Service.task
    async def _tell(self) -> None:
        """Beside everything else: nobody waits for a channel."""
        channels = channels_from(os.environ)
        if channels:
            notifier = AlarmNotifier(self._settings, channels)
            self.add_future(self._count(notifier))
            await notifier.run()

    async def _count(self, notifier: AlarmNotifier) -> None:
        while not self.should_stop:
            self._gauges.update(notifier.metrics())
            await self.sleep(1.0)

    async def look(self) -> None:
        """One look; the first one connects, again and again until Kafka is there."""
        await self._sentinel.look()
        self._gauges.update(self._sentinel.metrics())

    async def sample(self) -> None:
        """One sample of what can be decided again, where it is due; it waits until the sentinel is connected."""
        if self._sentinel.sentinel is not None:
            await self._sampling.look()
            self._gauges.update(self._sampling.metrics())

    async def renew(self) -> None:
        """Issuers' newest keys, where it is due; it waits until the sentinel is connected."""
        if self._sentinel.sentinel is not None:
            await self._issuers.look()
            self._gauges.update(self._issuers.metrics())


class CanaryService(mode.Service):
    """Watches the canary that runs, where this monitor is the leader."""

    def __init__(self, settings: Settings, gauges: dict[str, float]) -> None:
        super().__init__()
        self._settings, self._gauges = settings, gauges
        self._watcher: canary_watcher.Watcher | None = None

    async def on_stop(self) -> None:
        """Nothing to drain: what was not written is found again."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.stop()

    async def look(self) -> None:
        """One look; the first one reads control, again and again until Kafka is there."""
        if self._watcher is None:
            watcher = canary_watcher.Watcher(self._settings, Keys(self._settings.home))
            await watcher.start()
            self._watcher = watcher
        await self._watcher.look()
        self._gauges.update(self._watcher.metrics())


def add_monitor(app: faust.App, settings: Settings, announce: Path, port: int) -> MonitorService:
    """Give the app its agent and its leader timer."""
    service = MonitorService(settings, announce, port)
    app.service(service)  # type: ignore[arg-type]  # an instance serves as well as a class
    webhook = WebhookSettings.from_env(os.environ)
    if webhook is not None:
        app.service(NotifyService(settings, webhook, service.gauges))  # type: ignore[arg-type]
    sentinels = SentinelHost(settings, service.gauges)
    app.service(sentinels)  # type: ignore[arg-type]
    canaries = CanaryService(settings, service.gauges)
    app.service(canaries)  # type: ignore[arg-type]
    topic = app.topic(full_name(settings.space, "dead-letters"), value_serializer="raw", key_serializer="raw")

    @app.agent(topic, concurrency=1)
    async def dead_letters(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            try:
                service.dead_letter(value)
            except Exception:  # nothing may escape: Faust acknowledges the event and restarts the agent
                service.log.exception("the reaction to a dead letter failed")

    @app.timer(interval=MEASURE_EVERY_S, on_leader=True)  # type: ignore[untyped-decorator]
    async def measure() -> None:
        try:
            await service.measure()
        except Exception:
            service.log.exception("the lag could not be measured")

    @app.timer(interval=sentinel_service.LOOK_EVERY_S, on_leader=True)  # type: ignore[untyped-decorator]
    async def sentinel() -> None:
        try:
            await sentinels.look()
        except Exception:
            service.log.exception("the sentinel could not look")

    @app.timer(interval=sentinel_service.LOOK_EVERY_S, on_leader=True)  # type: ignore[untyped-decorator]
    async def reproduce() -> None:
        try:
            await sentinels.sample()
        except Exception:
            service.log.exception("the sample could not be decided again")

    @app.timer(interval=sentinel_service.LOOK_EVERY_S, on_leader=True)  # type: ignore[untyped-decorator]
    async def issuers() -> None:
        try:
            await sentinels.renew()
        except Exception:
            service.log.exception("issuers could not be asked for their keys")

    @app.timer(interval=canary_watcher.LOOK_EVERY_S, on_leader=True)  # type: ignore[untyped-decorator]
    async def canary() -> None:
        try:
            await canaries.look()
        except SluicegateError as error:
            service.log.warning("the canary is not watched yet: %s", error)
        except Exception:
            service.log.exception("the canary could not be looked at")

    return service
