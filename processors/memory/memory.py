"""Memory: what agents remember, kept by the ledger itself.

A contract with executor kind `memory` and an `op` needs no executor: once the call is permitted and validated, the
decision that dispatches it also ends it. Scopes `session` (gone with it), `agent`, and `shared:<name>` in one tenant:

    dispatched ▸ claimed ▸ released | failed                    it is kept in this partition
    waiting ▸ dispatched ▸ claimed ▸ released | failed          another partition is its home, and was asked
            ▸ expired | (dispatched ▸ claimed ▸) in_doubt       it did not answer: a read; a write that may have happened

The state holds where a value stands, its version and its labels; never the value or its key's name. A value carries the
labels of the session that wrote it, and brings them to whoever reads it. What an agent wrote down is its own words, so a
value read from memory grounds nothing. Next: `memory/ops.py` (what is done), `memory/homes.py` (the home's side).
"""

from __future__ import annotations

from dataclasses import replace

import orjson
from sluicegate.processors.control import quarantine
from sluicegate.processors.crossing.sending import home_partition, send
from sluicegate.processors.guardrails.guardrails import Guarded, guard_result
from sluicegate.processors.labels import header_labels
from sluicegate.processors.memory.cells import SHARED, known_scope
from sluicegate.processors.memory.ops import FOUND, MAX_FOUND, Done, Request, do, too_large
from sluicegate.processors.memory.wire import asking, told_in
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.replay.transcript import HISTORY, MAX_TURNS, TURNS, history
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas.kinds import MEMORY
from sluicegate.schemas.records import CellFacts, ClaimFacts, MemoryFacts, PlanFacts, ResultFacts, StageFacts

KIND = MEMORY
"""The executor kind, and what a call awaits whose home was asked."""

READS = ("read", "search", HISTORY)

ANSWER_US = 600_000_000
"""How long after its deadline a write is waited for: Kafka brings the answer, but the home may be without an owner."""

DONE_BY_US = 300_000_000
"""A home acts on what it was asked no later than this: shorter than an exchange is remembered (`crossing/homes.py`)."""

ROLLED_BACK = "rolled_back"

NEVER = -2
"""A version that no value has."""

Json = object


def away(work: Work) -> bool:
    """Whether another partition keeps what the call is about. What fails here anyway does not travel."""
    ask = asked(work)
    if not ask.shared or not known_scope(ask.scope) or _refused(work, ask):
        return False
    return home_partition(work, ask.scope) != work.state.partition


def perform(work: Work, lease_us: int) -> None:
    """Do it here: claim, then end, after the dispatch that was just emitted. A value that is not at hand is asked for."""
    emit(work, "execute", "claimed", ClaimFacts(1, "ledger", work.now, lease_us))
    ask = asked(work)
    reason = _refused(work, ask) or ("" if known_scope(ask.scope) else "bad_scope")
    if reason:
        done = Done(CellFacts(ask.op, ask.scope), reason=reason)
    else:
        done = (history if ask.op == HISTORY else do)(work, ask, work.session)
    if not work.decision.needs:
        _finish(work, done)


def ask_home(work: Work, facts: PlanFacts) -> None:
    """Send it to the home, and wait. `facts`: of the offer that it would have been."""
    ask = asked(work)
    deadline = facts.not_after
    # The tick that looks again finds an answer, or none: nobody waits for a read that is late.
    facts.executor, facts.not_after = KIND, deadline if ask.op in READS else deadline + ANSWER_US
    outcome = emit(work, "plan", "waiting", facts)
    amounts, body = asking(ask, work.origin.subject, min(deadline, work.now + DONE_BY_US))
    home = home_partition(work, ask.scope)
    send(work, outcome, "memory.ask", ask.scope, home, amounts, body=body, waits=work.origin)


def look_again(work: Work, entry: OpenIntent) -> None:
    """The home answered, or nobody waits for it any more."""
    if not entry.job_topic:
        _unanswered(work, entry)
        return
    raw = at_hand(work, (entry.job_topic, entry.job_offset))
    if work.decision.needs:
        return
    done = told_in(raw) if raw is not None else None
    if done is None:
        _unanswered(work, entry)
    elif done.reason == "deadline_passed":
        _end(work, entry, "expired", done.reason)
    elif done.facts.op in READS and _stopped(work, entry):
        _end(work, entry, "refused", quarantine.REASON)
    else:
        _resume(work, entry)
        if entry.withdrawn:  # it was done; its agent was rolled back meanwhile, and is not told
            ended = ResultFacts(1, "ledger", work.now, work.now, b"", 0, ROLLED_BACK)
            reply(work, emit(work, "execute", "withheld", ended, ROLLED_BACK))
            return
        _finish(work, done)


def _stopped(work: Work, entry: OpenIntent) -> bool:
    """Whether a person stopped this agent, session or tool meanwhile: nothing more is told to it."""
    control = work.control
    return bool(
        quarantine.quarantined(
            control, entry.agent_id, entry.tool, entry.session_id, control.deployed, entry.intent_id
        )
    )


