"""What the state of one ledger partition is made of: open intents, and all the rest.

Plain records, filled by the fold alone. Their bounds stand in `state.py`; their canonical bytes are written by
`snapshot.py`, which names every field. Never holds content: only where bytes stand. Next: `sessions/session.py`,
`ended.py`, `memory/cells.py`, `state.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sluicegate.processors.budget.state import Account, Home, Reservation, Waiter
from sluicegate.processors.cache.entries import CacheTable
from sluicegate.processors.intents import Intents
from sluicegate.processors.memory.cells import Cell
from sluicegate.processors.models.health import Health
from sluicegate.processors.outcomes import ZERO_HASH
from sluicegate.processors.sessions.resting import Sessions
from sluicegate.processors.sessions.session import Session

AWAITS = ("grant", "cache", "pause", "memory")
"""Executor kinds of a plan that nobody executes: the call waits for a budget's grant, for an equal call's result, or for the
home of a shared scope."""


@dataclass(slots=True)
class OpenIntent:
    """An intent that has not ended. `offset` is where its bytes stand in the topic `intents`.

    Attributes:
        quorum, reviewers, hold_policies, hold_release: what is asked of people, once it was held.
        approvals: who agreed to `action_digest` so far.
        held_at: when it was held first. asked_at: when what is asked last changed.
        waited_us: how long people took; it does not count against the deadline.
        edit_topic, edit_offset: where the arguments stand that a person put in place of the intent's own.
        keeps: 1 while its session must not go, since people hold it and it is decided again after.
        routes, candidate, tried, aimed, repair: of a routed model call, who may be asked, who is, and who failed (`models/aims.py`).
    """

    intent_id: str
    agent_id: str
    session_id: str
    tenant: str
    subject: str
    tool: str
    version: str
    executor: str
    state: str
    digest: bytes
    issued_at: int
    deadline_at: int
    topic: str
    offset: int
    release: str
    last_event: bytes
    tool_class: str = ""
    attempt: int = 0
    due_at: int = 0
    dispatch_id: bytes = b""
    action_digest: bytes = b""
    timeout_ms: int = 0
    claimed_at: int = 0
    redacted: str = ""
    """Recipes that were applied to the call, separated by spaces."""
    asked: str = ""
    """Guardrails whose plug-ins were asked about the call, separated by spaces."""
    quorum: int = 0
    reviewers: tuple[str, ...] = ()
    approvals: tuple[str, ...] = ()
    hold_policies: tuple[str, ...] = ()
    hold_release: str = ""
    held_at: int = 0
    asked_at: int = 0
    waited_us: int = 0
    edit_topic: str = ""
    edit_offset: int = 0
    keeps: int = 0
    awaits: str = ""
    """While it waits, on what: plug-ins when empty, else `AWAITS`."""
    waits_for: str = ""
    """Of `parked`: see `jobs/jobs.py`."""
    polls: int = 0
    alive_until: int = 0
    ends_at: int = 0
    job_topic: str = ""
    job_offset: int = 0
    """Where the receipt stands that names the job, or what the home of shared memory answered."""
    routes: tuple[str, ...] = ()
    candidate: str = ""
    tried: tuple[str, ...] = ()
    aimed: int = 0
    repair: int = -1
    cached: bytes = b""
    """The cache entry it waits for or runs for, or empty."""
    withdrawn: int = 0
    """1 when its agent was rolled back since it was asked (`agents/restore.py`)."""
    stream: str = ""
    """Of a call that is asked as a stream: the mode of the attempt that is out."""
    shown: str = ""
    """The last message that an earlier attempt is known to have streamed."""


@dataclass(slots=True)
class Closed:
    """What is remembered of a session that is over (`sessions/closed.py`): when it ended, whose key seals what is said of it, the
    release it stood on, the event that opened it."""

    at: int
    subject: str
    release: str
    opened_by: bytes


@dataclass(slots=True)
class PartitionState:
    """Everything one partition's decisions depend on, besides control."""

    log_id: bytes
    partition: int
    partitions: int = 0
    env: str = ""
    signing: str = "dev"
    seq: int = 0
    prev_hash: bytes = ZERO_HASH
    now: int = 0
    control_head: int = -1
    positions: dict[str, int] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)
    parked: dict[str, Session] = field(default_factory=dict)
    """Closed sessions of calls that are still to be decided; nothing new is asked in them."""
    closed: dict[str, Closed] = field(default_factory=dict)
    """Sessions that are over, by when they ended."""
    intents: Intents = field(default_factory=Intents)
    memory: dict[bytes, Cell] = field(default_factory=dict)
    shelves: dict[str, dict[bytes, None]] = field(default_factory=dict)
    """Owner of memory that outlives a session -> its cells, the last one written last (`memory/cells.py`)."""
    health: dict[str, Health] = field(default_factory=dict)
    """contract -> how this candidate of model routes did lately."""
    marks: dict[str, int] = field(default_factory=dict)
    """agent_id -> labels of all its sessions so far (`session.mark_of`): a new session does not wash them off."""
    open_count: int = 0
    accounts: dict[str, Account] = field(default_factory=dict)
    """Budgets and limits as far as they are this partition's: local ones, and what it leased of shared ones."""
    homes: dict[str, Home] = field(default_factory=dict)
    """Shared budgets that live here."""
    reservations: dict[bytes, tuple[Reservation, ...]] = field(default_factory=dict)
    """Open intent -> what its attempts reserved."""
    waiters: dict[bytes, Waiter] = field(default_factory=dict)
    """Intents that wait for a grant, the first one first."""
    seen: dict[bytes, int] = field(default_factory=dict)
    """Exchanges taken -> until when they are remembered."""
    alarms: dict[str, int] = field(default_factory=dict)
    """What is due about homes -> when; read by `homes.due_alarm`."""
    cache: CacheTable = field(default_factory=CacheTable)
    restored: dict[str, int] = field(default_factory=dict)
    """Agent -> control event of the last order to roll it back that was taken in."""
    withdrawn: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Session that a rollback ended -> (event that opened it, when), for when that is taken back."""
    sealed: int = 0
    """1 once the partition's generation ended: nothing is decided here any more (`seam/fold.py`)."""
    imported: int = 0
    began: int = 0
    """Of a generation after the first: the seq and the time of the last import. No agent goes back to before it."""
    earlier: int = 0
    """At least as many records as any partition of earlier generations has: versions and places of memory count on from there."""
    # Derived, not part of the state bytes:
    owners: dict[bytes, str] | None = None
    """Remembered id -> its agent, filled by the fold only where somebody asks for it (`seam/seam.py`): about 100 bytes each."""
    expiry: dict[int, bytearray] = field(default_factory=dict)
    """Hour of decided time -> keys of the intents that are forgotten then, one after the other."""
    swept_hour: int = 0
    timers: list[tuple[int, bytes]] = field(default_factory=list)
    alarm_timers: list[tuple[int, str]] = field(default_factory=list)
    queues: dict[str, dict[bytes, None]] = field(default_factory=dict)
    """Account -> its waiters, in their order."""
    seen_timers: list[tuple[int, bytes]] = field(default_factory=list)
    pieces: int = 0
    """Pieces of remembered values beyond the first of each."""
