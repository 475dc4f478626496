"""The wire format from outside: librdkafka and fastavro, with nothing but `schemas/avro` and the topic names.

No line of sluicegate encodes what this module publishes or decodes what it reads; the gate behind it is the real one.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import fastavro
import pytest

from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop

AVRO = Path(__file__).parents[2] / "schemas" / "avro"
AGENT = "banking-agent-gpt-4o-2024-05-13"
LIMIT_S = 60.0
MAGIC = b"\xc3\x01"


class Schema:
    """One `.avsc`, read as the Avro specification says: single-object encoding."""

    def __init__(self, name: str) -> None:
        raw = json.loads((AVRO / f"{name}.avsc").read_text())
        canonical = fastavro.schema.to_parsing_canonical_form(raw)
        self._prefix = MAGIC + bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        self._parsed = fastavro.parse_schema(raw)

    def encode(self, record: dict[str, object]) -> bytes:
        body = io.BytesIO()
        fastavro.schemaless_writer(body, self._parsed, record)
        return self._prefix + body.getvalue()

    def decode(self, value: bytes) -> dict[str, object]:
        assert value.startswith(self._prefix)
        return dict(fastavro.schemaless_reader(io.BytesIO(value[len(self._prefix) :]), self._parsed, None))


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    # Seven partitions: the two partitioners disagree about most agents.
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("wire"), partitions=7)
    with gates.running(settings) as pair:
        yield pair


def publish(gate: Gate, topic: str, value: bytes, **config: str) -> int:
    """Publish under the agent's id with librdkafka; the partition it chose."""
    producer = confluent_kafka.Producer({"bootstrap.servers": gate.settings.kafka, **config})
    where: list[int] = []

    def arrived(error: object, message: confluent_kafka.Message) -> None:
        assert error is None, error
        where.append(message.partition())

    producer.produce(f"{gate.settings.env}.{topic}", value, AGENT.encode(), on_delivery=arrived)
    assert producer.flush(LIMIT_S) == 0
    return where[0]


def reply_to(gate: Gate, ident: str) -> tuple[int, dict[str, object]]:
    """The partition and the record of the reply about this id."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": gate.settings.kafka,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    topic, schema = f"{gate.settings.env}.replies", Schema("reply")
    try:
        consumer.assign(
            [confluent_kafka.TopicPartition(topic, p, 0) for p in range(gate.settings.partitions)]
        )
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            record = schema.decode(message.value())
            if record["intent_id"] == ident:
                assert message.key() == AGENT.encode()
                return message.partition(), record
    finally:
        consumer.close()
    raise AssertionError(f"no reply about `{ident}`")


def new_intent(ident: str) -> bytes:
    now = time.time_ns() // 1000
    return Schema("intent").encode(
        {
            "intent_id": ident,
            "agent_id": AGENT,
            "session_id": "wire",
            "kind": "tool_call",
            "tool": "desk.read",
            "arguments": b'{"value":"from outside"}',
            "issued_at": now,
            "deadline_at": now + 30_000_000,
        }
    )


def test_intent_and_reply(shared: tuple[Loop, Gate]) -> None:
    """`partitioner=murmur2_random` is all that librdkafka needs."""
    _, gate = shared
    opening, ident = uuid.uuid4().hex, uuid.uuid4().hex
    message = {
        "message_id": opening,
        "agent_id": AGENT,
        "session_id": "wire",
        "kind": "session.open",
        "issued_at": time.time_ns() // 1000,
    }
    where = publish(gate, "messages", Schema("message").encode(message), partitioner="murmur2_random")
    partition, opened = reply_to(gate, opening)
    assert (partition, opened["status"]) == (where, "opened")
    assert publish(gate, "intents", new_intent(ident), partitioner="murmur2_random") == where
    partition, reply = reply_to(gate, ident)
    assert partition == where
    assert (reply["agent_id"], reply["session_id"], reply["stage"]) == (AGENT, "wire", "execute")
    assert (reply["status"], reply["result"]) == ("released", b'{"ok":true}'), reply


def test_default_partitioner(shared: tuple[Loop, Gate]) -> None:
    """librdkafka's own choice (CRC32) is another partition: refused with the remedy, where the agent reads."""
    _, gate = shared
    ident, probe = uuid.uuid4().hex, uuid.uuid4().hex
    where = publish(gate, "intents", new_intent(ident))
    own = publish(gate, "intents", new_intent(probe), partitioner="murmur2_random")
    assert where != own, "this agent's partitions agree, choose another number of partitions"
    partition, reply = reply_to(gate, ident)
    assert partition == own
    assert (reply["status"], reply["stage"], reply["reason"]) == ("refused", "route", "misrouted")
    assert "partitioner=murmur2_random" in str(reply["for_developer"])
    _, other = reply_to(gate, probe)
    assert other["reason"] != "misrouted"


def test_intact(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared
    loop.run(gate.intact())
