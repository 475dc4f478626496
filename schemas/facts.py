"""The facts of outcomes as typed structs: what the fold reads, what policies and analysts look at, for ever.

Field for field those of `schemas/avro/*_facts.avsc`; no personal data. Everybody imports them from `records.py`.
Next: `records.py` (the records of topics), `codec.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
    kid: str = ""
    signature: bytes = b""


@dataclass(slots=True)
class BudgetFacts:
    """What a call reserves, spends or waits for of budgets and limits."""

    what: str
    attempt: int
    accounts: list[str]
    windows: list[int]
    reserved: list[int]
    spent: list[int]
    overran: list[int]
    caps: list[int]
    freezes: list[int]
    needs: list[int]
    until: int
    sent: bool


@dataclass(slots=True)
class SpendFacts:
    """What a reported attempt cost. Amounts that nobody said are -1."""

    attempt: int
    contract: str
    model: str
    money: int
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class ExchangeFacts:
    """An exchange was taken, or an alarm of a home's was due."""

    exchange_id: bytes
    kind: str
    home: str
    from_partition: int
    deadline_at: int
    names: list[str]
    amounts: list[int]


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
class HoldFacts:
    """A call waits for people: what exactly, who may agree, how many of them, and how long."""

    action_digest: bytes
    tool_class: str
    executor: str
    expires_at: int
    timeout_ms: int
    quorum: int
    reviewers: list[str]
    release: str
    grounded_arguments: list[str] = field(default_factory=list)
    grounded_from: list[str] = field(default_factory=list)
    grounded_labels: list[str] = field(default_factory=list)
    grounded_events: list[bytes] = field(default_factory=list)
    grounded_paths: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)
    tool: str = ""


@dataclass(slots=True)
class ReviewFacts:
    """A person's word that counted, and where the held call stands after it."""

    verdict: str
    reviewer: str
    action_digest: bytes
    approvals: list[str]
    quorum: int
    reviewers: list[str]
    edited: bool
    authenticated: bool


@dataclass(slots=True)
class ClaimFacts:
    """A claim: from here the call may have happened."""

    attempt: int
    executor: str
    started_at: int
    lease_until: int


@dataclass(slots=True)
class JobFacts:
    """Work that goes on at the tool, or a call whose end is looked up there: where it stands."""

    attempt: int
    waits_for: str
    polls: int
    due_at: int
    alive_until: int
    ends_at: int
    not_after: int
    handed_over: bool
    note: str


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
class TakenBackFacts(ResultFacts):
    """The end of a call in doubt that an operator took back: the fields of ResultFacts, and by which intent."""

    undo: str = ""
    undone_by: str = ""
    order: int = -1


@dataclass(slots=True)
class PromptFacts:
    """A prompt of the release was read, rendered by the ledger itself."""

    prompt: str
    digest: bytes
    result_digest: bytes
    result_bytes: int


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
class CellFacts:
    """A memory operation on what may consist of pieces, be shared between agents, or be searched."""

    op: str
    scope: str
    cell: bytes = b""
    home: int = -1
    version: int = 0
    base_version: int = 0
    value_digest: bytes = b""
    value_bytes: int = 0
    form: str = ""
    integrity: int = 0
    confidentiality: int = 0
    writer: str = ""
    made_by: str = ""
    result_bytes: int = 0
    examined: int = 0
    matched: int = 0
    observed: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CacheFacts:
    """A step of the cache: a call waits, runs for all or is answered, or a value came to this partition."""

    op: str
    entry: bytes
    home: int
    tool: str
    action_digest: bytes = b""
    ttl_us: int = 0
    until: int = 0
    partition: int = -1
    topic: str = ""
    offset: int = -1
    made_by: str = ""
    executed_by: str = ""
    result_digest: bytes = b""
    result_bytes: int = 0
    observed: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)


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
class OpeningFacts(SessionFacts):
    """A session opened under a release that declares a task: the fields of SessionFacts, and whether one was said."""

    task: bool = False


@dataclass(slots=True)
class IntakeFacts:
    """An input that could not be taken: unreadable, misrouted, of a type or signer the topic does not accept, or that broke the machinery."""

    detail: str
    length: int
    digest: bytes


@dataclass(slots=True)
class RestoreFacts:
    """An agent's state went back to an earlier position, as control ordered."""

    order: int
    cut: int
    piece: int
    pieces: int
    then_digest: bytes
    mark: int
    withdrawn: list[str]
    sessions: list[bytes]
    forgotten: list[bytes]
    cells: list[bytes]


@dataclass(slots=True)
class SealFacts:
    """A partition of a generation ends."""

    generation: int
    next_log_id: bytes
    size: int
    root: bytes


@dataclass(slots=True)
class ImportFacts:
    """State of an earlier generation's partition goes on in this one."""

    generation: int
    log_id: bytes
    partition: int
    seq: int
    root: bytes
    piece: int
    pieces: int
    digest: bytes
    rows: list[bytes]
