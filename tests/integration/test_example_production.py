"""Example 05 without its containers: a real Kafka with the compose file's own settings (TLS, passwords, no right but those listed), and
each role with that service's own environment and user.

Other than there: one machine's addresses and paths, two partitions, ACLs made by the admin client from the lines of `secrets/acls.sh`, and the
tests' ClickHouse. Two tenants come by the gateway; what a role may not do, its own commands show.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from sluicegate.streams.app import DIE_WITH_PARENT
from sluicegate.streams.cli import app
from sluicegate.streams.embedded import files as broker_files
from sluicegate.streams.embedded import java as broker_java
from sluicegate.streams.embedded import process as broker_process
from sluicegate.streams.stack import healthy
from typer.testing import CliRunner

from tests.driver import release_files
from tests.integration.gateway_served import person_token
from tests.ports import unused
from tests.unit import test_tokens as tokens
from tests.unit.test_shared_memory import FILES as MEMORY

EXAMPLE = Path(__file__).parents[2] / "examples" / "05_production"
SERVICES: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text("utf-8"))["services"]
ROLES = ("ledger", "executor", "projector", "monitor", "gateway")
LIMIT_S = 180.0
PARTITIONS = "2"
SMALL = {"offsets.topic.num.partitions": "2", "transaction.state.log.num.partitions": "2", "group.initial.rebalance.delay.ms": "0"}  # fmt: skip
"""What makes the first start faster; the example leaves Kafka's defaults."""
ALL = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
KINDS = dict(zip(("--topic", "--group", "--transactional-id"), ALL, strict=True))


