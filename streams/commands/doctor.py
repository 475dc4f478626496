"""`sluicegate doctor`: what is missing or wrong here, and what to do about it.

Every check answers ok, warn or fail with one sentence; none changes anything, starts anything or waits for long.
Next: `stack.py` (what it looks at), docs/operations.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.schemas.errors import SluicegateError, Terminal, WrongUsage
from sluicegate.schemas.topics import full_name
from sluicegate.streams import (
    agent_env,
    broker_java,
    broker_process,
    control_log,
    kafka,
    releases,
    role_files,
)
from sluicegate.streams.attach import attach
from sluicegate.streams.broker_jars import JARS_SHA256
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.commands.topics import counts, judge
from sluicegate.streams.ledger import CLOCK_BACK_LIMIT_US
from sluicegate.streams.roles import ROLES
from sluicegate.streams.settings import DEFAULT_HOME, Settings

OK, WARN, FAIL = "ok", "warn", "fail"
EXIT_FOUND = 1
PYTHON_MIN = (3, 11)
DISK_FAIL_MB, DISK_WARN_MB = 1_024, 10_240
"""Below the first a broker soon stops in the middle of a segment; the second leaves time to act."""
HEALTH_LIMIT_S = 2.0
TAIL_RECORDS = 20
"""Read from the end of each ledger partition; commit markers take up to every second offset."""
READ_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One answer."""

    name: str
    verdict: str
    found: str
    todo: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def doctor(
        output: OutputOption = Format.TABLE,
        of_agent: Annotated[
            bool,
            typer.Option(
                "--agent-env", help="Check what an agent's process has instead: run it where the agent runs."
            ),
        ] = False,
        env_file: Annotated[
            Path | None,
            typer.Option(
                help="With --agent-env: variables from this file (NAME=value, or /proc/PID/environ)."
            ),
        ] = None,
        release: Annotated[
            Path | None, typer.Option(help="With --agent-env: also try the hosts of this release's tools.")
        ] = None,
    ) -> None:
        """Check this machine and this environment, e.g. `sluicegate doctor -o json`.

        `sluicegate doctor --agent-env --release release/` finds what lets an agent act past the gate: keys of providers and tools,
        the broker's credentials, open connections. No value is printed. Exit code 1 when a check fails; a warning alone is 0.
        """
        if not of_agent and (env_file or release):
            raise WrongUsage("--env-file and --release are for an agent's environment: add --agent-env")
        checks = agent_checks(env_file, release) if of_agent else examine(Settings.from_env())
        rows = [(c.name, c.verdict, c.found, c.todo) for c in checks]
        show(("check", "verdict", "found", "what to do"), rows, output)
        if any(c.verdict == FAIL for c in checks):
            raise typer.Exit(EXIT_FOUND)


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
    checks = [python(sys.version_info[:2])]
    if settings.kafka is None:
        checks += [_tried("java", java), jars(jar_folder()), ports(settings)]
    checks.append(disk(settings.home, _free_mb(settings.home)))
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


# -- this machine -------------------------------------------------------------------------------------------------------


def python(version: tuple[int, ...]) -> Check:
    """The interpreter."""
    text = ".".join(map(str, version))
    if version < PYTHON_MIN:
        return Check("python", FAIL, text, f"use Python {'.'.join(map(str, PYTHON_MIN))} or later")
    return Check("python", OK, text)


def java() -> Check:
    """A runtime for the embedded Kafka. Raises `Terminal` when there is none."""
    return Check("java", OK, f"major version {broker_java.find_java().major}")


def jar_folder() -> Path | None:
    """Where jgo keeps jars; None without jgo."""
    try:
        from jgo.config import GlobalSettings
    except ImportError:
        return None
    return Path(GlobalSettings.load().repo_cache)


def jars(folder: Path | None) -> Check:
    """Whether the embedded Kafka can start without the network."""
    if folder is None:
        return Check(
            "jars",
            FAIL,
            "the package jgo is missing",
            "install `sluicegate[embedded]` or set SLUICEGATE_KAFKA",
        )
    missing = 0
    for coordinates in JARS_SHA256:
        group, name, version = coordinates.split(":")
        place = folder.joinpath(*group.split("."), name, version)
        missing += not any(place.glob(f"{name}-{version}*.jar"))
    if missing:
        todo = f"nothing: the first `sluicegate up` fetches {broker_java.FETCH_SIZE_MB} MB, so it needs the network"
        return Check("jars", WARN, f"{missing} of {len(JARS_SHA256)} are not cached", todo)
    return Check("jars", OK, f"{len(JARS_SHA256)} cached, Kafka {broker_java.KAFKA_VERSION}")


def ports(settings: Settings) -> Check:
    """Loopback can be listened on, and the broker's own port is its own."""
    started = broker_process.last_started(settings.home / "kafka")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        return Check("ports", FAIL, f"no port of 127.0.0.1 can be bound: {error}", "allow loopback sockets")
    if started is None or broker_process.find(started) is not None:
        return Check("ports", OK, "loopback is free" if started is None else f"kafka has {started.port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", started.port))
        except OSError:
            todo = "nothing: kafka takes another port; tell clients that have the old one in SLUICEGATE_KAFKA"
            return Check("ports", WARN, f"another program has kafka's last port {started.port}", todo)
    return Check("ports", OK, f"kafka's last port {started.port} is free")


def _free_mb(home: Path) -> int:
    existing = next(p for p in (home, *home.parents) if p.exists())
    return shutil.disk_usage(existing).free // (1024 * 1024)


def disk(home: Path, free_mb: int) -> Check:
    """Space for Kafka's log, ClickHouse and the key store."""
    found = f"{free_mb / 1024:,.1f} GB free for the state directory"
    if free_mb < DISK_FAIL_MB:
        return Check("disk", FAIL, found, "make space, or set SLUICEGATE_HOME to a larger disk")
    if free_mb < DISK_WARN_MB:
        return Check(
            "disk", WARN, found, "make space before it is below 1 GB, or set SLUICEGATE_HOME to a larger disk"
        )
    return Check("disk", OK, found)


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
            todo = f"start one: `sluicegate worker --role {role}`, unless it runs elsewhere"
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
