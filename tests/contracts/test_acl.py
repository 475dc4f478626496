"""The rights a real broker grants are exactly those of the table of topics: principal × topic × operation.

A Kafka with SCRAM and the StandardAuthorizer, the ACLs of `streams/acl.py` made by an administrator, and then both
what the broker says about every role's rights and what an agent's own attempts come to.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import BY_NAME, TOPICS, full_name
from sluicegate.streams import acl, kafka
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.settings import Settings
from typer.testing import CliRunner

ENV, OTHER = "acl", "acl-2"
"""`acl-2` begins with `acl`: a prefix without its dot would let one environment into the other."""
PASSWORD = "a long enough password"
LIMIT_S = 60
ROLES = acl.ROLES


def user(role: str) -> str:
    return f"{ENV}-{role}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    users = {"admin": PASSWORD} | {user(role): PASSWORD for role in ROLES}
    with EmbeddedBroker(tmp_path_factory.mktemp("kafka-acl"), sasl=users) as broker:
        admin = admin_as(broker, "admin")
        names = [full_name(env, t.name) for env in (ENV, OTHER) for t in TOPICS]
        done(admin.create_topics([NewTopic(name, 1, 1) for name in names]))
        done(admin.create_acls([binding(right) for right in acl.plan(ENV)]))
        last = [right for right in acl.plan(ENV) if right.resource == "TOPIC" and right.pattern == "LITERAL"][
            -1
        ]
        deadline = time.monotonic() + LIMIT_S  # the broker applies them after it has acknowledged them
        while last.operation not in rights_of(broker, last.role, last.name) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield broker
        broker.stop()


def admin_as(broker: EmbeddedBroker, name: str) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": broker.bootstrap, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": name, "sasl.password": PASSWORD,
        },
        logger=None,
    )  # fmt: skip


def done(futures: dict[Any, Future[Any]]) -> None:
    for future in futures.values():
        future.result(LIMIT_S)


def binding(right: acl.Acl) -> AclBinding:
    return AclBinding(
        {"TOPIC": ResourceType.TOPIC, "GROUP": ResourceType.GROUP, "TRANSACTIONAL_ID": ResourceType.TRANSACTIONAL_ID}[
            right.resource
        ],
        right.name, ResourcePatternType[right.pattern], right.principal, "*", AclOperation[right.operation],
        AclPermissionType.ALLOW,
    )  # fmt: skip


def rights_of(broker: EmbeddedBroker, role: str, topic: str) -> set[str]:
    """What the broker itself says that a role may do with a topic."""
    admin = admin_as(broker, user(role))
    asked = admin.describe_topics(TopicCollection([topic]), include_authorized_operations=True)
    try:
        found = asked[topic].result(LIMIT_S)
    except KafkaException as error:
        assert error.args[0].name() == "TOPIC_AUTHORIZATION_FAILED"
        return set()
    return {operation.name for operation in found.authorized_operations}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_the_rights_of_the_table_and_no_other(broker: EmbeddedBroker, role: str) -> None:
    for topic in TOPICS:
        wanted = set()
        if role in topic.writers:
            wanted |= {"WRITE", "DESCRIBE"}
        if role in topic.readers:
            wanted |= {"READ", "DESCRIBE"}
        got = rights_of(broker, role, full_name(ENV, topic.name))
        # To measure a lag, or to make topics: where it ends, never what stands there.
        extra = {"monitor": {"DESCRIBE"}, "operator": {"DESCRIBE", "CREATE"}}.get(role, set())
        assert wanted <= got, topic.name
        assert got - wanted <= extra, topic.name
        assert rights_of(broker, role, full_name(OTHER, topic.name)) == set()


def security(broker: EmbeddedBroker, role: str) -> Any:
    return broker.security(user(role))


async def write(broker: EmbeddedBroker, role: str, topic: str, transactional_id: str | None = None) -> None:
    producer = kafka.producer(broker.bootstrap, security(broker, role), transactional_id=transactional_id)
    try:
        async with asyncio.timeout(LIMIT_S):
            await producer.start()
            if transactional_id:
                await producer.begin_transaction()
            await producer.send_and_wait(topic, b"x", key=b"a")
            if transactional_id:
                await producer.commit_transaction()
    finally:
        await producer.stop()


async def read(broker: EmbeddedBroker, role: str, topic: str, group: str | None = None) -> None:
    consumer = kafka.consumer(broker.bootstrap, topic, security=security(broker, role), group=group)
    try:
        async with asyncio.timeout(LIMIT_S):
            await consumer.start()
            await consumer.getmany(timeout_ms=3_000)
    finally:
        await consumer.stop()


def attempt(work: Any) -> str:
    """Empty when it was done, else the name of Kafka's refusal."""
    try:
        asyncio.run(work)
    except (
        TopicAuthorizationFailedError,
        GroupAuthorizationFailedError,
        TransactionalIdAuthorizationFailed,
        KafkaError,
    ) as error:
        assert "uthorization" in type(error).__name__, repr(error)
        return type(error).__name__
    return ""


