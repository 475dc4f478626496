"""Make the topics of an environment, and plan them for clusters where somebody else makes them.

Names, keys and retention are `schemas/topics.py`'s. The number of partitions is fixed by the genesis of
control, and changed by a new generation only (`repartition/repartition.py`). Never alters an existing topic. Next: `control/log.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import DAY_MS, TOPICS, Topic, full_name
from sluicegate.streams import kafka
from sluicegate.streams.settings import Settings

CREATE_TIMEOUT_MS = 30_000
REPLICATION = 3
"""Copies of a partition where there are that many brokers."""

SEGMENTS, SEGMENT_MIN_MS = 24, 10 * 60_000
"""Kafka deletes whole segments, so a record may outlive its retention by a segment's time: by a 24th, ten minutes to a day."""


def config_of(topic: Topic) -> dict[str, str]:
    """Kafka's settings of a topic."""
    config = {"retention.ms": str(topic.retention_ms), "max.message.bytes": str(topic.max_bytes)}
    config["cleanup.policy"] = "compact" if topic.compacted else "delete"
    if topic.retention_ms > 0:  # with Kafka's own seven days what is kept for an hour could stand for a week
        config["segment.ms"] = str(min(max(topic.retention_ms // SEGMENTS, SEGMENT_MIN_MS), DAY_MS))
    return config


async def create(settings: Settings, without: tuple[str, ...] = ()) -> list[str]:
    """Create what is missing, but for `without`; returns the full names that were made. Raises `Terminal` for a wrong partition count."""
    client = await kafka.connect(kafka.admin(settings))
    try:
        brokers = len((await client.describe_cluster())["brokers"])
        existing = {t["topic"]: len(t["partitions"]) for t in await client.describe_topics()}
        keyed = full_name(settings.space, "outcomes")
        partitions = existing.get(keyed, settings.partitions)
        wanted = [t for t in TOPICS if t.name not in without]
        missing = [t for t in wanted if full_name(settings.space, t.name) not in existing]
        _check_counts(settings, existing, partitions)
        new = [
            NewTopic(
                full_name(settings.space, t.name),
                partitions if t.keyed else 1,
                min(REPLICATION, brokers),
                topic_configs=config_of(t),
            )
            for t in missing
        ]
        if new:
            await _create(client, new)
        return [n.name for n in new]
    finally:
        await client.close()


def _check_counts(settings: Settings, existing: dict[str, int], partitions: int) -> None:
    for topic in TOPICS:
        name = full_name(settings.space, topic.name)
        want = partitions if topic.keyed else 1
        if name in existing and existing[name] != want:
            raise Terminal(
                f"topic `{name}` has {existing[name]} partitions, the log needs {want}: another number is a new "
                "generation, see `sluicegate topics repartition`, or use another SLUICEGATE_ENV"
            )


async def _create(client: AIOKafkaAdminClient, new: list[NewTopic]) -> None:
    response = await client.create_topics(new, timeout_ms=CREATE_TIMEOUT_MS)
    for row in response.topic_errors:
        name, code = row[0], row[1]
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            kind = Retryable if getattr(error, "retriable", False) else Terminal
            raise kind(f"topic `{name}` could not be made: {error.__name__}, check the user's rights")


async def partitions_of(settings: Settings) -> int:
    """How many partitions this environment's log has. Raises `Terminal` when its topics do not exist."""
    client = await kafka.connect(kafka.admin(settings))
    try:
        name = full_name(settings.space, "outcomes")
        for topic in await client.describe_topics([name]):
            if topic["partitions"]:
                return len(topic["partitions"])
    finally:
        await client.close()
    raise Terminal(f"topic `{name}` does not exist, run `sluicegate up` or `sluicegate topics create`")


async def configs_of(settings: Settings, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Kafka's settings of topics, by full name, as the broker has them now. Raises `Retryable`."""
    client = await kafka.connect(kafka.admin(settings))
    try:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        answers = await client.describe_configs(wanted)
    except KafkaError as error:
        raise Retryable(f"kafka did not say how long topics are kept: {error}, try again") from error
    finally:
        await client.close()
    return {
        str(one[3]): {str(row[0]): str(row[1]) for row in one[4]}
        for answer in answers
        for one in answer.resources
    }


async def count_with(settings: Settings, wanted: Iterable[int]) -> int:
    """`partitions_of`; each of `wanted` has to be one of them, else `Terminal`."""
    count = await partitions_of(settings)
    if bad := [p for p in wanted if not 0 <= p < count]:
        raise Terminal(f"partition `{bad[0]}` does not exist, this log has 0 to {count - 1}")
    return count


async def counts(settings: Settings) -> dict[str, int]:
    """Full name -> number of partitions of this environment's topics."""
    client = await kafka.connect(kafka.admin(settings))
    try:
        found = await client.describe_topics()
    finally:
        await client.close()
    ours = {full_name(settings.space, t.name) for t in TOPICS}
    return {t["topic"]: len(t["partitions"]) for t in found if t["topic"] in ours}


def judge(settings: Settings, found: dict[str, int]) -> list[tuple[str, int, str]]:
    """(topic, partitions, ok or what is wrong) of every topic there should be."""
    log = found.get(full_name(settings.space, "outcomes"), settings.partitions)
    rows = []
    for topic in TOPICS:
        name = full_name(settings.space, topic.name)
        want, have = (log if topic.keyed else 1), found.get(name, 0)
        state = "ok" if have == want else "missing" if not have else f"needs {want} partitions"
        rows.append((name, have, state))
    return rows