def _unanswered(work: Work, entry: OpenIntent) -> None:
    if entry.tool_class == "read_only":
        _end(work, entry, "expired", "home_silent")
        return
    # INVARIANT: a write that a home may have done never counts as not done (tests/unit/test_shared_memory.py).
    _resume(work, entry)
    reply(work, emit(work, "execute", "in_doubt", StageFacts(""), "call_in_doubt"))


def _end(work: Work, entry: OpenIntent, status: str, reason: str) -> None:
    reply(work, emit(work, "plan", status, StageFacts(""), reason, caused_by=entry.last_event))


def _resume(work: Work, entry: OpenIntent) -> None:
    """Offer and claim what the home did, and fill `work` with what guards its answer."""
    release = work.control.release
    work.release, work.tool = release, release.tools.get(entry.tool) if release is not None else None
    work.agent = work.control.agents.get(entry.agent_id)
    work.session = work.state.sessions.get(f"{entry.agent_id}\0{entry.session_id}")
    lease = work.now + entry.timeout_ms * 1_000
    facts = PlanFacts(entry.action_digest, entry.tool_class, KIND, 1, work.now, entry.timeout_ms)
    emit(work, "plan", "dispatched", facts, caused_by=entry.last_event)
    emit(work, "execute", "claimed", ClaimFacts(1, "ledger", work.now, lease))


def _finish(work: Work, done: Done) -> None:
    """The end of an operation, here or at its home: what was read is guarded, and brings its labels."""
    if done.answer is None:
        ended = ResultFacts(1, "ledger", work.now, work.now, b"", 0, done.reason)
        reply(work, emit(work, "execute", "failed", ended, done.reason))
        return
    facts = done.facts
    result = orjson.dumps(done.answer, option=orjson.OPT_SORT_KEYS)
    rules: list[str] = []
    labels: list[str] = []
    if facts.op in READS:
        guarded = _guard(work, result)
        if guarded.result is None:
            why, seen = guarded.reason, guarded.observed
            ended = ResultFacts(1, "ledger", work.now, work.now, b"", 0, why, seen)
            outcome = emit(work, "execute", "withheld", ended, why, guarded.rules)
            reply(work, outcome, detail=guarded.detail)
            return
        result, rules = guarded.result, guarded.rules
        facts = replace(facts, observed=guarded.observed, redacted=guarded.redacted)
        labels = header_labels(facts.integrity, facts.confidentiality)
    facts.result_bytes = len(result)
    outcome = emit(work, "execute", "released", _as_before(work, facts), policies=rules, labels=labels)
    reply(work, outcome, result=result)


def _as_before(work: Work, facts: CellFacts) -> CellFacts | MemoryFacts:
    """What older versions wrote, too, is written as they wrote it: a ledger of theirs decides alike."""
    plain = facts.op == "forget" or not facts.form
    if facts.scope.startswith(SHARED) or facts.op not in ("write", "read", "forget") or not plain:
        return facts
    return MemoryFacts(
        facts.op, facts.scope, facts.cell, facts.version, facts.value_digest, facts.result_bytes, facts.integrity,
        facts.confidentiality,
    )  # fmt: skip


def _guard(work: Work, result: bytes) -> Guarded:
    """What was remembered, as the agent may see it."""
    if work.tool is None or work.release is None or work.agent is None:
        return Guarded(None, "unknown_tool")
    rules = work.release.guardrails.results.get(work.tool.name, ())
    return guard_result(work, result, work.tool.redact_result, rules, work.tool.result_validator)


# -- what is asked ------------------------------------------------------------------------------------------------------


def asked(work: Work) -> Request:
    """The call as a request to memory."""
    o, session = work.origin, work.session
    assert work.tool is not None and work.conformed is not None and session is not None
    args = work.conformed.args
    op = str(work.tool.contract.governance.executor.model_dump().get("op"))
    usual, most = (TURNS, MAX_TURNS) if op == HISTORY else (FOUND, MAX_FOUND)
    wanted, limit, before = (args.get(name) for name in ("if_version", "limit", "before"))
    return Request(
        op, "session" if op == HISTORY else str(args.get("scope", "session")), o.tenant, o.agent_id, o.session_id, o.intent_id,
        str(args.get("prefix" if op == "search" else "key", "")),
        orjson.dumps(args.get("value"), option=orjson.OPT_SORT_KEYS) if op in ("write", "append") else b"",
        -1 if wanted is None else _number(wanted, NEVER), session.integrity, session.confidentiality, str(args.get("as", "list")),
        str(args.get("words", "")), max(1, min(most, _number(limit, usual))), _number(before, 0),
    )  # fmt: skip


def _number(value: Json, otherwise: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int else otherwise


def _refused(work: Work, ask: Request) -> str:
    """Why a write is not tried at all."""
    if ask.op not in ("write", "append"):
        return ""
    key = work.state.memory.get(ask.cell)
    if not ask.shared and ask.if_version not in (-1, key.version if key is not None else 0):
        return "version_conflict"  # said first, as it always was
    if work.redacted:  # the cell names the intent's bytes, which hold what was taken out
        return "memory_redacted"
    return "value_too_large" if too_large(ask) else ""
