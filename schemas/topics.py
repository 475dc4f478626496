"""The topics: names, keys, retention, and which record type each accepts from which signer.

One table; creation (`streams/topics.py`), intake (`processors/intake.py`) and the ACL plan read it.
The prefix is the environment: environments share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

MAX_INTENT_BYTES = 256 * 1024
"""An intent's whole record. A ledger record carries it once, so it stays under Kafka's 1 MB."""
MAX_RESULT_BYTES = 64 * 1024
"""An inline result; a larger one goes to the artifact store, where its contract lets it."""
MAX_ARTIFACT_BYTES = 64 * 1024 * 1024
"""One artifact: four at once in one executor are 256 MB, and as much again while they are sealed."""
MAX_ARGUMENT_BYTES = 4 * 1024 * 1024
"""Arguments that travel by reference: a model's context of a million tokens at four bytes each. To fetch, check, parse and make canonical
takes a worker 0.1 s of text (0.8 s of nothing but numbers with a point), while its partition waits; sixteen at once in one executor are 64 MB."""
RECORD_LIMIT_BYTES = 1_048_588
"""Kafka's own default for one batch."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic.

    Attributes:
        name: without the environment prefix.
        keyed: partitioned by murmur2(agent_id) over the log's N partitions; else one partition.
        retention_ms: -1 is for ever.
        compacted: `cleanup.policy=compact`.
        accepts: record schema -> roles whose signature is accepted, for inputs of the ledger.
        writers: roles that may write, for the ACLs.
        readers: roles that may read, for the ACLs.
    """

    name: str
    keyed: bool
    retention_ms: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    compacted: bool = False
    accepts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    max_bytes: int = RECORD_LIMIT_BYTES


DECIDERS_AND_WATCHERS = (
    "pipeline", "checkpointer", "executor", "projector", "auditor", "operator", "gateway", "monitor", "evaluator",
)  # fmt: skip
"""Who follows what decides: control, and the releases it names."""

TOPICS: tuple[Topic, ...] = (
    Topic(
        "intents",
        True,
        30 * DAY_MS,
        ("agent", "gateway"),
        ("pipeline", "auditor"),
        accepts=(("intent", ("agent",)), ("receipt", ("agent",))),
    ),
    Topic(
        "messages",
        True,
        30 * DAY_MS,
        ("channel", "gateway"),
        ("pipeline", "auditor"),
        accepts=(("message", ("channel",)),),
    ),
    Topic(
        "reviews",
        True,
        30 * DAY_MS,
        ("person", "evaluator", "gateway"),
        ("pipeline", "auditor"),
        accepts=(("review", ("person",)), ("resolution", ("person",)), ("score", ("person", "evaluator"))),
    ),
    Topic(
        "receipts",
        True,
        30 * DAY_MS,
        ("executor",),
        ("pipeline", "auditor"),
        accepts=(("receipt", ("executor",)),),
    ),
    Topic(
        "transfers",
        True,
        30 * DAY_MS,
        ("pipeline",),
        ("pipeline", "auditor"),
        accepts=(("transfer", ("pipeline",)), ("exchange", ("pipeline",))),
    ),
    Topic("dispatches", True, 7 * DAY_MS, ("pipeline",), ("executor", "auditor")),
    Topic("replies", True, DAY_MS, ("pipeline",), ("agent", "channel", "person", "gateway", "auditor")),
    # Answers on their way, before they count: as widely read as replies, gone after an hour.
    Topic("pieces", True, HOUR_MS, ("executor",), ("agent", "gateway", "auditor")),
    Topic(
        "outcomes",
        True,
        -1,
        ("pipeline",),
        # The gateway shows people what is held: contents stay sealed to who has no key store.
        ("pipeline", "checkpointer", "projector", "auditor", "operator", "monitor", "gateway"),
    ),
    Topic(
        "control",
        False,
        -1,
        ("operator", "monitor"),
        DECIDERS_AND_WATCHERS,
    ),
    Topic(
        "releases",
        False,
        -1,
        ("operator",),
        DECIDERS_AND_WATCHERS,
    ),
    # Whoever folds the ledger begins with the newest one.
    Topic(
        "snapshots",
        True,
        -1,
        ("pipeline",),
        ("pipeline", "auditor", "operator", "monitor", "gateway"),
        compacted=True,
    ),
    Topic("checkpoints", False, -1, ("checkpointer",), ("checkpointer", "projector", "auditor", "operator")),
    Topic("dead-letters", False, 30 * DAY_MS, ("pipeline", "executor", "projector"), ("operator", "monitor")),
)
BY_NAME: dict[str, Topic] = {t.name: t for t in TOPICS}

INPUTS = ("messages", "receipts", "reviews", "transfers", "intents")
"""The ledger's inputs, in the order a batch takes them: what settles or informs goes before what asks."""

TICK = "tick"
"""The input name of a due deadline."""


COMMON = frozenset(t.name for t in TOPICS if not t.keyed)
"""Topics that all generations of an environment share: they have no agents' partitions."""


def space_of(env: str, generation: int) -> str:
    """What prefixes the keyed topics of a generation: `dev`, and from the first repartition on `dev.g1`, `dev.g2`, ..."""
    return f"{env}.g{generation}" if generation else env


def full_name(space: str, name: str) -> str:
    """`dev`, `intents` -> `dev.intents`; `dev.g1`, `intents` -> `dev.g1.intents`, but `dev.g1`, `control` -> `dev.control`."""
    return f"{space.partition('.')[0] if name in COMMON else space}.{name}"


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 (Java `Utils.murmur2`), unsigned 32 bits."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = (0x9747B28C ^ length) & mask
    for i in range(0, length & ~3, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    tail = data[length & ~3 :]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


@lru_cache(maxsize=65_536)  # about 200 bytes each: 13 MB for as many agents
def partition_of(agent_id: str, partitions: int) -> int:
    """The partition of an agent: what aiokafka and Java choose by default, librdkafka with `murmur2_random`."""
    return (murmur2(agent_id.encode()) & 0x7FFFFFFF) % partitions
