"""What is missing or wrong in an environment, or in an agent's, and what to do about it.

Every check answers ok, warn or fail with one sentence; none changes anything, starts anything or waits for long.
Next: `doctor_machine.py` (this machine), `agent_env.py` (an agent's), `stack.py` (what it looks at), docs/operations.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.schemas.topics import full_name
from sluicegate.streams import agent_env, doctor_machine, kafka, role_files
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.doctor_machine import FAIL, OK, WARN, Check
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.ledger import CLOCK_BACK_LIMIT_US
from sluicegate.streams.roles import ROLES
from sluicegate.streams.settings import DEFAULT_HOME, Settings
from sluicegate.streams.topics import counts, judge

HEALTH_LIMIT_S = 2.0
TAIL_RECORDS = 20
"""Read from the end of each ledger partition; commit markers take up to every second offset."""
READ_LIMIT_S = 5.0


def agent_checks(env_file: Path | None, release: Path | None) -> list[Check]:
    """What an agent's process has that lets it act past the gate. Raises `Terminal` for a file that cannot be read."""
    environ: Mapping[str, str] = os.environ
    if env_file is not None:
        try:
            environ = agent_env.read_environ(env_file.read_text("utf-8", "replace"))
        except OSError as error:
            raise Terminal(
                f"the file `{env_file}` cannot be read ({error.strerror}): name another"
            ) from error
    urls = [] if release is None else agent_env.urls_of(releases.read_folder(release))
    found = agent_env.look(environ) + agent_env.keys_in(Path(environ.get("SLUICEGATE_HOME") or DEFAULT_HOME))
    hosts = agent_env.hosts_of(urls, environ)
    found += asyncio.run(agent_env.reached(hosts))
    checks = [Check(f.what, FAIL if f.grave else WARN, f.where, f.todo) for f in found]
    if not found:
        checks.append(
            Check("agent", OK, f"{len(environ)} variables, {len(hosts)} hosts: nothing leads past the gate")
        )
    return checks


def examine(settings: Settings) -> list[Check]:
    """Every check, in the order in which things depend on each other."""
    here = doctor_machine
    checks = [here.python(sys.version_info[:2])]
    if settings.kafka is None:
        checks += [_tried("java", here.java), here.jars(here.jar_folder()), here.ports(settings)]
    checks.append(here.disk(settings.home, here.free_mb(settings.home)))
    checks += _kafka(settings)
    checks.append(_tried("clickhouse", lambda: clickhouse(settings)))
    checks += roles(settings.home)
    return checks


