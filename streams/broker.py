"""The embedded Kafka: one real Apache Kafka (KRaft, one node) as a child process, on loopback, data kept.

Never listens beyond 127.0.0.1, never replicates, never creates topics: it is for development, tests and one
machine. Started once per state directory: every other process that asks finds the same broker.
Read next: `streams/broker_java.py` (Java, jars), `streams/broker_files.py` (configuration, storage),
`streams/kafka.py` (clients).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import psutil  # type: ignore[import-untyped,unused-ignore]
from aiokafka.errors import KafkaError, for_code
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams import broker_files as files
from sluicegate.streams import broker_java as programs
from sluicegate.streams import kafka
from sluicegate.streams.settings import KafkaSecurity, Settings

START_LIMIT_S = 90  # a loaded machine with two cores; 2 s is usual
STOP_LIMIT_S = 30  # then SIGKILL; under 1 s is usual, 3 s when the class archive is written
LOCK_LIMIT_S = programs.FETCH_LOCK_LIMIT_S + START_LIMIT_S  # another process may be fetching, then starting
CALL_LIMIT_S = 5
POLL_S = 0.02
PORT_ATTEMPTS = 5  # a port found free may be taken before the broker binds it
LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 64 * 1024
GROUP_NOT_FOUND_CODE = 69
CLOCK_TOLERANCE_S = 2.0  # process start times are rounded, and follow the clock when it is set

_T = TypeVar("_T")

# Waits for the end of its input, which is the end of whoever started the broker, however that came.
_WATCHDOG = """
import sys, psutil
pid, created_s, limit_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
sys.stdin.buffer.read()
try:
    broker = psutil.Process(pid)
    if abs(broker.create_time() - created_s) < 2:
        broker.terminate()
        try:
            broker.wait(limit_s)
        except psutil.TimeoutExpired:
            broker.kill()
except psutil.NoSuchProcess:
    pass
