"""What `decide` answers with: outcomes not yet chained, and what goes out beside them.

An `Outcome` here is a decision's result before the ledger gives it `seq` and `prev_hash`; `seal` makes the
record. Everything is deterministic: the same inputs give the same bytes (DESIGN §0, byte-identical).
Never reads a clock and never does I/O. Next: `state.py` (folds outcomes), `pipeline.py` (makes them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from sluicegate.schemas import codec
from sluicegate.schemas.records import DeadLetter, Dispatch, Exchange, Header, Reply, StageFacts, Transfer
from sluicegate.schemas.records import Outcome as OutcomeRecord

HEADER_VERSION = 1
ZERO_HASH = bytes(32)

Sealer = Callable[[str, bytes, bytes], bytes]
"""(subject, event_id, content) -> ciphertext."""


@dataclass(slots=True)
class Origin:
    """What all outcomes of one input share: the last part of their headers."""

    intent_id: str
    tenant: str
    agent_id: str
    session_id: str
    subject: str
    decided_at: int
    topic: str
    partition: int
    offset: int
    control_head: int
    release: str
    engine: str
    tail: bytes = b""
    """Encoded once, when the first outcome is sealed."""
    key: bytes = b""
    """The intent's identity, once somebody computed it (`state.key_of`)."""


def intent_key(tenant: str, agent_id: str, intent_id: str) -> bytes:
    """The identity of an intent, 16 bytes."""
    return hashlib.sha256(f"{tenant}\0{agent_id}\0{intent_id}".encode()).digest()[:16]


def key_of(origin: Origin) -> bytes:
    """The identity of an outcome's intent, computed once an input. Only for origins that are complete."""
    if not origin.key:
        origin.key = intent_key(origin.tenant, origin.agent_id, origin.intent_id)
    return origin.key


def message_key(tenant: str, agent_id: str, message_id: str) -> bytes:
    """The identity of a channel's message; never equal to an intent's."""
    return hashlib.sha256(f"message\0{tenant}\0{agent_id}\0{message_id}".encode()).digest()[:16]


def score_key(tenant: str, agent_id: str, score_id: str) -> bytes:
    """The identity of a score; never equal to an intent's or a message's."""
    return hashlib.sha256(f"score\0{tenant}\0{agent_id}\0{score_id}".encode()).digest()[:16]


def transfer_key(transfer_id: bytes) -> bytes:
    """The identity of a transfer; never equal to an intent's or a message's."""
    return hashlib.sha256(b"transfer\0" + transfer_id).digest()[:16]


@dataclass(slots=True)
class Outcome:
    """One stage's answer, before it is chained."""

    origin: Origin
    event_id: bytes
    stage: str
    status: str
    reason: str
    facts: object
    policies: list[str] = field(default_factory=list)
    caused_by: list[bytes] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What has to stand in the artifact store before an executor looks for it (`large_arguments.py`)."""

    name: str
    sealed: bytes


@dataclass(slots=True)
class Decision:
    """All that one input leads to, in order. Lists are empty where nothing is due.

    `needs` is the one other answer: places whose bytes must be loaded before it can be decided. Then everything
    else is empty, and `decide` is called again with `contents` filled.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    needs: list[tuple[str, int]] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    stores: list[Stored] = field(default_factory=list)


def event_id(log_id: bytes, partition: int, first_seq: int, stage: str, ordinal: int) -> bytes:
    """16 bytes: sha256(log_id, partition, seq of the input's first outcome, stage, ordinal), DESIGN §4."""
    text = b"%b/%d/%d/%b/%d" % (log_id, partition, first_seq, stage.encode(), ordinal)
    return hashlib.sha256(text).digest()[:16]