@dataclass
class Example:
    """What runs.

    Attributes:
        secrets: as `prepare.sh` made them, with the variables of `secrets/env`.
        homes: the volumes.
    """

    folder: Path
    clickhouse: str
    port: int
    gateway_port: int
    secrets: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def home(self, service: str) -> Path:
        """The volume at this service's home: the gateway has its own."""
        [volume] = [v for v in SERVICES[service]["volumes"] if v.endswith(":/var/lib/sluicegate")]
        return self.folder / volume.partition(":")[0]

    def environ(self, service: str) -> dict[str, str]:
        """The service's variables, on this machine."""
        found = {name: self.filled(str(value)) for name, value in SERVICES[service]["environment"].items()}
        found |= {
            "SLUICEGATE_KAFKA": f"localhost:{self.port}", "SLUICEGATE_PARTITIONS": PARTITIONS, "SLUICEGATE_HOME": str(self.home(service)),
            "SLUICEGATE_KAFKA_CAFILE": str(self.folder / "secrets" / "ca.crt"),
        }  # fmt: skip
        if "SLUICEGATE_CLICKHOUSE" in found:
            found["SLUICEGATE_CLICKHOUSE"] = f"{self.clickhouse}/prod"
        return {**{k: v for k, v in os.environ.items() if not k.startswith("SLUICEGATE_")}, **found}

    def filled(self, text: str) -> str:
        """Compose's `${NAME:?...}` and `${NAME:-}`."""
        return re.sub(r"\$\{(\w+):[?-][^}]*\}", lambda m: self.secrets.get(m[1], ""), text)

    def run(self, service: str, *words: str) -> str:
        """A command as this service's user, in this process: a new one takes seconds to import everything."""
        others: dict[str, str | None] = {k: None for k in os.environ if k.startswith("SLUICEGATE_")}
        done = CliRunner().invoke(app, list(words), env={**others, **self.environ(service)})
        assert done.exit_code == 0, (
            words,
            done.output[-2000:],
            traceback.format_exception(*(done.exc_info or ())),
        )
        return done.stdout

    def run_apart(self, service: str, *words: str) -> None:
        """A command as this service's user, as `docker compose run SERVICE` would."""
        done = subprocess.run(
            [sys.executable, "-m", "sluicegate.streams.cli", *words], env=self.environ(service), capture_output=True, text=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])

    def start(self, service: str) -> None:
        """The service's own command."""
        command = [
            w.replace("0.0.0.0:8484", f"127.0.0.1:{self.gateway_port}") for w in SERVICES[service]["command"]
        ]
        self.home(service).mkdir(exist_ok=True)
        with (self.folder / f"{service}.log").open("wb") as log:
            self.running[service] = subprocess.Popen(
                [sys.executable, "-m", "sluicegate.streams.cli", *command], env={**self.environ(service), DIE_WITH_PARENT: "1"},
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> None:
        """Every role serves."""
        deadline = time.monotonic() + LIMIT_S
        for service, process in self.running.items():
            roles = self.home(service) / "roles"
            while not any(healthy(path) for path in roles.glob(f"*-{process.pid}.json")):
                log = (self.folder / f"{service}.log").read_text(errors="replace")[-3000:]
                assert process.poll() is None and time.monotonic() < deadline, (service, log)
                time.sleep(0.1)

    def ask(self, key: str, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """A request of one tenant's agent, which has its key and no more; asked again where the gateway says so, as clients do."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            status, said, again = self.ask_once(key, method, path, body)
            if not again or time.monotonic() > deadline:
                return status, said
            time.sleep(0.5)

    def ask_once(self, key: str, method: str, path: str, body: object) -> tuple[int, dict[str, Any], bool]:
        """Also whether it may be asked again: 503 with `Retry-After`."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gateway_port}{path}", None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {key}"}, method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read()), False
        except urllib.error.HTTPError as error:
            with error:
                again = error.code == 503 and "Retry-After" in error.headers
                return error.code, json.loads(error.read()), again

    def once(
        self,
        want: Callable[[int, dict[str, Any]], object],
        key: str,
        method: str,
        path: str,
        body: object = None,
    ) -> dict[str, Any]:
        """Ask until the answer is as wanted: a process hears of what an operator did a moment later."""
        deadline = time.monotonic() + LIMIT_S
        while not want(*(answer := self.ask(key, method, path, body))):
            assert time.monotonic() < deadline, answer
            time.sleep(0.3)
        return answer[1]


def properties(example: Example, controller_port: int) -> dict[str, str]:
    """The compose file's Kafka, as the image reads its variables; addresses and paths of this machine."""
    env = SERVICES["kafka"]["environment"]
    found = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): example.filled(str(v))
        for name, v in env.items()
    }
    secrets = example.folder / "secrets"
    return {
        **found,
        **SMALL,
        "controller.quorum.voters": f"1@localhost:{controller_port}",
        "listeners": f"CLIENT://localhost:{example.port},CONTROLLER://localhost:{controller_port}",
        "advertised.listeners": f"CLIENT://localhost:{example.port}",
        "ssl.keystore.location": str(secrets / "kafka.pem"),
        "ssl.truststore.location": str(secrets / "ca.crt"),
        "log.dirs": "data",
    }


def bindings(example: Example) -> list[AclBinding]:
    """The rights in `secrets/acls.sh`, one a line."""
    found = []
    for line in (example.folder / "secrets" / "acls.sh").read_text("utf-8").splitlines():
        words = shlex.split(line)
        options = dict(zip(words[6::2], words[7::2], strict=True))
        assert words[5] == "--add" and words[0] == "kafka-acls.sh", line
        [(flag, name)] = [(k, v) for k, v in options.items() if k in KINDS]
        found.append(
            AclBinding(
                KINDS[flag],
                name,
                ResourcePatternType[options["--resource-pattern-type"].upper()],
                options["--allow-principal"],
                "*",
                AclOperation[options["--operation"].upper()],
                AclPermissionType.ALLOW,
            )
        )
    return found


def admin(example: Example, user: str, password: str) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": f"localhost:{example.port}", "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN",
            "sasl.username": user, "sasl.password": password, "ssl.ca.location": str(example.folder / "secrets" / "ca.crt"),
        },
        logger=None,
    )  # fmt: skip


