"""The records of every topic as typed structs, field for field those of `schemas/avro/*.avsc`.

A test holds the two together. These classes never validate: the codec checks types by encoding, and the
stages check meaning. Times are microseconds since the epoch; ids of events are 16 bytes.
Next: `codec.py` (bytes <-> these), `topics.py` (which record may stand on which topic).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.schemas.facts import BudgetFacts as BudgetFacts
from sluicegate.schemas.facts import CacheFacts as CacheFacts
from sluicegate.schemas.facts import CellFacts as CellFacts
from sluicegate.schemas.facts import ClaimFacts as ClaimFacts
from sluicegate.schemas.facts import ControlFacts as ControlFacts
from sluicegate.schemas.facts import ExchangeFacts as ExchangeFacts
from sluicegate.schemas.facts import GenesisFacts as GenesisFacts
from sluicegate.schemas.facts import HoldFacts as HoldFacts
from sluicegate.schemas.facts import ImportFacts as ImportFacts
from sluicegate.schemas.facts import IntakeFacts as IntakeFacts
from sluicegate.schemas.facts import IntentFacts as IntentFacts
from sluicegate.schemas.facts import JobFacts as JobFacts
from sluicegate.schemas.facts import MemoryFacts as MemoryFacts
from sluicegate.schemas.facts import OpeningFacts as OpeningFacts
from sluicegate.schemas.facts import PlanFacts as PlanFacts
from sluicegate.schemas.facts import PromptFacts as PromptFacts
from sluicegate.schemas.facts import RestoreFacts as RestoreFacts
from sluicegate.schemas.facts import ResultFacts as ResultFacts
from sluicegate.schemas.facts import ReviewFacts as ReviewFacts
from sluicegate.schemas.facts import SealFacts as SealFacts
from sluicegate.schemas.facts import SessionFacts as SessionFacts
from sluicegate.schemas.facts import SpendFacts as SpendFacts
from sluicegate.schemas.facts import StageFacts as StageFacts
from sluicegate.schemas.facts import TakenBackFacts as TakenBackFacts
from sluicegate.schemas.model_facts import AnswerFacts as AnswerFacts
from sluicegate.schemas.model_facts import AttemptFacts as AttemptFacts
from sluicegate.schemas.model_facts import ChoiceFacts as ChoiceFacts
from sluicegate.schemas.model_facts import StreamedFacts as StreamedFacts
from sluicegate.schemas.model_facts import StreamFacts as StreamFacts
from sluicegate.schemas.scores import Score as Score
from sluicegate.schemas.scores import ScoreFacts as ScoreFacts


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
    request: str = ""
    arguments_ref: bytes | None = None


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
    on_behalf_token: str = ""
    request: str = ""
    task: str = ""


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
    release: str = ""
    arguments: bytes | None = None


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
    task: bytes = b""


@dataclass(slots=True)
class Exchange:
    """From one partition to another, by the pipeline only: about a resource with a home."""

    exchange_id: bytes
    kind: str
    home: str
    to_partition: int
    from_partition: int
    tenant: str
    agent_id: str
    session_id: str
    intent_id: str
    issued_at: int
    deadline_at: int
    names: list[str]
    amounts: list[int]
    body: bytes


@dataclass(slots=True)
class Resolution:
    """A person's word on a call in doubt."""

    resolution_id: str
    agent_id: str
    intent_id: str
    verdict: str
    reviewer: str
    issued_at: int
    why: str = ""
    result: bytes | None = None


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
    retry_after_ms: int = 0
    message: str = ""
    pieces: int = 0
    streamed: bytes = b""
    said: bytes = b""


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
    purpose: str = ""
    job: str = ""
    release: str = ""
    candidate: str = ""
    stream: str = ""
    replaces: str = ""
    around: bytes = b""
    version: str = ""
    arguments_ref: bytes = b""


@dataclass(slots=True)
class Piece:
    """A part of an answer on its way to whoever asked; never on the ledger."""

    dispatch_id: bytes
    intent_id: str
    agent_id: str
    session_id: str
    attempt: int
    message: str
    number: int
    kind: str
    at: int
    mode: str = ""
    model: str = ""
    replaces: str = ""
    text: str = ""
    index: int = 0
    call_id: str = ""
    name: str = ""
    digest: bytes = b""


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
    release: str = ""
    release_name: str = ""
    release_version: str = ""
    answers: bytes = b""


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


@dataclass(slots=True)
class Checkpoint:
    """A signed head of one ledger partition's Merkle tree."""

    log_id: bytes
    partition: int
    size: int
    root: bytes
    kid: str
    signed_at: int
    witnesses: list[str]
    note: str