@pytest.mark.parametrize("topic", sorted(BY_NAME))
def test_an_agent_writes_intents_reads_replies_and_pieces_and_nothing_else(
    broker: EmbeddedBroker, topic: str
) -> None:
    name = full_name(ENV, topic)
    refused = "TopicAuthorizationFailedError"
    assert attempt(write(broker, "agent", name)) == ("" if topic == "intents" else refused)
    assert attempt(read(broker, "agent", name)) == ("" if topic in ("replies", "pieces") else refused)


def test_an_agent_has_no_transactional_id_and_no_group(broker: EmbeddedBroker) -> None:
    intents, replies = full_name(ENV, "intents"), full_name(ENV, "replies")
    for name in (
        f"sluicegate.{ENV}.ledger.0",
        f"sluicegate.{ENV}.claims.0",
        f"sluicegate.{ENV}.control",
        "mine",
    ):
        assert attempt(write(broker, "agent", intents, name)) == "TransactionalIdAuthorizationFailed"
    for group in (f"sluicegate.{ENV}.ledger", f"sluicegate.{ENV}.executor"):
        assert attempt(read(broker, "agent", replies, group)) == "GroupAuthorizationFailedError"


@pytest.mark.parametrize(
    ("role", "topic", "transactional_id", "allowed"),
    [
        ("pipeline", "outcomes", "ledger.0", True),
        ("executor", "receipts", "claims.3", True),
        ("operator", "control", "control", True),
        ("executor", "receipts", "ledger.0", False),  # an executor could fence a partition's owner
        ("pipeline", "outcomes", "claims.0", False),
        ("operator", "control", "ledger.0", False),
    ],
)
def test_transactional_ids_belong_to_one_role(
    broker: EmbeddedBroker, role: str, topic: str, transactional_id: str, allowed: bool
) -> None:
    refusal = attempt(write(broker, role, full_name(ENV, topic), f"sluicegate.{ENV}.{transactional_id}"))
    assert refusal == ("" if allowed else "TransactionalIdAuthorizationFailed")


def test_a_prefix_ends_with_its_environment(broker: EmbeddedBroker) -> None:
    for own in (f"sluicegate.{OTHER}.ledger.0", f"sluicegate.{ENV}.ledgers"):
        refused = attempt(write(broker, "pipeline", full_name(ENV, "outcomes"), own))
        assert refused == "TransactionalIdAuthorizationFailed"


# -- without a broker -----------------------------------------------------------------------------------------------------


def test_only_the_pipeline_writes_the_ledger_and_only_operators_control() -> None:
    rights = acl.plan(ENV)
    for topic, *roles in (("outcomes", "pipeline"), ("replies", "pipeline"), ("dispatches", "pipeline"),
                          ("control", "operator", "monitor"), ("receipts", "executor")):  # fmt: skip
        name = full_name(ENV, topic)
        assert {r.role for r in rights if r.name == name and r.operation == "WRITE"} == set(roles)
    prefixed = {
        r.name
        for r in rights
        if r.pattern == "PREFIXED" and r.resource == "TOPIC" and r.operation in ("READ", "WRITE")
    }
    assert prefixed == {f"sluicegate.{ENV}.monitor-"}  # nobody reads or writes our topics by prefix
    assert not any("*" in r.name or "*" in r.principal for r in rights)


