"""The same against the images of Kafka and ClickHouse that docker-compose.yml names, where a Docker engine answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sluicegate.schemas.errors import Retryable
from sluicegate.schemas.topics import TOPICS
from sluicegate.sinks.ddl import ensure_schema
from sluicegate.sinks.embedded import connect
from sluicegate.streams import kafka, stack
from sluicegate.streams.settings import Settings

from tests.ports import unused

SERVICES: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "docker-compose.yml").read_text("utf-8")
)["services"]
PASSWORD = "containers-only"
START_LIMIT_S = 180


@pytest.fixture(scope="module")
def engine() -> Any:
    """testcontainers' DockerContainer, when there is an engine to run it on."""
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env(timeout=5)
        try:
            client.ping()
        finally:
            client.close()
    except Exception as error:
        pytest.skip(f"no Docker engine answers: {str(error)[:150]}")
    from testcontainers.core.container import DockerContainer

    return DockerContainer


@pytest.fixture(scope="module")
def settings(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    [port] = unused(1)  # the address Kafka advertises has to be known before it starts
    broker = engine(SERVICES["kafka"]["image"]).with_bind_ports(port, port)
    for name, value in SERVICES["kafka"]["environment"].items():
        broker = broker.with_env(name, str(value))
    broker = (
        broker.with_env("KAFKA_LISTENERS", f"INSIDE://:9092,CONTROLLER://:9093,HOST://:{port}")
        .with_env("KAFKA_ADVERTISED_LISTENERS", f"INSIDE://localhost:9092,HOST://localhost:{port}")
        .with_env("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093")
    )
    house = engine(SERVICES["clickhouse"]["image"]).with_exposed_ports(8123)
    for name, value in (("USER", "sluicegate"), ("PASSWORD", PASSWORD), ("DB", "dev")):
        house = house.with_env(f"CLICKHOUSE_{name}", value)
    with broker, house:
        url = (
            f"http://sluicegate:{PASSWORD}@{house.get_container_host_ip()}:{house.get_exposed_port(8123)}/dev"
        )
        yield Settings(
            home=tmp_path_factory.mktemp("containers"),
            kafka=f"localhost:{port}",
            clickhouse=url,
            partitions=3,
        )


def eventually(work: Any) -> Any:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return work()
        except Retryable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_kafka_gets_its_topics_and_genesis(settings: Settings) -> None:
    eventually(lambda: asyncio.run(kafka.probe(settings)))
    control = asyncio.run(stack.prepare(settings))
    assert (control.head, control.partitions) == (0, 3)

    async def names() -> set[str]:
        client = await kafka.connect(kafka.admin(settings))
        try:
            return {t["topic"] for t in await client.describe_topics()}
        finally:
            await client.close()

    assert {f"dev.{t.name}" for t in TOPICS} <= asyncio.run(names())


def test_clickhouse_takes_the_schema_and_answers_every_view(settings: Settings) -> None:
    client = eventually(lambda: connect(settings, "sink"))
    ensure_schema(client, "dev")
    views = client.query(
        "select name from system.tables where database = 'dev' and engine = 'View'"
    ).result_rows
    assert {"intents", "decisions", "refusals"} <= {name for (name,) in views}
    for (name,) in views:
        client.query(f"select * from dev.`{name}` limit 1")
    client.close()
