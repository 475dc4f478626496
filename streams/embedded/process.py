"""The embedded Kafka's process: starting it, finding it again from any process, and never leaving it behind.

Never speaks Kafka: whether the broker works is for `streams/embedded/ready.py` to ask. A process is only ever signalled
by an id whose start time matches the one written down when it was started.
Read next: `streams/broker.py`, which puts the parts together.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
from sluicegate.streams.embedded.files import child_environment, write_private

STOP_LIMIT_S = 30  # then SIGKILL; under 1 s is usual, 3 s when the class archive is written
CLOCK_TOLERANCE_S = 2.0  # process start times are rounded, and follow the clock when it is set
POLL_S = 0.02
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 64 * 1024

# Waits for the end of its input, which is the end of whoever started the broker, however that came.
_WATCHDOG = """
import sys, psutil
pid, created_s, tolerance_s, limit_s = int(sys.argv[1]), *map(float, sys.argv[2:])
sys.stdin.buffer.read()
try:
    broker = psutil.Process(pid)
    if abs(broker.create_time() - created_s) < tolerance_s:
        broker.terminate()
        try:
            broker.wait(limit_s)
        except psutil.TimeoutExpired:
            broker.kill()
except psutil.NoSuchProcess:
    pass
"""


@dataclass(frozen=True, slots=True)
class Started:
    """What `broker.json` says of the broker that was started last, dead or alive."""

    pid: int
    created_s: float  # since the epoch, as the system says: with the pid it names one process for ever
    port: int
    controller_port: int
    sasl: bool
    archive: str | None  # where the class archive goes that this run writes on exit

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    def save(self, directory: Path) -> None:
        """Write it down for every other process."""
        write_private(directory / "broker.json", json.dumps(asdict(self)))


# The children of this process by broker pid: the broker, and the watchdog if it has one. Not on an object, because
# a caller may drop the object and keep the address, and a watchdog whose pipe closes ends the broker.
_children: dict[int, tuple[subprocess.Popen[bytes], subprocess.Popen[bytes] | None]] = {}


def last_started(directory: Path) -> Started | None:
    """What was started last in `directory`; None when nothing was, or only by another version."""
    try:
        return Started(**json.loads((directory / "broker.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def find(started: Started | None) -> psutil.Process | None:
    """Its process, if that lives and is not a later stranger with the same id."""
    if started is None:
        return None
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.created_s) < CLOCK_TOLERANCE_S
    except psutil.NoSuchProcess:
        return None
    return process if same and alive(process) else None


def alive(process: psutil.Process) -> bool:
    """False once it has ended, even if its parent has not taken note of that yet."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def spawn(command: Sequence[str], directory: Path, log: Path) -> psutil.Process:
    """Start the broker in `directory`, everything it says going to `log`."""
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            cwd=directory,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches the whole group: the broker must outlive its clients' goodbyes.
            start_new_session=True,
        )
    _children[child.pid] = (child, None)
    return psutil.Process(child.pid)


def watch(started: Started) -> None:
    """End the broker when this process ends, even by SIGKILL."""
    numbers = (started.pid, started.created_s, CLOCK_TOLERANCE_S, STOP_LIMIT_S)
    # A pipe and not PR_SET_PDEATHSIG: that is Linux only, and fires when the *thread* that started the child ends.
    watchdog = subprocess.Popen(
        [sys.executable, "-I", "-c", _WATCHDOG, *map(str, numbers)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _children[started.pid] = (_children[started.pid][0], watchdog)


def terminate(process: psutil.Process) -> bool:
    """SIGTERM, and SIGKILL after `STOP_LIMIT_S`; True when the first was enough."""
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return True
    if _gone(process, STOP_LIMIT_S):
        return True
    kill(process)
    return False


def kill(process: psutil.Process) -> None:
    """SIGKILL, and wait until it is gone."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
    _gone(process, STOP_LIMIT_S)


def _gone(process: psutil.Process, limit_s: float) -> bool:
    """Wait for its end. Not `process.wait()`: the dead child of another process stays listed, perhaps for ever."""
    deadline = time.monotonic() + limit_s
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def bury(pid: int) -> None:
    """After the broker's end: take its exit status and end its watchdog. Nothing for a stranger's child."""
    child, watchdog = _children.pop(pid, (None, None))
    if child is not None:
        child.wait()
    if watchdog is not None and watchdog.stdin is not None:
        watchdog.stdin.close()
        watchdog.wait()


def tail(log: Path) -> str:
    """The end of the log; frames of stack traces are left out, they push the reason off the page."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return f"there is no log at `{log}`"
    lines = [line for line in lines if line.strip() and not line.startswith(("\tat ", "\t..."))]
    if not lines:
        return f"its log `{log}` is empty"
    return f"the end of `{log}`:\n" + "\n".join(lines[-LOG_TAIL_LINES:])


def free_ports(*preferred: int) -> tuple[int, ...]:
    """As many different free ports on loopback, the preferred ones where possible (0 = any)."""
    held: list[socket.socket] = []
    try:
        for port in preferred:
            held.append(_bound(port))
        return tuple(int(one.getsockname()[1]) for one in held)
    finally:
        for one in held:
            one.close()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    if os.name == "posix":  # as Java does: a port in TIME_WAIT after the last run counts as free
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.bind(("127.0.0.1", 0))
    return bound
