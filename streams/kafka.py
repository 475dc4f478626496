"""Kafka clients: one place that knows how to connect, on aiokafka.

Never creates topics and never holds state; every client it makes is not started yet, and the caller stops it.
Clients belong to the event loop they were made in. Read next: `streams/broker.py` (the embedded broker),
`streams/settings.py` (where addresses and passwords come from).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary

import aiokafka.producer.sender
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.helpers import create_ssl_context
from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal
from sluicegate.streams.settings import KafkaSecurity, Settings

# aiokafka waits this many seconds when a transaction begins before the markers of the previous one are written.
# Its 20 ms dominate the latency of a busy partition: p50 29-42 ms, with 2 ms p50 3.4-4.3 ms. The name is private:
# `tests/unit/test_settings.py` fails when a new aiokafka no longer has it.
aiokafka.producer.sender.BACKOFF_OVERRIDE = 0.002

CLIENT_ID = "sluicegate"
REQUEST_TIMEOUT_MS = 40_000
# An open transaction that nobody continues blocks its readers for this long, plus 10 s.
TRANSACTION_TIMEOUT_MS = 60_000
MAX_BATCH_BYTES = 512 * 1024  # of one partition in one request; below the broker's 1 MB limit
# Of one request, hence of one record: larger ones are refused in this process.
MAX_REQUEST_BYTES = 1024 * 1024
# How long a dead process keeps its partitions; the shortest that a broker allows by default.
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_MS = 1_000
FETCH_BYTES = 1024 * 1024  # of one partition, at a time; a larger record comes alone
FETCH_WAIT_MS = 500  # how long the broker holds a fetch when there is nothing to read

_LOGIN_REFUSED = (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)
_RIGHT_MISSING = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

KafkaArguments = dict[str, "str | int | object"]
"""Keyword arguments every aiokafka client takes."""


class _Client(Protocol):
    async def start(self) -> None: ...


_ClientT = TypeVar("_ClientT", bound=_Client)


def client_kwargs(where: Settings | str, security: KafkaSecurity | None = None) -> KafkaArguments:
    """Arguments that connect any aiokafka client.

    `where` is `Settings` (with `kafka` set) or bootstrap servers; an explicit `security` wins over that of the
    settings. Raises `Terminal` when there is no address or a certificate cannot be loaded.
    """
    bootstrap = where.kafka if isinstance(where, Settings) else where
    if not bootstrap:
        raise Terminal(
            "no kafka address: set SLUICEGATE_KAFKA or start the embedded broker with `sluicegate up`"
        )
    if security is None:
        security = where.security if isinstance(where, Settings) else KafkaSecurity()
    kwargs: KafkaArguments = {
        "bootstrap_servers": bootstrap,
        "security_protocol": security.protocol,
        "client_id": CLIENT_ID,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
    }
    if security.tls:
        try:
            kwargs["ssl_context"] = create_ssl_context(
                cafile=security.cafile, certfile=security.certfile, keyfile=security.keyfile
            )
        except OSError as error:  # includes ssl.SSLError
            raise Terminal(
                f"the certificates for `{bootstrap}` could not be loaded: {error}: check SLUICEGATE_KAFKA_CAFILE, "
                "SLUICEGATE_KAFKA_CERTFILE and SLUICEGATE_KAFKA_KEYFILE"
            ) from error
    if security.sasl:
        kwargs["sasl_mechanism"] = security.sasl_mechanism
        kwargs["sasl_plain_username"] = security.username
        kwargs["sasl_plain_password"] = security.password
    return kwargs


def producer(
    where: Settings | str,
    security: KafkaSecurity | None = None,
    *,
    transactional_id: str | None = None,
    transaction_timeout_ms: int = TRANSACTION_TIMEOUT_MS,
    linger_ms: int = 0,
    max_batch_bytes: int = MAX_BATCH_BYTES,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    compression: Literal["gzip"] | None = None,
) -> AIOKafkaProducer:
    """A producer of bytes that waits for every replica and never duplicates on its own retries.

    Keys are spread by aiokafka's default partitioner, murmur2, as Java's is (librdkafka's default differs).
    Call it inside the event loop that will use it.
    """
    return AIOKafkaProducer(
        **client_kwargs(where, security),
        acks="all",
        enable_idempotence=True,
        transactional_id=transactional_id,
        transaction_timeout_ms=transaction_timeout_ms,
        linger_ms=linger_ms,
        max_batch_size=max_batch_bytes,
        max_request_size=max_request_bytes,
        compression_type=compression,
    )


def consumer(
    where: Settings | str,
    *topics: str,
    security: KafkaSecurity | None = None,
    group: str | None = None,
    group_instance_id: str | None = None,
    from_offset: Literal["earliest", "latest", "none"] = "earliest",
    session_timeout_ms: int = SESSION_TIMEOUT_MS,
    heartbeat_ms: int = HEARTBEAT_MS,
    fetch_wait_ms: int = FETCH_WAIT_MS,
    fetch_bytes: int = FETCH_BYTES,
) -> AIOKafkaConsumer:
    """A consumer of bytes that sees committed records only and never commits on its own.

    Without `group` it only reads what it is told (`assign`, `seek`); `from_offset` says where a partition without
    a committed offset begins. Members of a group get the same partition of every topic (range assignor).
    Call it inside the event loop that will use it.
    """
    made = AIOKafkaConsumer(
        *topics,
        **client_kwargs(where, security),
        group_id=group,
        group_instance_id=group_instance_id,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset=from_offset,
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=session_timeout_ms,
        heartbeat_interval_ms=heartbeat_ms,
        fetch_max_wait_ms=fetch_wait_ms,
        max_partition_fetch_bytes=fetch_bytes,
    )
    if isinstance(where, Settings):
        _settings[made] = where
    return made


_settings: WeakKeyDictionary[AIOKafkaConsumer, Settings] = WeakKeyDictionary()


def settings_of(consumer: AIOKafkaConsumer) -> Settings | None:
    """What a consumer of `consumer` was made with: who reads the ledger finds its archive by that."""
    return _settings.get(consumer)


def client_of(consumer: AIOKafkaConsumer) -> AIOKafkaClient:
    """The connection of a started consumer, for requests of one's own (`lanes/batches.py`). Its name is private, too."""
    return consumer._client


def admin(where: Settings | str, security: KafkaSecurity | None = None) -> AIOKafkaAdminClient:
    """A client for topics and groups; call it inside the event loop that will use it, `close()` it after."""
    return AIOKafkaAdminClient(**client_kwargs(where, security))


async def connect(client: _ClientT) -> _ClientT:
    """Start a producer, consumer or admin client, or leave nothing behind.

    Raises `Terminal` when the user lacks a right, `Retryable` when Kafka does not answer; aiokafka cannot tell a
    refused password from the latter, so call `probe` first where the difference matters.
    """
    try:
        await client.start()
    except BaseException as error:
        close = getattr(client, "close", None) or client.stop  # type: ignore[attr-defined]
        await close()
        if isinstance(error, KafkaError | OSError | TimeoutError):
            raise told(error) from error
        raise
    return client


def told(error: KafkaError | OSError) -> SluicegateError:
    """What a client raised, as a sentence that says what to do next."""
    if isinstance(error, _RIGHT_MISSING):
        return Terminal(f"kafka does not let this user in: {error}: ask for an ACL that allows it")
    return Retryable(f"kafka does not answer: {error}: check that it is up and SLUICEGATE_KAFKA")


async def known(client: AIOKafkaClient, topic: str) -> None:
    """Return when a client knows a topic. Raises `Retryable` when there is none, or none this user may know of.

    Asks for all topics: asking for one by name makes it on brokers that create topics by themselves, with any number of
    partitions.
    """
    found = await client.fetch_all_metadata()
    if topic not in found.topics():
        raise Retryable(f"topic `{topic}` is not there, or not for this user: run `sluicegate topics create`")


async def probe(
    where: Settings | str, security: KafkaSecurity | None = None, *, timeout_ms: int = 5_000
) -> None:
    """Connect and log in to the first bootstrap server that answers, and leave.

    Raises `Terminal` when it refuses the user, `Retryable` when none answers within `timeout_ms` each.
    """
    kwargs = client_kwargs(where, security)
    servers = str(kwargs.pop("bootstrap_servers"))
    kwargs["request_timeout_ms"] = timeout_ms
    reason = ""
    for server in servers.split(","):
        host, _, port = server.rpartition(":")
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                connection = await create_conn(host.strip("[]"), int(port), **kwargs)
        except _LOGIN_REFUSED as error:
            raise Terminal(
                f"kafka at `{server}` refused the user `{kwargs.get('sasl_plain_username')}`: check "
                "SLUICEGATE_KAFKA_USERNAME, the password and SLUICEGATE_KAFKA_SASL_MECHANISM"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise Terminal(
                f"the certificate of kafka at `{server}` is not trusted: {error.verify_message}: "
                "set SLUICEGATE_KAFKA_CAFILE to the authority that signed it"
            ) from error
        except (KafkaError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            continue
        connection.close()
        return
    raise Retryable(
        f"kafka at `{servers}` does not answer: {reason}: check that it is up and SLUICEGATE_KAFKA"
    )