def done(futures: dict[Any, Future[Any]]) -> None:
    for future in futures.values():
        future.result(LIMIT_S)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, clickhouse: str) -> Iterator[Example]:
    folder = tmp_path_factory.mktemp("production")
    shutil.copy(EXAMPLE / "prepare.sh", folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([folder / "prepare.sh"], env={**os.environ, "PATH": path}, check=True, capture_output=True)
    port, controller_port, gateway_port = unused(3)
    made = Example(folder, clickhouse, port, gateway_port)
    for line in (folder / "secrets" / "env").read_text("utf-8").splitlines():
        name, _, value = line.partition("=")
        made.secrets[name] = value.strip("'")
    kafka = folder / "kafka"
    kafka.mkdir()
    lines = [f"{k}={v}\n" for k, v in properties(made, controller_port).items()]
    broker_files.write_private(kafka / "server.properties", "".join(lines))
    java, jars = broker_java.find_java(), broker_java.fetch_jars()
    broker_files.format_storage(kafka, java.executable, broker_java.classpath(jars), None)
    broker = broker_process.spawn(broker_java.command(java, jars, None), kafka, kafka / "broker.log")
    try:
        password = re.search(r'username="admin" password="(\w+)"', made.secrets["KAFKA_JAAS"])
        assert password is not None
        client, deadline = admin(made, "admin", password[1]), time.monotonic() + LIMIT_S
        while True:
            try:
                client.list_topics(timeout=5)
                break
            except KafkaException:
                assert time.monotonic() < deadline and broker_process.alive(broker), broker_process.tail(
                    kafka / "broker.log"
                )
        done(client.create_acls(bindings(made)))
        made.home("init").mkdir()
        made.run_apart("init", *SERVICES["init"]["command"])
        for service in ROLES:
            made.start(service)
        made.ready()
        yield made
    finally:
        for process in made.running.values():
            process.terminate()
        for process in made.running.values():
            process.wait(LIMIT_S)
            assert process.stdin is not None
            process.stdin.close()
        broker_process.terminate(broker)
        broker_process.bury(broker.pid)


@pytest.fixture(scope="module")
def keys(example: Example) -> dict[str, str]:
    """What the example's page does next, as the operator: a release, an agent of each tenant, a person."""
    release = example.folder / "release"
    for name, text in {**release_files(), **MEMORY}.items():
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        (release / name).write_text(text)
    example.run("init", "deploy", str(release))
    here = example.home("gateway") / "keys"
    for name, *more in (
        ("gateway", "--role", "channel"),
        ("north-1",),
        ("south-1",),
        ("ana", "--role", "person"),
    ):
        if name.endswith("-1"):
            example.run("init", "agents", "register", name, "--tenant", name[:-2], "--role", "banking")
        if name == "ana":
            example.run("init", "people", "register", "ana", "--role", "desk")
        example.run(
            "init", "keys", "new", name, *more, "--kid", f"{name}.1", "--file", str(here / f"{name}.1.jwk")
        )
    (example.folder / "jwks.json").write_text(json.dumps({"keys": [tokens.jwk("EdDSA", "k-EdDSA")]}))
    example.run(
        "init", "issuers", "add", tokens.ISSUER, "--audience", tokens.AUDIENCE, "--jwks", str(example.folder / "jwks.json")
    )  # fmt: skip
    found = {}
    for name in ("north-1", "south-1"):
        said = example.run("init", "keys", "create", name, "--valid", "90d")
        token = re.search(r"sg_\S+", said)
        assert token is not None, said
        found[name] = token[0]
    for key in found.values():  # the gateway knows the key, and the ledger its agent
        example.once(lambda status, _: status == 201, key, "POST", "/v1/sessions", {"session_id": "first"})
    return found


def test_a_user_has_the_rights_of_its_lines_and_nobody_else_any(example: Example) -> None:
    stranger = admin(example, "prod-agent", "guessed")
    with pytest.raises(KafkaException):
        stranger.list_topics(timeout=5)
    assert (
        "prod.intents"
        not in admin(example, "prod-projector", example.secrets["PROJECTOR_PASSWORD"])
        .list_topics(timeout=10)
        .topics
    )


def test_two_tenants_by_the_gateway(example: Example, keys: dict[str, str]) -> None:
    north, south = keys["north-1"], keys["south-1"]

    def ask(
        key: str, session: str, tool: str, ident: str = "", /, **arguments: object
    ) -> tuple[int, dict[str, Any]]:
        body = {
            "session_id": session,
            "tool": tool,
            "arguments": arguments,
            **({"intent_id": ident} if ident else {}),
        }
        return example.ask(key, "POST", "/v1/intents", body)

    for key in (north, south):  # the same names for both
        assert example.ask(key, "POST", "/v1/sessions", {"session_id": "s", "goal": "prices"})[0] == 201
    status, said = ask(north, "s", "memory.write", "mine", scope="shared:prices", key="tea", value="4.20")
    assert (status, said["status"]) == (200, "released"), said
    assert ask(north, "s", "memory.read", scope="shared:prices", key="tea")[1]["result"]["value"] == "4.20"
    assert ask(south, "s", "memory.read", scope="shared:prices", key="tea")[1]["result"].get("value") is None
    assert example.ask(south, "GET", "/v1/intents/mine?wait_s=0.2")[0] == 504
    assert example.ask(north, "GET", "/v1/intents/mine?wait_s=5")[1]["status"] == "released"
    other = {"agent_id": "south-1", "session_id": "s", "tool": "desk.read", "arguments": {}}
    assert example.ask(north, "POST", "/v1/intents", other)[0] == 403
    refused, said = ask(north, "s", "send_money", recipient="DE1", amount=1)
    assert refused in (400, 403, 404) and said["error"]["stage"] == "route", said


def test_a_person_agrees_by_the_gateway(example: Example, keys: dict[str, str]) -> None:
    """It reads the ledger with its own user's rights; the arguments are sealed for it, whose home has no key store of the roles."""
    ana, body = (
        person_token("ana"),
        {"session_id": "s", "tool": "desk.ask", "arguments": {"value": "7"}, "intent_id": "held"},
    )
    assert example.ask(keys["north-1"], "POST", "/v1/intents", body)[0] == 202
    [row] = example.once(lambda _, said: said.get("approvals"), ana, "GET", "/v1/approvals")["approvals"]
    assert (row["intent_id"], row["tenant"]) == ("held", "north")
    shown = example.ask(ana, "GET", "/v1/approvals/held")[1]
    assert (shown["exact"], shown["action_digest"]) == (False, row["digest"])
    word = {"verdict": "reject", "digest": row["digest"], "why": "a drill"}
    status, said = example.ask(ana, "POST", "/v1/approvals/held", word)
    assert (status, said["word"]) == (200, "rejected"), said
    assert example.ask(keys["north-1"], "GET", "/v1/intents/held?wait_s=20")[0] == 403


def test_status_of_inputs_that_wait(example: Example, keys: dict[str, str]) -> None:
    """An operator may describe the inputs, and not read them."""
    ledger = example.running["ledger"]
    ledger.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as beside:
            body = {"session_id": "late", "goal": "prices"}
            asked = beside.submit(example.ask, keys["north-1"], "POST", "/v1/sessions", body)
            deadline = time.monotonic() + LIMIT_S
            while not any(
                p["input_lag"] for p in json.loads(example.run("init", "status", "-o", "json"))["partitions"]
            ):
                assert time.monotonic() < deadline and not asked.done()
            ledger.send_signal(signal.SIGCONT)
            # A ledger that stood too long joins its group again, which may take longer than the gateway waits.
            assert asked.result(LIMIT_S)[0] in (201, 504)
    finally:
        ledger.send_signal(signal.SIGCONT)


def test_what_an_operator_does_goes_by_the_operators_rights(example: Example, keys: dict[str, str]) -> None:
    for words in (
        ("status",), ("agents", "list"), ("quarantine", "add", "tool", "desk.pay", "--why", "a drill"), ("quarantine", "list"), ("approvals",),
        ("in-doubt", "list"), ("sessions", "list"), ("tail", "--no-follow", "-n", "5"), ("dead-letters", "list"),
        ("rollback", "list"), ("checkpoint", "list"),
    ):  # fmt: skip
        example.run("init", *words)
