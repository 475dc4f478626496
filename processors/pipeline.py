"""`decide`: one input in, outcomes out. The stages in order, and what else an input can be.

    intents ▸ route ▸ conform ▸ authorize ▸ validate ▸ plan ▸ dispatches
    messages ▸ session     receipts ▸ execute     reviews ▸ review     a due deadline ▸ tick

`decide(state, control, input, now)` is total: it never raises, for any bytes, and never reads a clock, a file or
the network. Live workers, recovery checks, replay, backtests and tests call this same function; `state.apply` folds
what it answers. Next: the stage files in that order, then `state.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import orjson
from sluicegate.processors.agents.restore import decide_restore
from sluicegate.processors.agents.restore import refuse as refuse_restore
from sluicegate.processors.approval.approvals import hold_call
from sluicegate.processors.approval.resume import VERDICT as RESUME
from sluicegate.processors.approval.resume import decide_resume
from sluicegate.processors.approval.reviews import decide_review
from sluicegate.processors.authorize import authorize, conform_arguments
from sluicegate.processors.budget.settle import settle
from sluicegate.processors.budget.spend import note_spend
from sluicegate.processors.cache.homes import tell
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.registry import inactive
from sluicegate.processors.crossing.alarms import alarm_first
from sluicegate.processors.crossing.exchanges import decide_alarm, decide_exchange, drop_alarm
from sluicegate.processors.erasure import REASON as ERASED
from sluicegate.processors.erasure import is_erased
from sluicegate.processors.guardrails.plugins import offer
from sluicegate.processors.guardrails.recipes import redact
from sluicegate.processors.handoff.handoff import decide_handoff, decide_transfer
from sluicegate.processors.inputs import Input, Tick
from sluicegate.processors.intake import DEAD_LETTER_HEAD_BYTES, InputRecord, Problem, take
from sluicegate.processors.jobs.resolve import decide_resolution
from sluicegate.processors.outcomes import PASSED, Decision
from sluicegate.processors.receipts import decide_receipt
from sluicegate.processors.results import result_in
from sluicegate.processors.route import route, valid_id, window
from sluicegate.processors.seam.generations import REASON as REPARTITIONING
from sluicegate.processors.sessions.scores import decide_score
from sluicegate.processors.sessions.sessions import OPEN, decide_message, decide_session
from sluicegate.processors.sessions.task import own
from sluicegate.processors.state import Ended, OpenIntent, PartitionState, due_intent, key_of, session_key
from sluicegate.processors.ticks import decide_tick
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.validate import validate
from sluicegate.processors.work import Refusal, Work, begin, digest_of, emit, reply, stand_on
from sluicegate.schemas.kinds import CALL_KINDS
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import (
    DeadLetter,
    Exchange,
    IntakeFacts,
    Intent,
    IntentFacts,
    Message,
    Receipt,
    Resolution,
    Score,
    StageFacts,
    Transfer,
)
from sluicegate.schemas.topics import TICK, partition_of

RESTING = ("held", "in_doubt")
"""States of an open intent in which whoever asked was told so."""

Stage = Callable[[Work], Refusal | None]

STAGES: tuple[tuple[str, str, Stage], ...] = (
    ("route", "routed", route),
    ("conform", "", conform_arguments),
    ("authorize", "permitted", authorize),
    ("validate", "validated", validate),
)
"""(name, status when passed, function). `conform` emits nothing when it passes; `plan` follows the last one."""


def decide(state: PartitionState, control: Control, source: Input | Tick, now: int) -> Decision:
    """What one input leads to. `now` in microseconds, at least `state.now`. Never raises."""
    work = begin(state, control, source, now)
    try:
        if isinstance(source, Tick):
            due = due_intent(state, source.due_by)
            if source.order >= 0:
                decide_restore(work, source.order)
            elif due is not None and not alarm_first(state, due[1].due_at):
                decide_tick(work, due[1])
            else:
                decide_alarm(work, source.due_by)
        else:
            _decide_input(work, source)
        if not work.decision.needs:
            settle(work)
            note_spend(work)
            tell(work)
    except Exception as error:  # total: a bug becomes an outcome with an alarm, and the partition goes on
        return machinery_failed(state, control, source, now, type(error).__name__)
    if work.decision.needs:
        return Decision(needs=work.decision.needs)
    return work.decision


def machinery_failed(
    state: PartitionState, control: Control, source: Input | Tick, now: int, detail: str
) -> Decision:
    """The outcome of an input that broke the machinery, here or three times in a row in the ledger loop."""
    work = begin(state, control, source, now)
    value = source.value if isinstance(source, Input) else b""
    if isinstance(source, Tick) and source.order >= 0:  # it must not come back at once
        refuse_restore(work, source.order, "machinery_failed")
        return work.decision
    if isinstance(source, Tick):
        due = due_intent(state, source.due_by)
        if due is not None and not alarm_first(state, due[1].due_at):  # it must not come back at once: end it
            entry, o = due[1], work.origin
            o.intent_id, o.tenant, o.agent_id = entry.intent_id, entry.tenant, entry.agent_id
            o.session_id, o.subject = entry.session_id, entry.subject
            status = "in_doubt" if entry.state in ("claimed", "parked") else "expired"
            emit(
                work, "tick", status, StageFacts(detail[:80]), "machinery_failed", caused_by=entry.last_event
            )
            try:
                settle(work)
            except Exception:  # what broke may be this: the reservation stays, and `ledger verify` says so
                del work.decision.outcomes[1:]
                work.decision.exchanges.clear()
            return work.decision
        if drop_alarm(work, source.due_by):
            return work.decision
    _unreadable(work, Problem("machinery_failed", detail), value)
    return work.decision


def _decide_input(work: Work, source: Input) -> None:
    taken = take(work.control, source.topic, source.value, work.now)
    if isinstance(taken, Problem):
        _unreadable(work, taken, source.value)
        return
    record, o = taken.record, work.origin
    work.payload, work.authenticated, work.proof = taken.payload, taken.authenticated, taken.proof
    if isinstance(record, Intent | Message):
        work.request = record.request
    if isinstance(record, Exchange):
        if record.to_partition == source.partition:
            decide_exchange(work, record)
        else:
            _unreadable(work, Problem("misrouted", "the exchange is for another partition"), source.value)
        return
    o.agent_id = record.agent_id
    if not valid_id(record.agent_id):
        o.agent_id = ""
        _unreadable(
            work, Problem("bad_identifier", "agent_id is not 1 to 256 printable characters"), source.value
        )
        return
    work.agent = work.control.agents.get(record.agent_id)
    if work.agent is not None:
        o.tenant = work.agent.tenant
    if isinstance(record, Intent):
        _decide_intent(work, record, source)
        return
    if partition_of(record.agent_id, work.state.partitions) != source.partition:
        _unreadable(work, Problem("misrouted", "the record's key belongs to another partition"), source.value)
    elif work.agent is None:
        _unknown_agent(work, record)
    elif isinstance(record, Message):
        decide_message(work, record)
    elif isinstance(record, Receipt):
        work.receipt = record
        decide_receipt(work, record)
    elif isinstance(record, Transfer):
        decide_transfer(work, record)
    elif isinstance(record, Resolution):
        decide_resolution(work, record)
    elif isinstance(record, Score):
        decide_score(work, record)
    elif record.verdict == RESUME:
        decide_resume(work, record)
    else:
        decide_review(work, record)


def _unknown_agent(work: Work, record: InputRecord) -> None:
    """Readable, but of nobody we know: a channel is told, a receipt or review is only recorded."""
    problem = Problem("unknown_agent", f"agent `{record.agent_id[:80]}` is not registered", dead=False)
    if not isinstance(record, Message):
        _unreadable(work, problem, work.payload)
        return
    o = work.origin
    if valid_id(record.message_id) and valid_id(record.session_id):
        o.intent_id, o.session_id = record.message_id, record.session_id
    digest = hashlib.sha256(work.payload).digest()[:16]
    facts = IntakeFacts(problem.reason, len(work.payload), digest)
    reply(
        work,
        emit(work, "session", "session_refused", facts, problem.reason),
        status="refused",
        detail=problem.detail,
    )


def _unreadable(work: Work, problem: Problem, value: bytes) -> None:
    digest = hashlib.sha256(value).digest()
    emit(work, "intake", "unreadable", IntakeFacts(problem.reason, len(value), digest[:16]), problem.reason)
    o = work.origin
    if problem.dead:
        work.decision.dead_letters.append(
            DeadLetter(
                o.topic, o.partition, o.offset, problem.reason, problem.detail[:500], len(value), digest,
                value[:DEAD_LETTER_HEAD_BYTES], work.now, None,
            )
        )  # fmt: skip


def _decide_intent(work: Work, intent: Intent, source: Input) -> None:
    o = work.origin
    o.intent_id, o.session_id = intent.intent_id, intent.session_id
    work.intent = intent
    if not valid_id(intent.intent_id) or not valid_id(intent.session_id):
        o.intent_id, o.session_id = "", ""
        _unreadable(work, Problem("bad_identifier", "ids are 1 to 256 printable characters"), source.value)
        return
    session = work.state.sessions.get(session_key(intent.agent_id, intent.session_id))
    if session is not None or intent.kind == OPEN:
        stand_on(work, intent.session_id, session)
    refusal = _before_identity(work, intent, source)
    if refusal is not None:
        _refuse(work, "route", refusal, remembered=False)
        return
    seen = work.state.intents.get(key_of(o))
    if seen is not None:
        _repeat(work, seen)
    elif work.control.repartition is not None:
        # INVARIANT: nothing is begun across a seam, and what was asked before is still answered (tests/unit/test_seam.py).
        _refuse(work, "route", Refusal(REPARTITIONING), remembered=False)
    elif intent.kind in CALL_KINDS:
        run_stages(work)
    elif intent.kind == "handoff":
        decide_handoff(work, intent)
    else:
        about = own(intent.arguments) if intent.kind == OPEN else b""
        decide_session(work, intent.kind, intent.session_id, intent.issued_at, origin="agent", about=about)


def _before_identity(work: Work, intent: Intent, source: Input) -> Refusal | None:
    """What an intent must be before its id can mean anything."""
    if partition_of(intent.agent_id, work.state.partitions) != source.partition:
        return Refusal(
            "misrouted", f"partition {source.partition} does not belong to `{intent.agent_id[:80]}`"
        )
    if work.agent is None:
        return Refusal("unknown_agent", f"agent `{intent.agent_id[:80]}` is not registered")
    reason = inactive(work.agent) or window(intent.issued_at, work.now)
    return Refusal(reason) if reason else None


def run_stages(work: Work) -> None:
    """Every stage in order; the first refusal ends it."""
    said = (0, 0)
    for name, passed, stage in STAGES:
        refusal = stage(work)
        if refusal is not None:
            _refuse(work, name, refusal)
            return
        if work.decision.needs:
            return
        if name == "route":
            cause = work.session.opened_by if work.session else b""
            emit(work, name, passed, _intent_facts(work, True), caused_by=cause)
        elif work.hold is not None:
            refused = hold_call(work, name)
            if refused is not None:
                _refuse(work, *refused)
            return
        elif name == "authorize":
            emit(work, name, passed, stage_facts(work), policies=work.policies)
            said = len(work.observed), len(work.redacted)
        elif passed:
            more = (len(work.observed), len(work.redacted)) != said
            emit(work, name, passed, stage_facts(work) if more else PASSED)
    offer(work)


def _intent_facts(work: Work, remembered: bool) -> IntentFacts:
    intent, tool = work.intent, work.tool
    assert intent is not None
    return IntentFacts(
        digest_of(work), intent.kind[:32], intent.tool[:128],
        tool.version if tool else "", tool.executor_kind if tool else "", intent.issued_at, intent.deadline_at or 0,
        work.authenticated, work.source.control_stale, remembered, work.call_digest,
    )  # fmt: skip


def _refuse(work: Work, stage: str, refusal: Refusal, *, remembered: bool = True) -> None:
    first = not work.decision.outcomes
    facts: object = _intent_facts(work, remembered) if first else stage_facts(work)
    # The detail may quote the call, so it is content; a first outcome's content is the input itself.
    content = refusal.detail.encode() if refusal.detail and not first else None
    outcome = emit(work, stage, "refused", facts, refusal.reason, list(refusal.policies), content)
    reply(work, outcome, detail=refusal.detail)


def _repeat(work: Work, seen: OpenIntent | Ended) -> None:
    """The id was used before: the same request gets the first answer, another one is a conflict."""
    digest = digest_of(work)
    facts = IntakeFacts("intent", len(work.payload), digest)
    if digest != seen.digest:
        outcome = emit(work, "route", "noted", facts, "id_conflict")
        reply(work, outcome, status="refused")
        # INVARIANT: whoever waits for the first request is not told that the second was refused (tests/unit/test_once.py).
        work.decision.replies[-1].answers = digest
        return
    if not isinstance(seen, Ended):
        outcome = emit(work, "route", "noted", facts, "duplicate", caused_by=seen.last_event)
        if seen.state in RESTING:  # else its own end will answer
            reply(work, outcome, status=seen.state, duplicate=True)
            _as_first(work, seen.state, "", seen.hold_policies)
        return
    o = work.origin
    name = session_key(o.agent_id, o.session_id)
    about = work.state.sessions.get(name) or work.state.closed.get(name)
    if about is not None and is_erased(work.control, about.subject):
        # INVARIANT: no answer is told again after an erasure (tests/unit/test_erasure.py).
        o.subject = about.subject
        outcome = emit(work, "route", "noted", facts, ERASED, caused_by=seen.event_id)
        reply(work, outcome, status="refused")
        return
    result: bytes | None = None
    if seen.state in ("released", "resolved") and seen.topic != TICK:  # a tick brought no bytes
        place = (seen.topic, seen.offset)
        if place not in work.source.contents:
            work.decision.needs.append(place)
            return
        result = _result_of(work.source.contents[place], seen.redacted)
    outcome = emit(work, "route", "noted", facts, "duplicate", caused_by=seen.event_id)
    reply(work, outcome, status=seen.state, result=result, duplicate=True)
    _as_first(work, seen.state, seen.reason, ())


def _as_first(work: Work, status: str, reason: str, policies: Sequence[str]) -> None:
    """A duplicate is told what the first one was told, as far as it is remembered."""
    told, text = work.decision.replies[-1], REASONS.get(reason)
    told.reason, told.policies = reason, list(policies)
    told.for_model = text.for_model if text is not None else ""
    told.for_developer = text.remedy if text is not None else f"it was asked before, and is {status}"


def _result_of(value: bytes | None, redacted: str) -> bytes | None:
    """The result in an input's bytes, without what was taken out of it then."""
    result = result_in(value) if value is not None else None
    return (
        result
        if result is None or not redacted
        else orjson.dumps(redact(orjson.loads(result), redacted.split()))
    )