_L, _S = codec.encode_long, codec.encode_string
# Stages, statuses, digests, agents: the same few strings again and again; 16,384 x about 300 bytes = 5 MB.
_C = lru_cache(maxsize=16_384)(codec.encode_string)
PASSED = StageFacts("")
"""The facts of a stage that passed with nothing to say. Never changed, so it is encoded once."""
_PASSED_BYTES = codec.encode(PASSED)
_PASSED_HASH = hashlib.sha256(_PASSED_BYTES).digest()
_PREFIX = codec.schema_of(Header).prefix
_OUTCOME_PREFIX = codec.schema_of(OutcomeRecord).prefix


def _tail(o: Origin) -> bytes:
    return b"".join(
        (
            _S(o.intent_id), _C(o.tenant), _C(o.agent_id), _S(o.session_id), _C(o.subject), _L(o.decided_at),
            _C(o.topic), _L(o.partition), _L(o.offset), _L(o.control_head), _C(o.release), _C(o.engine),
        )
    )  # fmt: skip


@lru_cache(maxsize=64)  # one a partition
def _start(log_id: bytes, partition: int) -> bytes:
    return _PREFIX + _L(HEADER_VERSION) + log_id + _L(partition)


@lru_cache(maxsize=1_024)  # what may be said of an input: some 200 combinations
def _said(stage: str, status: str, reason: str) -> bytes:
    return _S(stage) + _S(status) + _S(reason)


@lru_cache(maxsize=4_096)  # sets of policies or labels, x about 300 bytes = 1.2 MB
def _strings(items: tuple[str, ...]) -> bytes:
    return codec.encode_array(list(items), _S)


def _ids(items: list[bytes]) -> bytes:
    return b"\x02" + items[0] + b"\x00" if len(items) == 1 else codec.encode_array(items, bytes)


def seal(
    outcome: Outcome, log_id: bytes, partition: int, seq: int, prev_hash: bytes, sealer: Sealer
) -> tuple[bytes, bytes]:
    """The ledger record's value and its header hash.

    The header is written in two halves, since three outcomes of four repeat the second one. A property test
    holds the result to the Avro library's encoding of the same `Header`.
    """
    origin = outcome.origin
    if outcome.facts is PASSED:
        facts, facts_hash = _PASSED_BYTES, _PASSED_HASH  # two outcomes of four
    else:
        facts = codec.encode(outcome.facts)
        facts_hash = hashlib.sha256(facts).digest()
    if outcome.content is None:
        content, commitment = b"\x00", b"\x00"
    else:
        sealed = sealer(origin.subject, outcome.event_id, outcome.content)
        content = b"\x02" + _L(len(sealed)) + sealed
        commitment = b"\x02" + hashlib.sha256(sealed).digest()
    tail = origin.tail
    if not tail:
        tail = origin.tail = _tail(origin)
    header = b"".join(
        (
            _start(log_id, partition), _L(seq), outcome.event_id,
            _said(outcome.stage, outcome.status, outcome.reason),
            _strings(tuple(outcome.policies)) if outcome.policies else b"\x00", _ids(outcome.caused_by),
            _strings(tuple(outcome.labels)) if outcome.labels else b"\x00", facts_hash, commitment, prev_hash, tail,
        )
    )  # fmt: skip
    value = b"".join((_OUTCOME_PREFIX, _L(len(header)), header, _L(len(facts)), facts, content))
    return value, header_hash(header)


def header_hash(header: bytes) -> bytes:
    """sha256(0x00 || header): the chain link, and the RFC 6962 leaf."""
    return hashlib.sha256(b"\x00" + header).digest()


def from_header(h: Header, facts: object, content: bytes | None = None) -> Outcome:
    """The outcome a ledger record holds, as `apply` and replay take it."""
    origin = Origin(
        h.intent_id,
        h.tenant,
        h.agent_id,
        h.session_id,
        h.subject,
        h.decided_at,
        h.input_topic,
        h.input_partition,
        h.input_offset,
        h.control_head,
        h.release,
        h.engine,
    )
    return Outcome(
        origin, h.event_id, h.stage, h.status, h.reason, facts, h.policies, h.caused_by, h.labels, content
    )
