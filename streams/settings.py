"""Settings: everything the environment says, read once and checked before anything starts.

Never opens a connection and never writes a file; the only files it reads are the ones named in it
(`SLUICEGATE_KAFKA_PASSWORD_FILE`). Read next: `streams/kafka.py` (clients), `streams/broker.py` (embedded Kafka).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.places import MAX_GENERATION
from sluicegate.schemas.topics import space_of

DEFAULT_HOME = ".sluicegate"
DEFAULT_PARTITIONS_EMBEDDED = 4
DEFAULT_PARTITIONS_CLUSTER = 12
PARTITIONS_MAX = 1_000  # partitions of one topic; more than any machine here could serve
ENV_LENGTH_MAX = 32  # characters
GENERATION_FILE = "generation"
PASSWORD_FILE_MAX = 4_096  # bytes; a larger file is not a password

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
# What aiokafka does without further packages.
SASL_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")

# The name is the prefix of every topic: Kafka allows `.` and `_` too, but they collide in metric names.
_ENV = re.compile(r"[a-z0-9][a-z0-9-]*")
_KAFKA_PREFIX = "SLUICEGATE_KAFKA_"


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How clients prove who they are to Kafka, and how they check Kafka.

    Attributes:
        protocol: one of `SECURITY_PROTOCOLS`.
        sasl_mechanism: one of `SASL_MECHANISMS`; used with `SASL_*` protocols only.
        username, password: for `SASL_*` protocols. The password is never in the repr.
        cafile: certificates to trust (PEM); None = those of the system.
        certfile, keyfile: the client's own certificate and key (PEM), for mutual TLS.
    """

    protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-256"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None

    @property
    def sasl(self) -> bool:
        """True when clients log in with a name and a password."""
        return self.protocol.startswith("SASL_")

    @property
    def tls(self) -> bool:
        """True when connections are encrypted."""
        return self.protocol.endswith("SSL")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> KafkaSecurity:
        """Read `SLUICEGATE_KAFKA_*`; raises `Terminal` with what to change."""
        protocol = _choice(environ, "SECURITY_PROTOCOL", "PLAINTEXT", SECURITY_PROTOCOLS)
        security = cls(
            protocol=protocol,
            sasl_mechanism=_choice(environ, "SASL_MECHANISM", SASL_MECHANISMS[0], SASL_MECHANISMS),
            username=_get(environ, _KAFKA_PREFIX + "USERNAME"),
            password=_password(environ),
            cafile=_file(environ, "CAFILE"),
            certfile=_file(environ, "CERTFILE"),
            keyfile=_file(environ, "KEYFILE"),
        )
        if security.sasl and (security.username is None or security.password is None):
            raise Terminal(
                f"the protocol `{protocol}` needs a user: set SLUICEGATE_KAFKA_USERNAME and "
                "SLUICEGATE_KAFKA_PASSWORD or SLUICEGATE_KAFKA_PASSWORD_FILE"
            )
        # A setting that would be ignored is refused: the reader believes it protects something.
        if not security.sasl and (security.username is not None or security.password is not None):
            raise Terminal(
                f"a kafka user or password is set but the protocol `{protocol}` does not log in: "
                "set SLUICEGATE_KAFKA_SECURITY_PROTOCOL to SASL_SSL or SASL_PLAINTEXT"
            )
        if not security.tls and (security.cafile or security.certfile or security.keyfile):
            raise Terminal(
                f"certificates are set but the protocol `{protocol}` does not encrypt: "
                "set SLUICEGATE_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
            )
        if security.keyfile and not security.certfile:
            raise Terminal(
                f"the key `{security.keyfile}` has no certificate: set SLUICEGATE_KAFKA_CERTFILE too"
            )
        return security


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What one process of Sluicegate was told.

    Attributes:
        env: the environment's name and, followed by a dot, the prefix of every topic.
        home: the state directory, absolute; it need not exist yet.
        kafka: bootstrap servers of your own cluster; None = the embedded broker.
        clickhouse: url of your own ClickHouse; None = the embedded one.
        partitions: partitions of each partitioned topic.
        generation: of the log, whose topics are read and written; None: nobody said, and it is the first one.
        security: how clients log in to Kafka.
    """

    env: str = "dev"
    home: Path = field(default_factory=lambda: Path(DEFAULT_HOME).absolute())
    kafka: str | None = None
    clickhouse: str | None = None
    partitions: int = DEFAULT_PARTITIONS_EMBEDDED
    security: KafkaSecurity = field(default_factory=KafkaSecurity)
    generation: int | None = None

    @property
    def space(self) -> str:
        """What prefixes the keyed topics: `dev`, and of a later generation `dev.g1` (`schemas/topics.py`)."""
        return space_of(self.env, self.generation or 0)

    def __repr__(self) -> str:
        # The ClickHouse url may carry a password too.
        return (
            f"Settings(env={self.env!r}, home={str(self.home)!r}, kafka={self.kafka!r}, "
            f"clickhouse={_without_password(self.clickhouse)!r}, partitions={self.partitions}, "
            f"security={self.security!r}, generation={self.generation})"
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read `SLUICEGATE_*`; raises `Terminal` with what to change."""
        kafka = _bootstrap(environ)
        security = KafkaSecurity.from_env(environ)
        if kafka is None and security.protocol != "PLAINTEXT":
            raise Terminal(
                f"the protocol `{security.protocol}` is for your own cluster: set SLUICEGATE_KAFKA to its "
                "bootstrap servers or unset SLUICEGATE_KAFKA_SECURITY_PROTOCOL"
            )
        return cls(
            env=_env(environ),
            home=_home(environ),
            kafka=kafka,
            clickhouse=_clickhouse(environ),
            partitions=_partitions(environ, embedded=kafka is None),
            security=security,
            generation=_generation(environ, _home(environ)),
        )


