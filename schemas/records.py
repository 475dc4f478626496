"""The records of every topic as typed structs, field for field those of `schemas/avro/*.avsc`.

A test holds the two together. These classes never validate: the codec checks types by encoding, and the
stages check meaning. Times are microseconds since the epoch; ids of events are 16 bytes.
Next: `codec.py` (bytes <-> these), `topics.py` (which record may stand on which topic).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Intent:
    """One thing an agent asks for."""

    intent_id: str
    agent_id: str
    session_id: str
    kind: str
    tool: str
    arguments: bytes
    issued_at: int
    deadline_at: int | None = None
    goal: str = ""
    derived_from: list[str] = field(default_factory=list)
    traceparent: str = ""


@dataclass(slots=True)
class Message:
    """What a channel front end reports: a session opened, what the user said, a session closed."""

    message_id: str
    agent_id: str
    session_id: str
    kind: str
    issued_at: int
    goal: str = ""
    on_behalf_of: str = ""
    subject: str = ""
    text: str = ""
    traceparent: str = ""


@dataclass(slots=True)
class Review:
    """A person's word on a held intent."""

    review_id: str
    agent_id: str
    intent_id: str
    verdict: str
    action_digest: bytes
    reviewer: str
    issued_at: int
    why: str = ""


@dataclass(slots=True)
class Transfer:
    """From one partition to another, by the pipeline only: a session handed on."""

    transfer_id: bytes
    kind: str
    agent_id: str
    session_id: str
    from_agent: str
    intent_id: str
    tenant: str
    issued_at: int
    goal: str
    on_behalf_of: str
    verified: bool
    subject: str
    chain: list[str]
    roles: list[str]
    calls_cap: int
    labels: list[str]
    traceparent: str = ""


@dataclass(slots=True)
class Receipt:
    """What happened to a dispatch."""

    dispatch_id: bytes
    intent_id: str
    agent_id: str
    session_id: str
    kind: str
    attempt: int
    executor: str
    started_at: int
    finished_at: int
    result: bytes | None = None
    error_class: str = ""
    error: str = ""
    sent: bool = True


@dataclass(slots=True)
class Dispatch:
    """Permitted work for an executor."""

    dispatch_id: bytes
    intent_id: str
    agent_id: str
    session_id: str
    tenant: str
    tool: str
    tool_class: str
    executor: bytes
    arguments: bytes
    action_digest: bytes
    idempotency_key: str
    attempt: int
    timeout_ms: int
    not_after: int
    traceparent: str = ""
    control_head: int = -1
    proof: bytes = b""
    transformed: bool = False


@dataclass(slots=True)
class Reply:
    """One thing the agent must know."""

    event_id: bytes
    intent_id: str
    agent_id: str
    session_id: str
    status: str
    stage: str
    reason: str
    policies: list[str]
    decided_at: int
    result: bytes | None = None
    for_model: str = ""
    for_developer: str = ""
    duplicate: bool = False
    attempt: int = 0
    arguments: bytes | None = None


@dataclass(slots=True)
class Outcome:
    """One stage's answer: a ledger record."""

    header: bytes
    facts: bytes
    content: bytes | None = None


@dataclass(slots=True)
class Header:
    """The chained part of an outcome."""

    v: int
    log_id: bytes
    partition: int
    seq: int
    event_id: bytes
    stage: str
    status: str
    reason: str
    policies: list[str]
    caused_by: list[bytes]
    labels: list[str]
    facts_hash: bytes
    content_commitment: bytes | None
    prev_hash: bytes
    intent_id: str
    tenant: str
    agent_id: str
    session_id: str
    subject: str
    decided_at: int
    input_topic: str
    input_partition: int
    input_offset: int
    control_head: int
    release: str
    engine: str


@dataclass(slots=True)
class GenesisFacts:
    """First record of a ledger partition."""

    log_id: bytes
    partitions: int
    env: str
    signing: str


@dataclass(slots=True)
class ControlFacts:
    """A control event."""

    kind: str
    who: str
    why: str
    body: bytes


@dataclass(slots=True)
class IntentFacts:
    """First outcome of an intent: what the duplicates window and the life cycle need."""

    digest: bytes
    kind: str
    tool: str
    version: str
    executor: str
    issued_at: int
    deadline_at: int
    authenticated: bool
    control_stale: bool
    remembered: bool
    call_digest: bytes = b""


@dataclass(slots=True)
class StageFacts:
    """A stage passed or refused after the first outcome."""

    detail: str
    grounded_arguments: list[str] = field(default_factory=list)
    grounded_from: list[str] = field(default_factory=list)
    grounded_labels: list[str] = field(default_factory=list)
    grounded_events: list[bytes] = field(default_factory=list)
    grounded_paths: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PlanFacts:
    """A dispatch."""

    action_digest: bytes
    tool_class: str
    executor: str
    attempt: int
    not_after: int
    timeout_ms: int
    measured: list[str] = field(default_factory=list)
    amounts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class ClaimFacts:
    """A claim: from here the call may have happened."""

    attempt: int
    executor: str
    started_at: int
    lease_until: int


@dataclass(slots=True)
class ResultFacts:
    """The end of an execution."""

    attempt: int
    executed_by: str
    started_at: int
    finished_at: int
    result_digest: bytes
    result_bytes: int
    error_class: str
    observed: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)


@dataclass(slots=True)
class MemoryFacts:
    """A memory operation, done by the ledger itself."""

    op: str
    scope: str
    cell: bytes
    version: int
    value_digest: bytes
    result_bytes: int
    integrity: int
    confidentiality: int


@dataclass(slots=True)
class SessionFacts:
    """A session opened, heard or closed."""

    kind: str
    origin: str
    on_behalf_of: str
    digest: bytes
    authenticated: bool
    control_stale: bool
    issued_at: int
    verified: bool = False
    to_agent: str = ""
    to_session: str = ""
    chain: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    calls_cap: int = -1


@dataclass(slots=True)
class IntakeFacts:
    """An input that could not be taken: unreadable, misrouted, of a type or signer the topic does not accept, or that broke the machinery."""

    detail: str
    length: int
    digest: bytes


@dataclass(slots=True)
class Envelope:
    """A signed record."""

    kid: str
    alg: str
    audience: str
    signed_at: int
    expires_at: int
    payload: bytes
    signature: bytes


@dataclass(slots=True)
class DeadLetter:
    """What could not be read."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    length: int
    sha256: bytes
    head: bytes
    seen_at: int
    key: bytes | None = None


@dataclass(slots=True)
class SnapshotChunk:
    """Part of a committed state."""

    log_id: bytes
    partition: int
    seq: int
    header_hash: bytes
    ledger_offset: int
    engine: str
    index: int
    count: int
    state_sha256: bytes
    data: bytes


@dataclass(slots=True)
class ReleaseChunk:
    """Part of a release's bytes."""

    digest: str
    index: int
    count: int
    data: bytes