def test_the_ids_are_those_the_code_uses() -> None:
    from sluicegate.executors.claim_log import group_of

    names = {(r.role, r.name) for r in acl.plan(ENV)}
    assert ("executor", group_of(ENV)) in names
    for module, role, text in (
        ("repartition/generation.py", "pipeline", 'f"sluicegate.{settings.env}.ledger.{number}{partition}"'),
        ("lanes/service.py", "pipeline", 'self.group = f"sluicegate.{settings.env}.ledger"'),
        ("control/log.py", "operator", 'f"sluicegate.{settings.env}.control"'),
        ("../executors/claim_log.py", "executor", 'f"sluicegate.{self._settings.env}.claims.'),
        ("../sinks/clickhouse.py", "projector", 'f"{settings.env}.projector'),
        ("app.py", "monitor", 'f"sluicegate.{settings.env}.{role}"'),
    ):
        source = (acl.__spec__.origin or "").replace("acl.py", module)
        with open(source, encoding="utf-8") as file:  # noqa: PTH123
            assert text in file.read(), (module, role)


def test_principals_replace_the_default_of_their_role() -> None:
    chosen = acl.parse_principals(["agent=User:support-7", "agent=User:support-8"])
    found = {r.principal for r in acl.plan(ENV, chosen) if r.role == "agent"}
    assert found == {"User:support-7", "User:support-8"}
    assert {r.principal for r in acl.plan(ENV, chosen) if r.role == "pipeline"} == {f"User:{ENV}-pipeline"}


@pytest.mark.parametrize(
    "row", ["agent", "agent=", "agent=support", "nobody=User:x", "agent=User:*", "agent=User:"]
)
def test_a_principal_that_is_none_is_refused(row: str) -> None:
    with pytest.raises(Terminal, match="names no principal"):
        acl.parse_principals([row])


def test_the_command_prints_every_right(monkeypatch: pytest.MonkeyPatch) -> None:
    from sluicegate.streams import cli

    monkeypatch.setenv("SLUICEGATE_ENV", ENV)
    rights = acl.plan(ENV)
    as_json = CliRunner().invoke(cli.app, ["topics", "plan", "--format", "acl"])
    assert [acl.Acl(**row) for row in json.loads(as_json.output)] == rights
    lines = CliRunner().invoke(cli.app, ["topics", "plan", "--format", "kafka-acls"]).output.splitlines()
    assert lines == [right.line() for right in rights]
    assert (
        'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN_PROPERTIES" --add --allow-principal '
        f"User:{ENV}-agent --operation Write --topic {ENV}.intents --resource-pattern-type literal"
    ) in lines
    table = CliRunner().invoke(cli.app, ["topics", "plan"]).output
    assert all(f"{ENV}.{t.name} " in table for t in TOPICS)


def test_create_and_list_on_a_real_broker(kafka: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from sluicegate.streams import cli

    env = "acl-topics"
    for name, value in {"ENV": env, "KAFKA": kafka, "HOME": str(tmp_path), "PARTITIONS": "3"}.items():
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    run = CliRunner()
    missing = run.invoke(cli.app, ["topics", "list", "-o", "json"])
    assert missing.exit_code == 1
    assert {row["state"] for row in json.loads(missing.output)} == {"missing"}
    made = run.invoke(cli.app, ["topics", "create"])
    assert f"{len(TOPICS)} topic(s) made" in made.output, made
    assert "with 3 partitions, control event 1" in made.output  # the genesis, then the key for checkpoints
    monkeypatch.setenv("SLUICEGATE_PARTITIONS", "5")  # too late: fixed for ever
    assert "0 topic(s) made" in run.invoke(cli.app, ["topics", "create"]).output
    listed = run.invoke(cli.app, ["topics", "list", "-o", "json"])
    assert listed.exit_code == 0
    assert {row["topic"]: row["partitions"] for row in json.loads(listed.output)} == {
        full_name(env, t.name): 3 if t.keyed else 1 for t in TOPICS
    }


def test_judge_names_a_wrong_count() -> None:
    from sluicegate.streams.commands.topics import judge

    found = {full_name("dev", t.name): 4 for t in TOPICS}
    states = {name: state for name, _, state in judge(Settings(), found)}
    assert states["dev.intents"] == "ok"
    assert states["dev.control"] == "needs 1 partitions"
    assert list(itertools.compress(states.values(), (v == "missing" for v in states.values()))) == []
