"""What `sluicegate doctor` looks at on this machine: the interpreter, Java and its jars, ports, disk.

Each check answers ok, warn or fail with one sentence; none changes anything. Next: `doctor.py` (the environment).
"""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from sluicegate.streams.embedded import java as broker_java
from sluicegate.streams.embedded import process as broker_process
from sluicegate.streams.embedded.jars import JARS_SHA256
from sluicegate.streams.settings import Settings

OK, WARN, FAIL = "ok", "warn", "fail"
PYTHON_MIN = (3, 11)
DISK_FAIL_MB, DISK_WARN_MB = 1_024, 10_240
"""Below the first a broker soon stops in the middle of a segment; the second leaves time to act."""


@dataclass(frozen=True, slots=True)
class Check:
    """One answer."""

    name: str
    verdict: str
    found: str
    todo: str = ""


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


def free_mb(home: Path) -> int:
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
