"""The state of one ledger partition, and `apply`: the only fold.

Live deciding, recovery, rebuild, replay and `ledger verify` all call the same `apply(state, outcome)`. It reads
header and facts, never content, so an erased ledger folds to the same state. It never reads a clock: what
expires, expires by the `decided_at` of the outcome being folded. State is changed in place; when a transaction
fails the ledger drops the state and folds it again (see `streams/ledger.py`).
Next: `entries.py` (what it is made of), `sessions/session.py`, `snapshot.py` (state <-> canonical bytes), `pipeline.py`.
"""

from __future__ import annotations

import heapq
from functools import lru_cache

from sluicegate.processors import lifecycle
from sluicegate.processors.agents import restore_fold as agent_restore_fold
from sluicegate.processors.approval.hold_fold import fold_hold
from sluicegate.processors.budget import fold as budget_fold
from sluicegate.processors.cache import fold as cache_fold
from sluicegate.processors.crossing import alarms, homes
from sluicegate.processors.ended import Ended, taken_out
from sluicegate.processors.entries import AWAITS, OpenIntent, PartitionState
from sluicegate.processors.guardrails import derail
from sluicegate.processors.handoff.delegation import hand_over
from sluicegate.processors.intents import keys_in
from sluicegate.processors.jobs import terms as job_terms
from sluicegate.processors.memory import fold as memory_fold
from sluicegate.processors.models import routed
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.outcomes import intent_key as intent_key
from sluicegate.processors.outcomes import key_of as key_of
from sluicegate.processors.outcomes import message_key as message_key
from sluicegate.processors.outcomes import score_key as score_key
from sluicegate.processors.outcomes import transfer_key as transfer_key
from sluicegate.processors.seam import fold as seam_fold
from sluicegate.processors.sessions import closed
from sluicegate.processors.sessions.session import Session, Source, from_mark, learn, opening, see, use
from sluicegate.schemas.kinds import OPEN
from sluicegate.schemas.records import (
    AnswerFacts,
    AttemptFacts,
    CacheFacts,
    CellFacts,
    ChoiceFacts,
    ClaimFacts,
    GenesisFacts,
    HoldFacts,
    IntentFacts,
    JobFacts,
    MemoryFacts,
    PlanFacts,
    PromptFacts,
    ScoreFacts,
    SessionFacts,
    StageFacts,
    StreamedFacts,
    StreamFacts,
)

__all__ = ["Ended", "OpenIntent", "PartitionState", "Session", "Source"]

US = 1_000_000
HOUR_US = 3_600 * US

ACCEPT_WINDOW_US = 24 * HOUR_US
"""An intent is accepted while |append time - issued_at| is at most this (DESIGN §4)."""

MAX_REMEMBERED_IDS = 2_000_000
"""Ids in one partition's duplicates window. About 85 bytes each (68 a row of `intents.py`, 17 its place in
`expiry`): at most 170 MB, then new intents are refused `overloaded`. An id is forgotten 24 h after its `issued_at`, so
this is 23 intents/s around the clock on one partition; more agents need more partitions, and bursts are free."""

SESSION_IDLE_US = 24 * HOUR_US
"""A session nobody used for this long is closed by the fold."""

MAX_SESSIONS = 500_000
"""Open sessions in one partition: about 500 bytes each, 250 MB."""

MAX_OPEN_INTENTS = 100_000
"""Intents of one partition that wait for somebody; more are refused `overloaded`. About 1.3 kB each: 130 MB; a held
one has the bounds of `approval/holds.py` besides."""

LEASE_MARGIN_US = 2 * US
"""Waited after a lease before it counts as run out: the marker of the claim's transaction needs up to 21 ms to
be visible, clocks differ by less than a second under NTP."""


_ROUTED = (ChoiceFacts, AttemptFacts, AnswerFacts)
_REMEMBERED, _OWN_WORDS = (MemoryFacts, CellFacts), (MemoryFacts, CellFacts, PromptFacts)
UNFOLDED = frozenset((lifecycle.ATTACHED, "unreadable", "session_refused"))
"""Statuses that move only positions and time, and what is about a home (`crossing/homes.py`)."""


def session_key(agent_id: str, session_id: str) -> str:
    """Key of a session in the state."""
    return f"{agent_id}\0{session_id}"


def session_of(state: PartitionState, entry: OpenIntent) -> Session | None:
    """The session an open intent was asked in, closed or not."""
    name = session_key(entry.agent_id, entry.session_id)
    return state.parked.get(name) or state.sessions.get(name)


def next_due(state: PartitionState) -> int | None:
    """When the next deadline or alarm is due, in microseconds, or None."""
    due, alarm = _next_intent(state), alarms.next_alarm(state)
    return due if alarm is None or (due is not None and due <= alarm) else alarm


