"""One real Kafka for the whole test session: the embedded one, or your own by `SLUICEGATE_TEST_KAFKA`.

Tests share it, so each names its topics and groups by its own prefix (`SLUICEGATE_ENV`, or a uuid).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sluicegate.streams.broker import EmbeddedBroker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a broker that answers."""
    if yours := os.environ.get("SLUICEGATE_TEST_KAFKA"):
        yield yours
        return
    broker = EmbeddedBroker(tmp_path_factory.mktemp("kafka-session"))
    yield broker.start()
    broker.stop()
    broker.wipe()
