"""The embedded Kafka's directory: its configuration, its users, its formatted storage, its lock.

Never starts the broker, never opens a port, and never lets a password reach a command line.
Read next: `streams/broker.py`, which runs what is prepared here; `streams/embedded/java.py`, the programs.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sluicegate.schemas.errors import Terminal

FORMAT_LIMIT_S = 60
SCRAM_ITERATIONS = 8_192  # twice the least that Kafka accepts
INTERNAL_PARTITIONS = 8  # of each internal topic; the default of 50 makes the first start slower for nothing
CLEANER_BUFFER_BYTES = 16 * 1024 * 1024  # compaction's key table; the default takes 128 MB of the heap
ADMIN_USER = "admin"
CONTROLLER_USER = "sluicegate-controller"  # only the broker's own loopback connection to its controller

_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_users(sasl: Mapping[str, str]) -> None:
    """`Terminal` when a user name or password cannot be given to Kafka."""
    if ADMIN_USER not in sasl:
        raise Terminal(f"the embedded kafka needs a user `{ADMIN_USER}` when it asks for passwords: add it")
    for user, password in sasl.items():
        if not _USER.fullmatch(user) or user == CONTROLLER_USER:
            raise Terminal(
                f"the kafka user `{user}` is not allowed: use up to 64 letters, digits, `.`, `_` and `-`"
            )
        if not password or not password.isprintable():
            raise Terminal(f"the password of `{user}` is empty or has control characters: choose another one")


def server_properties(port: int, controller_port: int, sasl: Mapping[str, str] | None) -> str:
    """The broker's configuration; it holds passwords with `sasl`, so write it for the owner only.

    Paths in it are relative to the broker's working directory, so the whole directory may be moved.
    """
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"BROKER://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "BROKER",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "data",
        # A topic that appears because of a typo would have the wrong settings for ever.
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "offsets.topic.num.partitions": str(INTERNAL_PARTITIONS),
        "transaction.state.log.num.partitions": str(INTERNAL_PARTITIONS),
        "group.initial.rebalance.delay.ms": "0",
        # A laptop may sleep for weeks: the broker must not forget positions and epochs meanwhile. Both settings are
        # 32-bit numbers: ten years in minutes, and the largest there is, 24 days, in milliseconds.
        "offsets.retention.minutes": str(10 * 365 * 24 * 60),
        "transactional.id.expiration.ms": str(2**31 - 1),
        # Topics set their own retention; nothing goes because a default said so.
        "log.retention.ms": "-1",
        "log.retention.bytes": "-1",
        # What a topic lets go is gone soon after, not up to five minutes later: one node has few segments to look at.
        "log.retention.check.interval.ms": "10000",
        # 1 MB and the overhead of a batch: content that is larger belongs in chunks.
        "message.max.bytes": str(1024 * 1024 + 12),
        "log.cleaner.dedupe.buffer.size": str(CLEANER_BUFFER_BYTES),
        "num.network.threads": "2",
        "num.io.threads": "4",
        # After a kill the controller, which starts with it, holds the broker's name for one session: with the default
        # of 9 s it took 11 s to come back, with 3 s it takes 4.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }
    if sasl is not None:
        properties.update(_sasl_properties(sasl[ADMIN_USER]))
    return "".join(f"{name}={_property(value)}\n" for name, value in properties.items())


def _sasl_properties(admin_password: str) -> dict[str, str]:
    # SCRAM users live in the metadata log, which the controller serves: it cannot use them for its own listener.
    # That one gets a fresh password with every start, known to nobody but this process's own two halves.
    secret = secrets.token_urlsafe(24)
    module = "org.apache.kafka.common.security"
    return {
        "listener.security.protocol.map": "BROKER:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "listener.name.broker.sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.broker.scram-sha-256.sasl.jaas.config": (
            f'{module}.scram.ScramLoginModule required username="{ADMIN_USER}" password={_jaas(admin_password)};'
        ),
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-256",
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": (
            f'{module}.plain.PlainLoginModule required username="{CONTROLLER_USER}" password="{secret}" '
            f'user_{CONTROLLER_USER}="{secret}";'
        ),
        "sasl.mechanism.controller.protocol": "PLAIN",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN_USER};User:{CONTROLLER_USER}",
        "allow.everyone.if.no.acl.found": "false",
    }


def _jaas(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _property(value: str) -> str:
    """Java reads properties as ISO 8859-1 with backslash escapes, in UTF-16 units."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    chars = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(c) if 0x20 <= c < 0x7F else f"\\u{c:04x}" for c in chars)


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once by a file that only its owner can read."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def cluster_id(directory: Path) -> str | None:
    """The identity that `format_storage` gave the data under `directory`; None when there is none yet."""
    try:
        meta = (directory / "data" / "meta.properties").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    found = re.search(r"^cluster\.id=(.+)$", meta, re.MULTILINE)
    return found.group(1).strip() if found else None


def format_storage(directory: Path, java: Path, classpath: str, sasl: Mapping[str, str] | None) -> str:
    """Prepare empty storage beside `server.properties` and return the new cluster id; `Terminal` when it fails."""
    new_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    if new_id.startswith("-"):  # Kafka's own generator avoids these too: they look like an option
        new_id = "A" + new_id[1:]
    arguments = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp", classpath]
    arguments += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "kafka.tools.StorageTool"]
    arguments += ["format", "--ignore-formatted", "-t", new_id, "-c", "server.properties"]
    for user, password in (sasl or {}).items():
        arguments += ["--add-scram", _scram(user, password)]
    # Secrets go through a file: every user of the machine can see a command line.
    file = directory / "format.args"
    write_private(file, "\n".join(_jaas(argument) for argument in arguments) + "\n")
    try:
        done = subprocess.run(
            [java, f"@{file.name}"],
            cwd=directory,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=FORMAT_LIMIT_S,
            check=False,
        )
    finally:
        file.unlink(missing_ok=True)
    if done.returncode != 0 or cluster_id(directory) is None:
        said = " ".join((done.stderr + done.stdout).split())[-500:]
        raise Terminal(
            f"kafka could not prepare its storage in `{directory}`: {said}: is the disk full or read-only"
        )
    return new_id


def _scram(user: str, password: str) -> str:
    """Salted here, so that no password ever leaves this process in the clear."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    encoded, secret = (base64.b64encode(value).decode() for value in (salt, salted))
    return f'SCRAM-SHA-256=[name="{user}",iterations={SCRAM_ITERATIONS},salt="{encoded}",saltedpassword="{secret}"]'


def child_environment() -> dict[str, str]:
    """Only what Java needs: our own environment may hold passwords, and JAVA_TOOL_OPTIONS would change the broker."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ}