def _tried(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except SluicegateError as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Check:
    """Our errors end with what to do, after the first `: ` or `, `; whole, they read best as one sentence."""
    return Check(name, FAIL, "not usable", str(error))


# -- Kafka ----------------------------------------------------------------------------------------------------------------


def _kafka(settings: Settings) -> list[Check]:
    try:
        attached = attach(settings)
        asyncio.run(kafka.probe(attached))
    except SluicegateError as error:
        return [_failed("kafka", error)]
    return [Check("kafka", OK, f"answers at {attached.kafka}"), *asyncio.run(_environment(attached))]


async def _environment(settings: Settings) -> list[Check]:
    try:
        wrong = [
            f"{name} {state}" for name, _, state in judge(settings, await counts(settings)) if state != "ok"
        ]
    except (SluicegateError, KafkaError) as error:
        return [_failed("topics", error)]
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        return [
            Check(
                "topics",
                FAIL,
                shown,
                "run `sluicegate topics create`; for a wrong count use another SLUICEGATE_ENV",
            )
        ]
    checks = [Check("topics", OK, f"all of environment `{settings.env}`")]
    try:
        control = (await control_log.read(settings)).control
        checks += governed(
            control.head, control.deployed, control.partitions, control.published.get(control.deployed, "")
        )
        if control.partitions:
            checks.append(clock(time.time_ns() // 1000, await _last_decided(settings, control.partitions)))
    except (SluicegateError, KafkaError, TimeoutError) as error:
        checks.append(_failed("control", error))
    return checks


def governed(head: int, deployed: str, partitions: int, release: str) -> Iterator[Check]:
    """Genesis, and a release to decide by."""
    if head < 0:
        yield Check("control", FAIL, "no genesis", "run `sluicegate topics create`")
        return
    yield Check("control", OK, f"event {head}, {partitions} partitions")
    if not deployed:
        todo = (
            "deploy one: `sluicegate deploy examples/release`; until then everything is refused `no_release`"
        )
        yield Check("release", WARN, "none is deployed", todo)
    else:
        yield Check("release", OK, f"{release} {deployed[:19]}".strip())


async def _last_decided(settings: Settings, partitions: int) -> int:
    """Microseconds of the newest ledger record, 0 for an empty ledger."""
    places = [TopicPartition(full_name(settings.space, "outcomes"), p) for p in range(partitions)]
    consumer = await kafka.connect(kafka.consumer(settings))
    newest = 0
    try:
        consumer.assign(places)
        ends, begins = await consumer.end_offsets(places), await consumer.beginning_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - TAIL_RECORDS))
        async with asyncio.timeout(READ_LIMIT_S):
            for place in places:
                while await consumer.position(place) < ends[place]:
                    found = await consumer.getmany(place, timeout_ms=200)
                    newest = max([newest, *(r.timestamp * 1000 for r in found.get(place, ()))])
    finally:
        await consumer.stop()
    return newest


def clock(wall_us: int, ledger_us: int) -> Check:
    """This machine's clock against the newest decision."""
    behind = ledger_us - wall_us
    if behind > CLOCK_BACK_LIMIT_US:
        todo = "set this machine's clock (NTP); until then its ledger partitions stop with clock_backwards"
        return Check("clock", FAIL, f"{behind / 1e6:.1f} s behind the ledger", todo)
    if behind > 1_000_000:
        return Check(
            "clock", WARN, f"{behind / 1e6:.1f} s behind the ledger", "set this machine's clock (NTP)"
        )
    return Check("clock", OK, "not behind the ledger" if ledger_us else "the ledger is empty")


# -- ClickHouse, roles ------------------------------------------------------------------------------------------------------


def clickhouse(settings: Settings) -> Check:
    """Whether it answers. Raises `Terminal` or `Retryable` when it does not."""
    from sluicegate.sinks.embedded import connect

    client = connect(settings)
    try:
        return Check("clickhouse", OK, f"version {client.server_version}")
    finally:
        client.close()


def roles(home: Path) -> list[Check]:
    """A check for each role: a process that answers /health here."""
    checks = []
    for role in ROLES:
        found = [_role(role, path) for path in role_files.role_files(home, role)]
        if not found:
            command = "gateway" if role == "gateway" else f"worker --role {role}"
            todo = f"start one: `sluicegate {command}`, unless it runs elsewhere"
            found = [Check(f"role {role}", WARN, "no process here", todo)]
        checks += found
    return checks


def _role(role: str, path: Path) -> Check:
    name = f"role {role}"
    found = role_files.read(path)
    if found is None:
        return Check(name, WARN, f"`{path.name}` cannot be read", "remove that file")
    pid, port = found
    if not found.alive:
        return Check(
            name,
            FAIL,
            f"process {pid} is gone without a word",
            "see its log in logs/, remove that file, start it again",
        )
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=HEALTH_LIMIT_S):
            return Check(name, OK, f"process {pid} at port {port}")
    except urllib.error.HTTPError as error:
        with error:
            said = _problem(error.read())
        return Check(name, FAIL, f"process {pid} says: {said}", "see its log in logs/ and docs/operations.md")
    except OSError as error:
        return Check(
            name, FAIL, f"process {pid} does not answer at port {port}: {error}", "see its log in logs/"
        )


def _problem(body: bytes) -> str:
    try:
        return str(json.loads(body)["problem"])[:200]
    except (ValueError, KeyError, TypeError):
        return "not alive"