def _get(environ: Mapping[str, str], name: str) -> str | None:
    """An empty variable counts as not set: that is how compose files and CI unset one."""
    return environ.get(name, "").strip() or None


def _env(environ: Mapping[str, str]) -> str:
    env = _get(environ, "SLUICEGATE_ENV") or "dev"
    if not _ENV.fullmatch(env) or len(env) > ENV_LENGTH_MAX:
        raise Terminal(
            f"the environment name `{env}` cannot prefix topics: set SLUICEGATE_ENV to at most "
            f"{ENV_LENGTH_MAX} lower-case letters, digits and hyphens"
        )
    return env


def _home(environ: Mapping[str, str]) -> Path:
    home = Path(_get(environ, "SLUICEGATE_HOME") or DEFAULT_HOME).expanduser().absolute()
    if home.exists() and not home.is_dir():
        raise Terminal(f"the state directory `{home}` is a file: set SLUICEGATE_HOME to a directory")
    return home


def _bootstrap(environ: Mapping[str, str]) -> str | None:
    servers = _get(environ, "SLUICEGATE_KAFKA")
    if servers is None:
        return None
    parts = [part.strip() for part in servers.split(",")]
    for part in parts:
        host, _, port = part.rpartition(":")
        # No scheme and no path: `kafka://host:9092` would otherwise be looked up as a host name.
        if not host or "/" in part or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise Terminal(
                f"the bootstrap server `{part}` is not host:port: set SLUICEGATE_KAFKA to a list such as "
                "`kafka-1:9092,kafka-2:9092`, or unset it for the embedded broker"
            )
    return ",".join(parts)


def _clickhouse(environ: Mapping[str, str]) -> str | None:
    url = _get(environ, "SLUICEGATE_CLICKHOUSE")
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise Terminal(
            f"the clickhouse url `{_without_password(url)}` cannot be used: set SLUICEGATE_CLICKHOUSE to one "
            "such as `http://user@host:8123/database`, or unset it for the embedded server"
        )
    return url


def _partitions(environ: Mapping[str, str], *, embedded: bool) -> int:
    text = _get(environ, "SLUICEGATE_PARTITIONS")
    if text is None:
        return DEFAULT_PARTITIONS_EMBEDDED if embedded else DEFAULT_PARTITIONS_CLUSTER
    if not text.isdecimal() or not 1 <= int(text) <= PARTITIONS_MAX:
        raise Terminal(
            f"the number of partitions `{text}` is out of range: set SLUICEGATE_PARTITIONS to 1 to {PARTITIONS_MAX}"
        )
    return int(text)


def _generation(environ: Mapping[str, str], home: Path) -> int | None:
    """As SLUICEGATE_GENERATION says, else as `topics repartition` wrote into this state directory."""
    text, where = _get(environ, "SLUICEGATE_GENERATION"), "set SLUICEGATE_GENERATION"
    file = home / GENERATION_FILE
    if text is None and file.is_file():
        text, where = file.read_text("utf-8").strip(), f"correct `{file}`"
    if text is None:
        return None
    if not text.isdecimal() or int(text) > MAX_GENERATION:
        raise Terminal(f"the generation `{text[:20]}` is no number from 0 to {MAX_GENERATION}: {where}")
    return int(text)


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = (_get(environ, _KAFKA_PREFIX + name) or default).upper()
    if value not in allowed:
        raise Terminal(
            f"the value `{value}` is not known: set {_KAFKA_PREFIX}{name} to {' or '.join(allowed)}"
        )
    return value


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    value = _get(environ, _KAFKA_PREFIX + name)
    if value is None:
        return None
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise Terminal(f"the file `{path}` does not exist: set {_KAFKA_PREFIX}{name} to a PEM file")
    return path


def _password(environ: Mapping[str, str]) -> str | None:
    # Not stripped: a password may begin or end with a space.
    password = environ.get(_KAFKA_PREFIX + "PASSWORD") or None
    file = _get(environ, _KAFKA_PREFIX + "PASSWORD_FILE")
    if file is None:
        return password
    if password is not None:
        raise Terminal(
            "two kafka passwords are set: unset SLUICEGATE_KAFKA_PASSWORD or SLUICEGATE_KAFKA_PASSWORD_FILE"
        )
    try:
        data = Path(file).expanduser().read_bytes()
        # One trailing newline belongs to the file, not to the password.
        text = (
            data.decode("utf-8").removesuffix("\n").removesuffix("\r")
            if len(data) <= PASSWORD_FILE_MAX
            else ""
        )
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise Terminal(
            f"no password could be read from `{file}`: set SLUICEGATE_KAFKA_PASSWORD_FILE to a readable file "
            f"of at most {PASSWORD_FILE_MAX} bytes"
        )
    return text


def _without_password(url: str | None) -> str | None:
    """Cut by text, not by a url parser: the url may be one that does not parse."""
    return None if url is None else re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)
