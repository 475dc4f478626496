"""Where everything stands: the ledger's heads, how far inputs and sink trail, what is deployed, who works.

Asks Kafka, the group coordinator and, if it is there, ClickHouse. Reads only. Next: `commands/status.py`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from sluicegate.processors.drift.rules import DEFAULT_DRIFT
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import INPUTS
from sluicegate.streams import kafka, topics
from sluicegate.streams.control import log as control_log
from sluicegate.streams.inspect.tail import newest
from sluicegate.streams.role_files import here
from sluicegate.streams.roles import ALL
from sluicegate.streams.scan import Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.sentinel_service import clickhouse
from sluicegate.streams.watch.windows import Head, coverage

FETCH_WAIT_MS = 20
COUNTED_LAG = 1_000
"""A lag of up to this many offsets is counted record by record: offsets have holes, one for each transaction."""
GROUPED = ("ledger", "executor", "projector", "monitor")
"""Roles whose processes share work in a consumer group: Kafka knows them wherever they run."""
ELSEWHERE_UNKNOWN = tuple(role for role in ALL if role not in GROUPED)
"""The others are counted by their files on this machine."""

_SINK = """
SELECT src_partition, toInt64(max(seq)) FROM `{database}`.events
WHERE src_topic = 'outcomes' AND log_id = unhex('{log_id}') GROUP BY src_partition
"""
_OPEN = "SELECT state, count() FROM `{database}`.intents WHERE life = 'open' AND log = '{log_id}' GROUP BY state ORDER BY state"


@dataclass(slots=True)
class PartitionStatus:
    """One ledger partition. `sink_lag` None: ClickHouse did not say."""

    partition: int
    seq: int = -1
    decided_at: int = 0
    control_head: int = -1
    input_lag: int = 0
    sink_lag: int | None = None


@dataclass(slots=True)
class Status:
    """The whole environment. `members`: processes of each role; of one without a consumer group those of this machine."""

    env: str
    log_id: str = ""
    signing: str = ""
    control_head: int = -1
    release: str = ""
    release_name: str = ""
    agents: int = 0
    members: dict[str, int] = field(default_factory=dict)
    partitions: list[PartitionStatus] = field(default_factory=list)
    open_intents: dict[str, int] | None = None
    clickhouse: str = ""
    open_alarms: list[str] = field(default_factory=list)
    """Alarms that nobody has acknowledged, the newest first: id and stream."""
    reviews: list[str] = field(default_factory=list)
    """Agents under review."""
    blind: str = ""
    """Why drift is not watched now, or empty."""

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


async def status(settings: Settings) -> Status:
    """Ask everybody. Raises `Retryable` when Kafka is away; without ClickHouse its numbers are missing."""
    result = Status(settings.env)
    count = await topics.partitions_of(settings)
    control = (await control_log.read(settings)).control
    result.log_id, result.signing, result.control_head = control.log_id.hex(), control.signing, control.head
    result.release, result.release_name = control.deployed, control.published.get(control.deployed, "")
    result.agents = len(control.agents)
    waiting = sorted((a for a in control.alarms.values() if a.open), key=lambda a: -a.raised)
    result.open_alarms = [f"{a.alarm_id} {a.stream}" for a in waiting]
    result.reviews = sorted(control.reviews)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    admin = await kafka.connect(kafka.admin(settings))
    try:
        for stretch in await stretches(consumer, places(settings.space, "outcomes", range(count))):
            part = PartitionStatus(stretch.place.partition)
            for event in await newest(consumer, stretch, 1):
                h = event.header
                part.seq, part.decided_at, part.control_head = h.seq, h.decided_at, h.control_head
            result.partitions.append(part)
        await _input_lag(settings, consumer, admin, result)
        result.members = {role: await _members(admin, settings.env, role) for role in GROUPED}
    finally:
        await admin.close()
        await consumer.stop()
    result.members |= {role: len(here(settings.home, role)) for role in ELSEWHERE_UNKNOWN}
    await asyncio.to_thread(_clickhouse, settings, result)
    drift = control.release.drift if control.release is not None else DEFAULT_DRIFT
    result.blind = await asyncio.to_thread(_blind, settings, result, drift.blind_after_us)
    return result


def _blind(settings: Settings, result: Status, patience_us: int) -> str:
    """Why nobody would see a change now: no monitor runs, or what it reads is not there."""
    if not result.members.get("monitor"):
        return "no monitor runs, start one: sluicegate worker --role monitor"
    if result.clickhouse:
        return "clickhouse does not answer"
    now = time.time_ns() // 1000
    heads = {p.partition: Head(p.seq, p.decided_at) for p in result.partitions}
    try:
        there = coverage(result.log_id, heads, clickhouse(settings).stored(result.log_id), now)
    except SluicegateError as error:
        return str(error)
    return there.blind if now - there.until > patience_us else ""


async def _input_lag(
    settings: Settings, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient, result: Status
) -> None:
    """By the ledger group's committed offsets, which trail the ledger itself by a second."""
    done = await admin.list_consumer_group_offsets(f"sluicegate.{settings.env}.ledger")
    for topic in INPUTS:
        wanted = places(settings.space, topic, [p.partition for p in result.partitions])
        for stretch in await stretches(consumer, wanted):
            at = done[stretch.place].offset if stretch.place in done else stretch.begin
            result.partitions[stretch.place.partition].input_lag += await _records(consumer, stretch, at)


async def _records(consumer: AIOKafkaConsumer, stretch: Stretch, start: int) -> int:
    lag = max(0, stretch.end - max(start, stretch.begin))
    if lag > COUNTED_LAG:
        return lag
    count = 0
    try:
        async for batch in scan(consumer, stretch.place, stretch.end - lag, stretch.end):
            count += len(batch)
    except (
        TopicAuthorizationFailedError
    ):  # operators may describe inputs, not read them: markers count as well
        return lag
    return count


async def _members(admin: AIOKafkaAdminClient, env: str, role: str) -> int:
    groups = [f"sluicegate.{env}.{role}", f"{env}.{role}"]  # the projector's has no prefix
    try:
        answers = [await admin.describe_consumer_groups([group]) for group in groups]
    except KafkaError:  # not allowed to ask, or no coordinator yet
        return 0
    # (error, group, state, protocol type, protocol, members)
    return sum(len(g[5]) for answer in answers for one in answer for g in one.groups)


def _clickhouse(settings: Settings, result: Status) -> None:
    from clickhouse_connect.driver.exceptions import Error
    from sluicegate.sinks.embedded import connect, database

    try:
        client, name = connect(settings), database(settings)
        rows = client.query(_SINK.format(database=name, log_id=result.log_id)).result_rows
        states = client.query(_OPEN.format(database=name, log_id=result.log_id)).result_rows
    except (SluicegateError, Error, OSError) as error:
        result.clickhouse = " ".join(str(error).split())[:200]
        return
    seqs = {int(p): int(seq) for p, seq in rows}
    for part in result.partitions:
        part.sink_lag = max(0, part.seq - seqs.get(part.partition, -1))
    result.open_intents = {str(state): int(n) for state, n in states}
