"""The embedded ClickHouse as the rest of Sluicegate sees it: start it, find it, connect to it or to your own server.

One chDB process for a state directory: whoever asks second finds the first one's. Never downloads anything and never
listens beyond this machine. Read next: `chdb_server.py` (the process), `ddl.py` (the schema), `clickhouse.py` (the sink).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import psutil
from clickhouse_connect.driver.client import Client
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.sinks.connection import open_client
from sluicegate.sinks.ddl import ensure_schema
from sluicegate.streams.file_lock import locked
from sluicegate.streams.settings import Settings

__all__ = ["EmbeddedClickHouse", "connect", "database", "ensure_schema"]

START_LIMIT_S = 60  # a loaded machine with two cores; 2 s is usual
STOP_LIMIT_S = 20  # then SIGKILL; the server itself cuts queries after 10 s
LOCK_LIMIT_S = START_LIMIT_S + STOP_LIMIT_S  # another process may be stopping it, then starting it
POLL_S = 0.05
PING_LIMIT_S = 2.0
CLOCK_TOLERANCE_S = 2.0  # process start times are rounded, and follow the clock when it is set
LOG_TAIL_BYTES = 2_000
SINK_USER = "sluicegate_sink"

Role = Literal["reader", "sink"]

# What this process started with `die_with_parent`: the server ends when its standard input does, so it has to stay
# open even when the object that started it is gone.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class _Running:
    """What `server.json` says of the server that was started last."""

    pid: int
    created_s: float
    port: int


class EmbeddedClickHouse:
    """One chDB server under `home/clickhouse`.

    With `die_with_parent` (the default) it ends with the process that started it, even by SIGKILL. All methods block
    and are safe to call from several processes.
    """

    def __init__(self, home: Path, *, die_with_parent: bool = True) -> None:
        self._directory = home.absolute() / "clickhouse"
        self._die_with_parent = die_with_parent
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the server started last; `Terminal` when there was none."""
        state = self._state()
        if state is None:
            raise Terminal(
                f"no embedded clickhouse was started in `{self._directory}`: start it with `sluicegate up`"
            )
        return f"http://127.0.0.1:{state.port}"

    @property
    def running(self) -> bool:
        """True while its process lives, whoever started it."""
        return self._process() is not None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process()
        return None if process is None else int(process.pid)

    @property
    def key(self) -> str:
        """What the sink proves itself with."""
        return (self._directory / "sink.key").read_text(encoding="utf-8")

    def start(self) -> str:
        """Start it, or find it running, and return its url once it answers; `Retryable` when it does not come up."""
        with self._locked():
            if self._process() is None:
                self._launch()
            self._await_ready()
        return self.url

    def stop(self) -> None:
        """End it cleanly, whoever started it; SIGKILL after `STOP_LIMIT_S`. Nothing happens when it is not running."""
        with self._locked():
            self._end(kill=False)

    def kill(self) -> None:
        """SIGKILL, as a crash would; nothing happens when it is not running."""
        self._end(kill=True)

    def connect(self, role: Role = "reader", database: str | None = None) -> Client:
        """A client of the server started last."""
        user = (SINK_USER, self.key) if role == "sink" else ("", "")
        return open_client(self.url, *user, database)

    def __enter__(self) -> EmbeddedClickHouse:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._child is not None:
            self.stop()

    # Finding it.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._directory / "lock", LOCK_LIMIT_S, "the embedded clickhouse"):
            yield

    def _state(self) -> _Running | None:
        try:
            return _Running(**json.loads((self._directory / "server.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # a file of another version is no server of ours
            return None

    def _process(self) -> psutil.Process | None:
        """The server's process, if the one with its id is not a later stranger and not dead and unburied."""
        for child in _children:
            child.poll()
        state = self._state()
        if state is None:
            return None
        try:
            process = psutil.Process(state.pid)
            same = abs(process.create_time() - state.created_s) < CLOCK_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    # Starting and ending it.

    def _launch(self) -> None:
        """On the same port as before, so that an analyst's bookmark lives; on another one when somebody has it."""
        self._forget_child()
        before = self._state()
        port = 0 if before is None else before.port
        try:
            self._run(port)
        except Retryable:
            if port == 0:
                raise
            self._run(0)

    def _run(self, port: int) -> None:
        port_file = self._directory / "port"
        port_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-P",
            "-m",
            "sluicegate.sinks.chdb_server",
            "--data",
            str(self._directory / "data"),
        ]
        command += ["--port", str(port), "--port-file", str(port_file)]
        if self._die_with_parent:
            command.append("--die-with-parent")
        with (self._directory / "server.log").open("wb") as log:
            child = subprocess.Popen(
                command,
                cwd=self._directory,
                stdin=subprocess.PIPE if self._die_with_parent else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must not end it before its clients
            )
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while not port_file.exists():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise Retryable(
                        f"the embedded clickhouse did not start: {self._tail()}", retry_after_s=5.0
                    )
                time.sleep(POLL_S)
            created_s = psutil.Process(child.pid).create_time()
            state = _Running(child.pid, created_s, int(port_file.read_text(encoding="utf-8")))
            partial = self._directory / "server.json.part"
            partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
            partial.replace(self._directory / "server.json")
        except BaseException:
            child.kill()
            child.wait()
            raise
        self._child = child
        _children.append(child)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process() is None:
                raise Retryable(f"the embedded clickhouse died: {self._tail()}", retry_after_s=5.0)
            try:
                with urllib.request.urlopen(f"{self.url}/ping", timeout=PING_LIMIT_S):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_S)
        raise Retryable(
            f"the embedded clickhouse does not answer at `{self.url}`: {self._tail()}", retry_after_s=5.0
        )

    def _end(self, *, kill: bool) -> None:
        process = self._process()
        if process is not None:
            process.kill() if kill else process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait()
        self._forget_child()

    def _forget_child(self) -> None:
        if self._child is not None:
            self._child.wait(STOP_LIMIT_S)
            if self._child.stdin is not None:
                self._child.stdin.close()
            _children.remove(self._child)
            self._child = None

    def _tail(self) -> str:
        try:
            text = (self._directory / "server.log").read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        except OSError:
            text = ""
        return " | ".join(text.strip().splitlines()[-5:]) or "its log is empty"


def database(settings: Settings) -> str:
    """The environment's database: the one in `SLUICEGATE_CLICKHOUSE`, or the environment's name."""
    path = unquote(urlsplit(settings.clickhouse).path.strip("/")) if settings.clickhouse else ""
    return path or settings.env


def connect(where: Settings | str, role: Role = "reader", database: str | None = None) -> Client:
    """A client of your own server (`SLUICEGATE_CLICKHOUSE`, or a url) or of the embedded one of these settings.

    A url's user and password are used for both roles: what they may do is your server's to say. No database is
    selected unless named, because it may not exist yet. Safe to use from several threads at once.
    Raises `Retryable` when it does not answer.
    """
    if isinstance(where, Settings) and where.clickhouse is None:
        return EmbeddedClickHouse(where.home).connect(role, database)
    url = where if isinstance(where, str) else where.clickhouse
    assert url is not None
    parts = urlsplit(url)
    return open_client(url, unquote(parts.username or ""), unquote(parts.password or ""), database)