"""


@dataclass(frozen=True, slots=True)
class _Running:
    """What `broker.json` says of the broker that was started last."""

    pid: int
    created_s: float
    port: int
    controller_port: int
    sasl: bool
    archive: str | None  # where the class archive goes that this run writes on exit


class _PortTaken(Exception):
    """Somebody else bound our port first."""


# Not on the object: a caller may drop it and keep the address, and a watchdog whose pipe closes ends the broker.
_kept: list[subprocess.Popen[bytes]] = []


class EmbeddedBroker:
    """One Kafka broker under `home/kafka`.

    `sasl` maps user names to passwords (SCRAM-SHA-256): then every client must log in, `admin` may do everything
    and the others nothing until an ACL says so. The users are fixed when the data is first created.
    With `die_with_parent` (the default) the broker ends with the process that started it, even by SIGKILL.
    All methods are blocking and safe to call from several processes; as a context manager it stops only what it
    started.
    """

    def __init__(
        self,
        home: Path,
        *,
        sasl: Mapping[str, str] | None = None,
        progress: programs.Progress | None = None,
        die_with_parent: bool = True,
    ) -> None:
        if sasl is not None:
            files.check_users(sasl)
        self._directory = home.absolute() / "kafka"
        self._sasl = None if sasl is None else dict(sasl)
        self._progress = progress or (lambda message: None)
        self._die_with_parent = die_with_parent
        self._child: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    # What it is.

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port` of the broker started last; `Terminal` when there was none."""
        state = self._state()
        if state is None:
            raise Terminal(
                f"no embedded kafka was started in `{self._directory}`: start it with `sluicegate up`"
            )
        return f"127.0.0.1:{state.port}"

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
    def log(self) -> Path:
        """Warnings and errors of the current run; the run before is beside it, with `.1`."""
        return self._directory / "broker.log"

    def security(self, user: str = files.ADMIN_USER) -> KafkaSecurity:
        """How `user` logs in."""
        if self._sasl is None:
            return KafkaSecurity()
        return KafkaSecurity("SASL_PLAINTEXT", "SCRAM-SHA-256", user, self._sasl[user])

    def check(self) -> None:
        """Raise `Retryable` with the end of its log when it is not running any more."""
        if not self.running:
            raise Retryable(
                f"the embedded kafka is not running: start it with `sluicegate up`; {self._tail()}"
            )

    # What it does.

    def start(self) -> str:
        """Start it, or find it running, and return its bootstrap servers once it answers.

        Raises `Retryable` when it cannot be fetched or does not come up, `Terminal` when somebody has to act; the
        last lines of its log are in the message.
        """
        with self._locked():
            if (process := self._process()) is not None:
                self._adopt(process)
            else:
                self._launch()
        return self.bootstrap

    def stop(self) -> None:
        """End it cleanly, whoever started it; SIGKILL after `STOP_LIMIT_S`. Nothing happens when it is not running."""
        with self._locked():
            if (process := self._process()) is not None:
                process.terminate()
                try:
                    process.wait(STOP_LIMIT_S)
                    self._keep_archive()
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait()
            self._release()

    def kill(self) -> None:
        """SIGKILL, as a crash would; nothing happens when it is not running."""
        if (process := self._process()) is not None:
            process.kill()
            process.wait()
        self._release()

    def restart(self) -> str:
        """Stop it cleanly and start it again, on the same port when that is free, with the same data."""
        self.stop()
        return self.start()

    def wipe(self) -> None:
        """Delete its data for ever; `Terminal` while it runs."""
        with self._locked():
            if self.running:
                raise Terminal(
                    "the embedded kafka is running: stop it with `sluicegate down` before wiping its data"
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
        if self._child is not None:
            self.stop()

    # Finding it.

    def _locked(self) -> AbstractContextManager[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return files.locked(self._directory / "lock", LOCK_LIMIT_S, "the embedded kafka")

    def _state(self) -> _Running | None:
        try:
            return _Running(**json.loads((self._directory / "broker.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # a file of another version is no broker of ours
            return None

    def _process(self) -> psutil.Process | None:
        """The broker's process, if the one with its id is not a later stranger and not dead and unburied."""
        if self._child is not None:
            self._child.poll()
        state = self._state()
        if state is None:
            return None
        try:
            process = psutil.Process(state.pid)
            same = abs(process.create_time() - state.created_s) < CLOCK_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _adopt(self, process: psutil.Process) -> None:
        state = self._state()
        assert state is not None
        if state.sasl != (self._sasl is not None):
            raise Terminal(
                f"an embedded kafka {'with' if state.sasl else 'without'} passwords is already running in "
                f"`{self._directory}`: stop it with `sluicegate down` first"
            )
        self._await_ready(state, process)

    # Starting it.

    def _launch(self) -> None:
        self._release()
        java = programs.find_java()
        jars = programs.fetch_jars(self._progress)
        self._check_same_users()
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        before = self._state()
        preferred = (before.port, before.controller_port) if before else (0, 0)
        for _ in range(PORT_ATTEMPTS):
            port, controller_port = _free_ports(*preferred)
            preferred = (0, 0)
            files.write_private(
                self._directory / "server.properties",
                files.server_properties(port, controller_port, self._sasl),
            )
            if files.cluster_id(self._directory) is None:
                self._progress("preparing kafka's storage")
                files.format_storage(self._directory, java.executable, programs.classpath(jars), self._sasl)
            self._progress(f"starting Kafka {programs.KAFKA_VERSION}")
            try:
                self._run(java, jars, port, controller_port)
                return
            except _PortTaken:
                continue
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

    def _run(self, java: programs.Java, jars: list[Path], port: int, controller_port: int) -> None:
        """Start the process and wait for it; on any failure, even Ctrl-C, it is gone again."""
        archive = programs.class_archive(java, jars)
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                programs.command(java, jars, archive),
                cwd=self._directory,
                env=files.child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group: the broker must outlive its clients' goodbyes.
                start_new_session=True,
            )
        _kept.append(self._child)
        process = psutil.Process(self._child.pid)
        writes = None if archive is None or archive.exists() else str(archive)
        state = _Running(
            process.pid, process.create_time(), port, controller_port, self._sasl is not None, writes
        )
        try:
            files.write_private(self._directory / "broker.json", json.dumps(asdict(state)))
            if self._die_with_parent:
                self._watchdog = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-c",
                        _WATCHDOG,
                        str(state.pid),
                        str(state.created_s),
                        str(STOP_LIMIT_S),
                    ],
                    cwd="/",
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                _kept.append(self._watchdog)
            self._await_ready(state, process)
        except BaseException:
            self._child.kill()
            self._release()
            raise

    def _await_ready(self, state: _Running, process: psutil.Process) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        wanted_id = files.cluster_id(self._directory)
        address = f"127.0.0.1:{state.port}"
        last = "its port is closed"
        while time.monotonic() < deadline:
            if self._process() is None:
                if "Address already in use" in self._tail():
                    raise _PortTaken
                raise Retryable(f"the embedded kafka died while starting: {self._tail()}", retry_after_s=5.0)
            # The port first: aiokafka logs an error for every connection that is refused.
            if _accepts(state.port):
                try:
                    found_id = _in_thread(_cluster_id_when_ready(address, self.security()))
                except (KafkaError, OSError, TimeoutError, Retryable) as error:
                    last = str(error) or type(error).__name__
                else:
                    if found_id != wanted_id:
                        raise Terminal(
                            f"another kafka answers at `{address}`: stop it, or remove `{self._directory}/broker.json`"
                        )
                    self._progress(f"Kafka {programs.KAFKA_VERSION} is up at {address}")
                    return
            time.sleep(POLL_S)
        raise Retryable(
            f"the embedded kafka (process {process.pid}) did not answer within {START_LIMIT_S} s ({last}): "
            f"{self._tail()}",
            retry_after_s=5.0,
        )

    # Ending it.

    def _keep_archive(self) -> None:
        state = self._state()
        if state is not None and state.archive is not None:
            programs.keep_archive(self._directory, Path(state.archive))

    def _release(self) -> None:
        """Bury the dead: the child's exit status and the watchdog, which ends when its input does."""
        child, self._child = self._child, None
        if child is not None:
            if child.poll() is None:
                child.kill()
            child.wait()
            _kept.remove(child)
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            assert watchdog.stdin is not None
            watchdog.stdin.close()
            watchdog.wait()
            _kept.remove(watchdog)

    def _tail(self) -> str:
        """The end of the log in words; frames of stack traces are left out, they push the reason off the page."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return f"there is no log at `{self.log}`"
        lines = [line for line in lines if line.strip() and not line.startswith(("\tat ", "\t..."))]
        if not lines:
            return f"its log `{self.log}` is empty"
        return f"the end of `{self.log}`:\n" + "\n".join(lines[-LOG_TAIL_LINES:])


def ensure_broker(
    settings: Settings, progress: programs.Progress | None = None
) -> tuple[str, EmbeddedBroker | None]:
    """Bootstrap servers that answer, and the embedded broker behind them if there is one.

    With `settings.kafka` it is your own cluster: nothing is started, only asked. Raises as `EmbeddedBroker.start`
    and `kafka.probe`.
    """
    if settings.kafka is not None:
        _in_thread(kafka.probe(settings))
        return settings.kafka, None
    broker = EmbeddedBroker(settings.home, progress=progress)
    return broker.start(), broker


async def _cluster_id_when_ready(address: str, security: KafkaSecurity) -> str:
    """The cluster id, once metadata and both coordinators answer; raises `KafkaError` until they do.

    Asking for the coordinators makes a fresh broker create their topics now and not under the first client.
    """
    await kafka.probe(address, security, timeout_ms=CALL_LIMIT_S * 1000)
    async with asyncio.timeout(CALL_LIMIT_S):
        admin = kafka.admin(address, security)
        try:
            await admin.start()
            cluster = await admin.describe_cluster()
            await admin.find_coordinator("sluicegate-ready", coordinator_type=1)
            node = await admin.find_coordinator("sluicegate-ready")
            # Found is not loaded: a description comes from the coordinator itself.
            for response in await admin.describe_consumer_groups(["sluicegate-ready"], node):
                for error_code, *_ in response.groups:
                    if error_code not in (0, GROUP_NOT_FOUND_CODE):
                        raise for_code(error_code)("the group coordinator is not ready")
            await admin.list_consumer_groups([node])  # fails while any of them is loading
        finally:
            await admin.close()
    return str(cluster["cluster_id"])


def _in_thread(coroutine: Coroutine[object, object, _T]) -> _T:
    """Run it in an event loop of its own: the caller may be inside one."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=CALL_LIMIT_S):
            return True
    except OSError:
        return False


def _free_ports(*preferred: int) -> list[int]:
    """As many different free ports, the preferred ones where possible (0 = any)."""
    held = []
    try:
        for port in preferred:
            held.append(_bound(port))
        return [int(held_one.getsockname()[1]) for held_one in held]
    finally:
        for held_one in held:
            held_one.close()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    # As Java does: a port in TIME_WAIT after the last run counts as free.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.bind(("127.0.0.1", 0))
    return bound
