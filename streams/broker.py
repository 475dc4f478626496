"""The embedded Kafka: one real Apache Kafka (KRaft, one node) as a child process, on loopback, data kept.

Never listens beyond 127.0.0.1, never replicates, never creates topics: it is for development, tests and one
machine. Started once per state directory: every other process that asks finds the same broker.
Read next: `streams/embedded/java.py` (Java, jars), `streams/embedded/files.py` (configuration, storage),
`streams/embedded/process.py` (its process), `streams/kafka.py` (clients).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams import file_lock, kafka
from sluicegate.streams.embedded import files as files
from sluicegate.streams.embedded import java as java
from sluicegate.streams.embedded import process as process
from sluicegate.streams.embedded import ready as ready
from sluicegate.streams.settings import KafkaSecurity, Settings

START_LIMIT_S = 90  # a loaded machine with two cores; 2 s is usual
LOCK_LIMIT_S = java.FETCH_LOCK_LIMIT_S + START_LIMIT_S  # another process may be fetching, then starting
PORT_ATTEMPTS = 5  # a port found free may be taken before the broker binds it

Progress = Callable[[str], None]


class _PortTaken(Exception):
    """Somebody else bound our port first."""


class EmbeddedBroker:
    """One Kafka broker under `home/kafka`.

    `sasl` maps user names to passwords (SCRAM-SHA-256): then every client must log in, `admin` may do everything
    and the others nothing until an ACL says so. The users are fixed when the data is first created.
    With `die_with_parent` (the default) the broker ends with the process that started it, even by SIGKILL.
    Everything blocks and is safe to call from several processes. As a context manager it stops only what it started.
    """

    def __init__(
        self,
        home: Path,
        *,
        sasl: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        die_with_parent: bool = True,
    ) -> None:
        if sasl is not None:
            files.check_users(sasl)
        self._directory = home.absolute() / "kafka"
        self._sasl = None if sasl is None else dict(sasl)
        self._progress = progress or (lambda message: None)
        self._die_with_parent = die_with_parent
        self._started_here = False

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port` of the broker started last; `Terminal` when there was none."""
        started = process.last_started(self._directory)
        if started is None:
            raise Terminal(
                f"no embedded kafka was started in `{self._directory}`: start it with `sluicegate up`"
            )
        return started.bootstrap

    @property
    def running(self) -> bool:
        """True while its process lives, whoever started it."""
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        found = process.find(process.last_started(self._directory))
        return None if found is None else int(found.pid)

    @property
    def log(self) -> Path:
        """Warnings and errors of the current run; those of the run before are beside it, in `broker.log.1`."""
        return self._directory / "broker.log"

    def security(self, user: str = files.ADMIN_USER) -> KafkaSecurity:
        """How `user` logs in; without `sasl` nobody has to."""
        if self._sasl is None:
            return KafkaSecurity()
        return KafkaSecurity("SASL_PLAINTEXT", "SCRAM-SHA-256", user, self._sasl[user])

    def check(self) -> None:
        """Raise `Retryable` with the end of its log when it is not running any more."""
        if not self.running:
            raise Retryable(
                f"the embedded kafka is not running: start it with `sluicegate up`; {process.tail(self.log)}"
            )

    def start(self) -> str:
        """Start it, or find it running, and return its bootstrap servers once it answers.

        Raises `Retryable` when it cannot be fetched or does not come up, `Terminal` when somebody has to act; the
        last lines of its log are in the message.
        """
        with self._locked():
            started = process.last_started(self._directory)
            if started is not None and process.find(started) is not None:
                if started.sasl != (self._sasl is not None):
                    raise Terminal(
                        f"an embedded kafka {'with' if started.sasl else 'without'} passwords already runs in "
                        f"`{self._directory}`: end the `sluicegate up` that started it, or `kill {started.pid}`, first"
                    )
                try:
                    self._await_ready(started)
                except _PortTaken:  # its starter was killed, then it died of the port
                    started = self._launch(started)
            else:
                started = self._launch(started)
        self._progress(f"Kafka {java.KAFKA_VERSION} is up at {started.bootstrap}")
        return started.bootstrap

    def stop(self) -> None:
        """End it cleanly, whoever started it, with SIGKILL after 30 s; nothing happens when it is not running."""
        with self._locked():
            started = process.last_started(self._directory)
            if started is None:
                return
            if (found := process.find(started)) is not None and process.terminate(found) and started.archive:
                java.keep_archive(self._directory, Path(started.archive))
            process.bury(started.pid)
        self._started_here = False

    def kill(self) -> None:
        """SIGKILL, as a crash would; nothing happens when it is not running."""
        started = process.last_started(self._directory)
        if started is None:
            return
        if (found := process.find(started)) is not None:
            process.kill(found)
        process.bury(started.pid)
        self._started_here = False

    def restart(self) -> str:
        """Stop it cleanly and start it again with the same data, on the same port when that is free."""
        self.stop()
        return self.start()

    def wipe(self) -> None:
        """Delete its data for ever; `Terminal` while it runs."""
        with self._locked():
            if self.running:
                raise Terminal(
                    "the embedded kafka is running: end the `sluicegate up` that started it before wiping its data"
                )
            for path in self._directory.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._started_here:
            self.stop()

    def _locked(self) -> AbstractContextManager[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return file_lock.locked(self._directory / "lock", LOCK_LIMIT_S, "the embedded kafka")

    def _launch(self, before: process.Started | None) -> process.Started:
        if before is not None:
            process.bury(before.pid)
        runtime = java.find_java()
        jars = java.fetch_jars(self._progress)
        self._check_same_users()
        if self.log.exists():
            self.log.replace(self.log.with_name("broker.log.1"))
        preferred = (before.port, before.controller_port) if before else (0, 0)
        for _ in range(PORT_ATTEMPTS):
            port, controller_port = process.free_ports(*preferred)
            properties = files.server_properties(port, controller_port, self._sasl)
            files.write_private(self._directory / "server.properties", properties)
            if files.cluster_id(self._directory) is None:
                self._progress("preparing kafka's storage")
                files.format_storage(self._directory, runtime.executable, java.classpath(jars), self._sasl)
            self._progress(f"starting Kafka {java.KAFKA_VERSION}")
            try:
                return self._run(runtime, jars, port, controller_port)
            except _PortTaken:
                preferred = (0, 0)
        raise Retryable(f"{PORT_ATTEMPTS} pairs of free ports were taken before kafka had them: try again")

    def _check_same_users(self) -> None:
        """The users are part of the data: other ones would be refused later without a reason to be seen."""
        path = self._directory / "users.json"
        users = None if self._sasl is None else sorted(self._sasl)
        if files.cluster_id(self._directory) is None:
            files.write_private(path, json.dumps(users))
            return
        created = json.loads(path.read_text(encoding="utf-8")) if path.exists() else users
        if created != users:
            names = "without users" if created is None else f"for the users `{'`, `'.join(created)}`"
            raise Terminal(
                f"the kafka data in `{self._directory}` was created {names}: use the same or wipe it first"
            )

    def _run(self, runtime: java.Java, jars: list[Path], port: int, controller_port: int) -> process.Started:
        """Start the process and wait for it; on any failure, even Ctrl-C, it is gone again."""
        archive = java.class_archive(runtime, jars)
        child = process.spawn(java.command(runtime, jars, archive), self._directory, self.log)
        try:
            started = process.Started(
                pid=child.pid,
                created_s=child.create_time(),
                port=port,
                controller_port=controller_port,
                sasl=self._sasl is not None,
                archive=None if archive is None or archive.exists() else str(archive),
            )
            started.save(self._directory)
            if self._die_with_parent:
                process.watch(started)
            self._await_ready(started)
        except BaseException:
            process.kill(child)
            process.bury(child.pid)
            raise
        self._started_here = True
        return started

    def _await_ready(self, started: process.Started) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            if process.find(started) is None:
                said = process.tail(self.log)
                if "Address already in use" in said:
                    raise _PortTaken
                raise Retryable(f"the embedded kafka died while starting: {said}", retry_after_s=5.0)
            try:
                found_id = ready.cluster_id(started.bootstrap, self.security())
                break
            except Retryable as error:
                if time.monotonic() > deadline:
                    raise Retryable(
                        f"the embedded kafka (process {started.pid}) did not answer within {START_LIMIT_S} s ({error}): "
                        f"`kill {started.pid}` and try again; {process.tail(self.log)}",
                        retry_after_s=5.0,
                    ) from error
            time.sleep(process.POLL_S)
        if found_id != files.cluster_id(self._directory):
            raise Terminal(
                f"another kafka answers at `{started.bootstrap}`: stop it, or remove `{self._directory}/broker.json`"
            )


def ensure_broker(
    settings: Settings, progress: Progress | None = None, *, die_with_parent: bool = True
) -> tuple[str, EmbeddedBroker | None]:
    """Bootstrap servers that answer, and the embedded broker behind them if there is one.

    With `settings.kafka` it is your own cluster: nothing is started, only asked. Raises as `EmbeddedBroker.start`
    and `kafka.probe`.
    """
    if settings.kafka is not None:
        ready.in_thread(kafka.probe(settings))
        return settings.kafka, None
    broker = EmbeddedBroker(settings.home, progress=progress, die_with_parent=die_with_parent)
    return broker.start(), broker