def _next_intent(state: PartitionState) -> int | None:
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
    due = _next_intent(state)
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
        if outcome.stage in homes.STAGES:
            if o.intent_id:
                key_of(o)
            homes.fold(state, outcome)
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
    elif status == "scored":
        _apply_score(state, outcome)
    elif status == "restored":
        agent_restore_fold.fold(state, outcome)
    elif outcome.stage == seam_fold.STAGE:
        seam_fold.fold(state, outcome)
    elif o.intent_id:
        _apply_intent(state, outcome)
    return state


@lru_cache(4_096)
def _shared(text: str) -> str:
    """An equal text, one object for all: thousands of sessions name the same agents and people."""
    return text


def _apply_session(state: PartitionState, outcome: Outcome) -> None:
    o, facts = outcome.origin, outcome.facts
    assert isinstance(facts, SessionFacts)
    if facts.origin == "handoff":
        key = transfer_key(bytes.fromhex(o.intent_id))
    else:
        make_key = message_key if facts.origin == "channel" else intent_key
        key = make_key(o.tenant, o.agent_id, o.intent_id)
    ended = Ended(facts.digest, outcome.status, outcome.reason, o.topic, o.offset, outcome.event_id)
    _remember(state, key, facts.issued_at, ended, o.agent_id)
    name = session_key(o.agent_id, o.session_id)
    if outcome.status == "opened":
        state.withdrawn.pop(name, None)
        agent, subject, person = (_shared(text) for text in (o.agent_id, o.subject, facts.on_behalf_of))
        opened = state.sessions[name] = Session(
            agent, o.session_id, subject, person, _shared(facts.origin), o.decided_at, o.decided_at,
            opened_by=outcome.event_id, verified=int(facts.verified), release=_shared(o.release), opened_head=o.control_head,
            opened_offset=opening(facts, o.offset),
        )  # fmt: skip
        if facts.origin == "channel":
            learn(opened, Source(outcome.event_id, "user", o.topic, o.offset, ""))
        elif facts.origin == "handoff":
            hand_over(state, opened, outcome, facts)
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
        gone = state.sessions.pop(name, None)
        if gone is not None:
            closed.end(state, name, gone)
            if gone.held:
                state.parked[name] = gone
    elif outcome.status == "heard":
        session = state.sessions.get(name)
        if session is not None:  # else it was idle for so long that the sweep just closed it
            session.user_messages += 1
            session.last_at = o.decided_at
            learn(session, Source(outcome.event_id, "user", o.topic, o.offset, ""))


def _apply_score(state: PartitionState, outcome: Outcome) -> None:
    """Only its id is kept: a score changes no decision."""
    o, facts = outcome.origin, outcome.facts
    assert isinstance(facts, ScoreFacts)
    ended = Ended(facts.digest, "scored", "", o.topic, o.offset, outcome.event_id)
    _remember(state, score_key(o.tenant, o.agent_id, facts.score_id), facts.issued_at, ended, o.agent_id)


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
            _remember(state, key, facts.issued_at, intent, o.agent_id)
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
            refused = Ended(facts.digest, status, outcome.reason, o.topic, o.offset, outcome.event_id)
            _remember(state, key, facts.issued_at, refused, o.agent_id)
        return
    entry = state.intents.get(key)
    if type(entry) is not OpenIntent:
        return
    place: tuple[str, int] | None = None
    if status == "released" or (status == "resolved" and outcome.labels):
        _release(state, entry, outcome)
        if isinstance(facts, _REMEMBERED):
            session = state.sessions.get(session_key(entry.agent_id, entry.session_id))
            place = memory_fold.released(state, entry, session, outcome)
    if entry.state == "held" or status == "held":
        fold_hold(entry, outcome)
    if isinstance(facts, _ROUTED):
        routed.fold(state, entry, facts, o.decided_at)
        if isinstance(facts, AnswerFacts):
            derail.note_confidence(session_of(state, entry), facts.confidence)
    if status in lifecycle.TERMINAL:
        _keep_session(state, entry, status)
        ended = status, outcome.reason, *(place or _place(outcome)), outcome.event_id, taken_out(facts)
        state.intents[key] = Ended(entry.digest, *ended)
        state.open_count -= 1
        if key in state.waiters:
            budget_fold.fold_end(state, key)
        if entry.cached:
            cache_fold.ended(state, key, entry.cached, outcome)
        return
    entry.state = status
    entry.last_event = outcome.event_id
    entry.awaits = ""
    if type(facts) is StreamFacts and outcome.labels:
        see(state.marks, entry.agent_id, session_of(state, entry), outcome.labels)
    if isinstance(facts, PlanFacts):
        entry.tool_class, entry.attempt, entry.timeout_ms = facts.tool_class, facts.attempt, facts.timeout_ms
        entry.action_digest, entry.executor = facts.action_digest, facts.executor
        if status == "held":  # as it was written before holds had facts of their own
            entry.due_at = facts.not_after
        else:
            if facts.attempt == 1 and status == "dispatched":
                use(session_of(state, entry), entry.tool, facts)
            entry.dispatch_id = outcome.event_id
            entry.due_at = facts.not_after + LEASE_MARGIN_US
        if status == "waiting":
            entry.awaits = facts.executor if facts.executor in AWAITS else ""
            entry.asked = " ".join(outcome.policies)
        heapq.heappush(state.timers, (entry.due_at, key))
    elif type(facts) is HoldFacts:
        entry.due_at = facts.expires_at
        heapq.heappush(state.timers, (entry.due_at, key))
    elif type(facts) is ClaimFacts:
        entry.claimed_at = facts.started_at
        entry.due_at = facts.lease_until + LEASE_MARGIN_US
        heapq.heappush(state.timers, (entry.due_at, key))
    elif type(facts) is JobFacts:
        job_terms.fold(entry, outcome, facts)
        entry.due_at = facts.due_at + (LEASE_MARGIN_US if facts.not_after else 0)
        heapq.heappush(state.timers, (entry.due_at, key))
    elif type(facts) is CacheFacts:
        cache_fold.moved(state, outcome)
    if (type(facts) is StageFacts or type(facts) is HoldFacts) and facts.redacted:
        entry.redacted = " ".join(sorted({*entry.redacted.split(), *facts.redacted}))
    _keep_session(state, entry, status)
    if status == "in_doubt":
        entry.due_at = 0  # nothing happens by itself any more
        if entry.cached:
            # INVARIANT: no call in doubt keeps equal ones waiting (tests/unit/test_seams.py).
            cache_fold.ended(state, key, entry.cached, outcome)


