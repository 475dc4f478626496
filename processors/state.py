"""The state of one ledger partition, and `apply`: the only fold.

Live deciding, recovery, rebuild, replay and `ledger verify` all call the same `apply(state, outcome)`. It reads
header and facts, never content, so an erased ledger folds to the same state. It never reads a clock: what
expires, expires by the `decided_at` of the outcome being folded. State is changed in place; when a transaction
fails the ledger drops the state and folds it again (see `streams/ledger.py`).
Next: `session.py`, `ended.py`, `snapshot.py` (state <-> canonical bytes), `pipeline.py` (who reads it).
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field

from sluicegate.processors import cells, derail, labels, lifecycle
from sluicegate.processors.cells import Cell
from sluicegate.processors.delegation import join_names
from sluicegate.processors.ended import Ended as Ended
from sluicegate.processors.outcomes import ZERO_HASH, Origin, Outcome
from sluicegate.processors.session import Session as Session
from sluicegate.processors.session import Source as Source
from sluicegate.processors.session import from_mark, learn, mark_of, use
from sluicegate.schemas.records import (
    ClaimFacts,
    GenesisFacts,
    IntentFacts,
    MemoryFacts,
    PlanFacts,
    ResultFacts,
    SessionFacts,
    StageFacts,
)

US = 1_000_000
HOUR_US = 3_600 * US

ACCEPT_WINDOW_US = 24 * HOUR_US
"""An intent is accepted while |append time - issued_at| is at most this (DESIGN §4)."""

MAX_REMEMBERED_IDS = 2_000_000
"""Ids in one partition's duplicates window. About 210 bytes each (64 the key, 96 the `Ended`, 50 their places in the
dict and the expiry list): at most 420 MB, then new intents are refused `overloaded`. An id is forgotten 24 h after its
`issued_at`, so this is 23 intents/s around the clock on one partition; more agents need more partitions, and bursts
are free."""

SESSION_IDLE_US = 24 * HOUR_US
"""A session nobody used for this long is closed by the fold."""

MAX_SESSIONS = 500_000
"""Open sessions in one partition: about 500 bytes each, 250 MB."""

MAX_OPEN_INTENTS = 100_000
"""Intents of one partition that wait for somebody; more are refused `overloaded`. About 1.2 kB each: 120 MB."""

LEASE_MARGIN_US = 2 * US
"""Waited after a lease before it counts as run out: the marker of the claim's transaction needs up to 21 ms to
be visible (notes/kafka-loop.md, trap 3), clocks differ by less than a second under NTP."""


UNFOLDED = frozenset((lifecycle.ATTACHED, "unreadable", "session_refused"))
"""Statuses that move only positions and time."""


@dataclass(slots=True)
class OpenIntent:
    """An intent that has not ended. `offset` is where its bytes stand in the topic `intents`."""

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
    sessions: dict[str, Session] = field(default_factory=dict)
    intents: dict[bytes, OpenIntent | Ended] = field(default_factory=dict)
    memory: dict[bytes, Cell] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    """agent_id -> labels of all its sessions so far (`session.mark_of`): a new session does not wash them off."""
    open_count: int = 0
    # Derived, not part of the state bytes:
    expiry: dict[int, list[bytes]] = field(default_factory=dict)
    swept_hour: int = 0
    timers: list[tuple[int, bytes]] = field(default_factory=list)


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


def transfer_key(transfer_id: bytes) -> bytes:
    """The identity of a transfer; never equal to an intent's or a message's."""
    return hashlib.sha256(b"transfer\0" + transfer_id).digest()[:16]


def session_key(agent_id: str, session_id: str) -> str:
    """Key of a session in the state."""
    return f"{agent_id}\0{session_id}"


def next_due(state: PartitionState) -> int | None:
    """When the next deadline is due, in microseconds, or None."""
    timers = state.timers
    while timers:
        due, key = timers[0]
        intent = state.intents.get(key)
        if type(intent) is OpenIntent and intent.due_at == due:
            return due
        heapq.heappop(timers)  # it ended or moved meanwhile
    return None


def due_intent(state: PartitionState, now: int) -> tuple[bytes, OpenIntent] | None:
    """The intent whose deadline has been due longest, or None."""
    due = next_due(state)
    if due is None or due > now:
        return None
    key = state.timers[0][1]
    intent = state.intents[key]
    assert isinstance(intent, OpenIntent)
    return key, intent


def apply(state: PartitionState, outcome: Outcome) -> PartitionState:
    """Fold one outcome. Returns the same object, changed."""
    o = outcome.origin
    if o.decided_at > state.now:
        state.now = o.decided_at
    if o.control_head > state.control_head:
        state.control_head = o.control_head
    if o.topic in state.positions:
        if o.offset >= state.positions[o.topic]:
            state.positions[o.topic] = o.offset + 1
    elif o.topic != "tick" and o.topic:
        state.positions[o.topic] = o.offset + 1
    state.seq += 1
    if state.now // HOUR_US > state.swept_hour:
        _sweep(state)
    status = outcome.status
    if status in UNFOLDED:
        return state
    if status == "genesis":
        facts = outcome.facts
        assert isinstance(facts, GenesisFacts)
        state.partitions, state.env, state.signing = facts.partitions, facts.env, facts.signing
    elif status == "resumed":
        halted = state.sessions.get(session_key(o.agent_id, o.session_id))
        if halted is not None:
            derail.resume(halted)
            halted.last_at = o.decided_at
    elif outcome.stage == "session":
        _apply_session(state, outcome)
    elif o.intent_id:
        _apply_intent(state, outcome)
    return state


def _apply_session(state: PartitionState, outcome: Outcome) -> None:
    o, facts = outcome.origin, outcome.facts
    assert isinstance(facts, SessionFacts)
    if facts.origin == "handoff":
        key = transfer_key(bytes.fromhex(o.intent_id))
    else:
        make_key = message_key if facts.origin == "channel" else intent_key
        key = make_key(o.tenant, o.agent_id, o.intent_id)
    _remember(
        state,
        key,
        facts.issued_at,
        Ended(facts.digest, outcome.status, outcome.reason, o.topic, o.offset, outcome.event_id),
    )
    name = session_key(o.agent_id, o.session_id)
    if outcome.status == "opened":
        opened = state.sessions[name] = Session(
            o.agent_id, o.session_id, o.subject, facts.on_behalf_of, facts.origin, o.decided_at, o.decided_at,
            opened_by=outcome.event_id, verified=int(facts.verified),
        )  # fmt: skip
        if facts.origin == "channel":
            opened.sources.append(Source(outcome.event_id, "user", o.topic, o.offset, ""))
        elif facts.origin == "handoff":
            _hand_over(state, opened, outcome, facts)
        else:
            # INVARIANT: a session that an agent opened starts with all the agent ever saw
            # (tests/unit/test_labels.py::test_new_session_does_not_wash_taint).
            opened.integrity, opened.confidentiality = from_mark(state.marks.get(o.agent_id, 0))
    elif outcome.status == "delegated":
        session = state.sessions.get(name)
        if session is not None:
            session.calls_given += facts.calls_cap
            session.last_at = o.decided_at
    elif outcome.status == "closed":
        ended = state.sessions.pop(name, None)
        if ended is not None:
            cells.forget_session(state.memory, ended)
    elif outcome.status == "heard":
        session = state.sessions.get(name)
        if session is not None:  # else it was idle for so long that the sweep just closed it
            session.user_messages += 1
            session.last_at = o.decided_at
            learn(session, Source(outcome.event_id, "user", o.topic, o.offset, ""))


def _hand_over(state: PartitionState, session: Session, outcome: Outcome, facts: SessionFacts) -> None:
    """A session that was handed on begins with the labels of the one it comes from, and within its bounds.

    INVARIANT: its agent remembers those labels, too (tests/unit/test_handoff.py::test_labels_travel).
    """
    session.chain, session.roles_cap = join_names(facts.chain), join_names(facts.roles)
    session.calls_cap = facts.calls_cap
    session.integrity, session.confidentiality = labels.read_header(outcome.labels)
    mark = mark_of(session.integrity, session.confidentiality)
    state.marks[session.agent_id] = state.marks.get(session.agent_id, 0) | mark


def _apply_intent(state: PartitionState, outcome: Outcome) -> None:
    o, facts, status = outcome.origin, outcome.facts, outcome.status
    key = key_of(o)
    if type(facts) is IntentFacts:
        if not facts.remembered:
            return
        if status == "routed":
            intent = OpenIntent(
                o.intent_id, o.agent_id, o.session_id, o.tenant, o.subject, facts.tool, facts.version, facts.executor,
                status, facts.digest, facts.issued_at, facts.deadline_at, o.topic, o.offset, o.release, outcome.event_id,
            )  # fmt: skip
            _remember(state, key, facts.issued_at, intent)
            state.open_count += 1
            session = state.sessions.get(session_key(o.agent_id, o.session_id))
            if session is not None:
                session.calls += 1
                session.last_at = o.decided_at
                derail.note_call(session, facts.call_digest, "")
        else:
            session = state.sessions.get(session_key(o.agent_id, o.session_id))
            if session is not None:
                derail.note_call(session, facts.call_digest, outcome.reason)
            _remember(
                state,
                key,
                facts.issued_at,
                Ended(facts.digest, status, outcome.reason, o.topic, o.offset, outcome.event_id),
            )
        return
    entry = state.intents.get(key)
    if type(entry) is not OpenIntent:
        return
    if status == "released":
        _release(state, entry, outcome)
        if type(facts) is MemoryFacts:
            session = state.sessions.get(session_key(entry.agent_id, entry.session_id))
            cells.fold(state.memory, session, entry.agent_id, facts, entry.topic, entry.offset)
    if status in lifecycle.TERMINAL:
        redacted = " ".join(facts.redacted) if type(facts) is ResultFacts else ""
        state.intents[key] = Ended(
            entry.digest, status, outcome.reason, o.topic, o.offset, outcome.event_id, redacted
        )
        state.open_count -= 1
        return
    entry.state = status
    entry.last_event = outcome.event_id
    if type(facts) is PlanFacts:
        entry.tool_class, entry.attempt, entry.timeout_ms = facts.tool_class, facts.attempt, facts.timeout_ms
        entry.action_digest, entry.executor = facts.action_digest, facts.executor
        if status == "held":
            entry.due_at = facts.not_after
        else:
            if facts.attempt == 1 and status == "dispatched":
                use(state.sessions.get(session_key(entry.agent_id, entry.session_id)), entry.tool, facts)
            entry.dispatch_id = outcome.event_id
            entry.due_at = facts.not_after + LEASE_MARGIN_US
        if status == "waiting":
            entry.asked = " ".join(outcome.policies)
        heapq.heappush(state.timers, (entry.due_at, key))
    elif type(facts) is ClaimFacts:
        entry.claimed_at = facts.started_at
        entry.due_at = facts.lease_until + LEASE_MARGIN_US
        heapq.heappush(state.timers, (entry.due_at, key))
    elif type(facts) is StageFacts and facts.redacted:
        entry.redacted = " ".join(sorted({*entry.redacted.split(), *facts.redacted}))
    if status == "in_doubt":
        entry.due_at = 0  # nothing happens by itself any more


def _release(state: PartitionState, entry: OpenIntent, outcome: Outcome) -> None:
    """A result reached the session: its labels join, and it may ground later values."""
    bits, confidentiality = labels.read_header(outcome.labels)
    mark = mark_of(bits, confidentiality)
    state.marks[entry.agent_id] = state.marks.get(entry.agent_id, 0) | mark
    session = state.sessions.get(session_key(entry.agent_id, entry.session_id))
    if session is None:
        return
    derail.note_result(session)
    session.integrity |= bits
    session.confidentiality = max(session.confidentiality, confidentiality)
    if type(outcome.facts) is MemoryFacts:
        return  # what an agent wrote down is its own words: they ground nothing
    o = outcome.origin
    learn(session, Source(outcome.event_id, "result", o.topic, o.offset, entry.tool))


def _remember(state: PartitionState, key: bytes, issued_at: int, entry: OpenIntent | Ended) -> None:
    if key not in state.intents:
        hour = (issued_at + ACCEPT_WINDOW_US) // HOUR_US + 1
        state.expiry.setdefault(hour, []).append(key)
    state.intents[key] = entry


def _sweep(state: PartitionState) -> None:
    """Once an hour of decided time: forget ids past the window and sessions nobody uses."""
    hour = state.now // HOUR_US
    state.swept_hour = hour
    for bucket in sorted(b for b in state.expiry if b <= hour):
        for key in state.expiry.pop(bucket):
            if type(state.intents.get(key)) is Ended:
                del state.intents[key]
            elif key in state.intents:  # still open: look again in an hour
                state.expiry.setdefault(hour + 1, []).append(key)
    limit = state.now - SESSION_IDLE_US
    for name in [n for n, s in state.sessions.items() if s.last_at < limit]:
        cells.forget_session(state.memory, state.sessions.pop(name))
