"""One real Kafka for the whole test session: the embedded one, or your own by `SLUICEGATE_TEST_KAFKA`.

Tests share it, so each names its topics and groups by its own prefix (`SLUICEGATE_ENV`, or a uuid).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.settings import Settings

LIMIT_S = 60.0


@pytest.fixture(scope="session")
def kafka_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's broker has its files; empty when it is your own."""
    return tmp_path_factory.mktemp("kafka-session")


@pytest.fixture(scope="session")
def kafka(kafka_files: Path) -> Iterator[str]:
    """Bootstrap servers of a broker that answers."""
    if yours := os.environ.get("SLUICEGATE_TEST_KAFKA"):
        yield yours
        return
    broker = EmbeddedBroker(kafka_files)
    yield broker.start()
    broker.stop()
    broker.wipe()


async def delete_group(settings: Settings, group: str) -> None:
    """Delete a consumer group, once its last member's leaving has arrived."""
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    deadline = asyncio.get_running_loop().time() + LIMIT_S
    while True:
        [future] = admin.delete_consumer_groups([group]).values()
        try:
            await asyncio.to_thread(future.result, LIMIT_S)
            return
        except KafkaException as error:
            assert error.args[0].code() == KafkaError.NON_EMPTY_GROUP, error
            assert asyncio.get_running_loop().time() < deadline, error
            await asyncio.sleep(0.05)