def _release(state: PartitionState, entry: OpenIntent, outcome: Outcome) -> None:
    """A result reached the session: its labels join, and it may ground later values."""
    session = session_of(state, entry)
    see(state.marks, entry.agent_id, session, outcome.labels)
    if session is None:
        return
    derail.note_result(session)
    if type(outcome.facts) is StreamedFacts and outcome.facts.mode == OPEN:
        return  # INVARIANT: what nobody looked at first grounds nothing (tests/unit/test_streaming.py)
    if isinstance(outcome.facts, _OWN_WORDS) or outcome.status == "resolved":
        return  # what an agent wrote down is its own words, and a person's copy of a result is no event: they ground nothing
    place = _place(outcome)
    learn(session, Source(outcome.event_id, "result", *place, entry.tool, taken_out(outcome.facts)))


def _place(outcome: Outcome) -> tuple[str, int]:
    """Where the bytes stand that an end tells of: the input's, or those of an earlier result."""
    o, facts = outcome.origin, outcome.facts
    return (facts.topic, facts.offset) if type(facts) is CacheFacts and facts.topic else (o.topic, o.offset)


def _keep_session(state: PartitionState, entry: OpenIntent, status: str) -> None:
    """A call that people hold keeps its session, closed or not, until it is offered or ends."""
    waits = int(status == "held" or (status == "waiting" and entry.held_at > 0))
    if entry.keeps == waits or (entry.keeps and status in lifecycle.PASSING):
        return
    session = session_of(state, entry)
    if session is not None:
        session.held += waits - entry.keeps
        if not session.held:
            state.parked.pop(session_key(entry.agent_id, entry.session_id), None)
    entry.keeps = waits


def _remember(
    state: PartitionState, key: bytes, issued_at: int, entry: OpenIntent | Ended, agent_id: str
) -> None:
    if state.owners is not None:
        state.owners[key] = agent_id
    if key not in state.intents:
        hour = (issued_at + ACCEPT_WINDOW_US) // HOUR_US + 1
        state.expiry.setdefault(hour, bytearray()).extend(key)
    state.intents[key] = entry


def pass_hour(state: PartitionState, now: int) -> None:
    """Another record was decided at `now`, in a later hour than the one before."""
    state.now = max(state.now, now)
    _sweep(state)


def _sweep(state: PartitionState) -> None:
    """Once an hour of decided time: forget ids past the window and sessions nobody uses."""
    hour = state.now // HOUR_US
    state.swept_hour = hour
    for bucket in sorted(b for b in state.expiry if b <= hour):
        for key in keys_in(state.expiry.pop(bucket)):
            if type(state.intents.get(key)) is Ended:
                del state.intents[key]
                if state.owners is not None:
                    state.owners.pop(key, None)
            elif key in state.intents:  # still open: look again in an hour
                state.expiry.setdefault(hour + 1, bytearray()).extend(key)
    if state.accounts:
        budget_fold.sweep(state)
    if state.cache:
        cache_fold.sweep(state)
    agent_restore_fold.sweep(state)
    closed.sweep(state, state.now - SESSION_IDLE_US)
