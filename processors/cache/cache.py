"""The cache: a call that was answered a moment ago, or runs already for somebody else, is not made again.

    validated ▸ released | withheld             the result is here: no dispatch, no reservation, no attempt
    validated ▸ dispatched ▸ …                   nobody asked before: it runs, for all who ask meanwhile
    validated ▸ waiting ▸ released | dispatched  an equal call runs, or its home is asked who may run it

It is asked after every stage, so who may not call gets no hit either. What is kept is the tool's own answer; each
asker's contract, redactions and guardrails look at it anew, and its labels join each asker's session. Nothing is kept
of a call that failed or was withheld: the next one who waits runs. A call through a model's alias runs with all its fallbacks
for who waits, and is kept when the candidate asked first answered. Never holds a value; state says where bytes stand.
Next: `cache/rules.py` (which calls are the same), `cache/entries.py` (how an entry moves).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson
from sluicegate.processors.cache.entries import (
    ASKING,
    AWAY,
    IDLE,
    MAX_WAITERS,
    READY,
    RUNNING,
    CacheEntry,
)
from sluicegate.processors.cache.fold import CACHE
from sluicegate.processors.cache.rules import CacheRule, entry_key, home_of
from sluicegate.processors.erasure import is_erased
from sluicegate.processors.guardrails.guardrails import Guarded, guard_result
from sluicegate.processors.labels import CONFIDENTIALITY, header_labels, join
from sluicegate.processors.models.aims import asked, stopped
from sluicegate.processors.plan import DEFAULT_DEADLINE_US, deadline_of
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.results import result_in
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.validate import check_result
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas.records import CacheFacts, StageFacts

WAIT_US = 30_000_000
"""A call that waits looks again so often, in case the partition it waits for has no owner."""

EXECUTED_BY = "cache"

_FULL = f"{MAX_WAITERS} calls wait for the same answer"


def answer(work: Work) -> bool:
    """Whether the call goes on to its dispatch; else it was answered, waits, or bytes are needed first."""
    assert work.tool is not None
    rule = work.tool.cache
    if rule is None:
        return True
    known = work.state.intents.get(key_of(work.origin))
    if work.attempt > 1:  # a further attempt runs for those who wait for the first
        if type(known) is OpenIntent:
            turn_to(work, known)
        return True
    facts = _facts(work, rule)
    waited = known if type(known) is OpenIntent and known.awaits == CACHE else None
    if waited is not None and waited.cached != facts.entry:
        # INVARIANT: who waits for another call than it is by now leaves it (tests/unit/test_cache_routes.py).
        _mark(work, "leave", replace(facts, entry=waited.cached), waited)
    new = waited is None or waited.cached != facts.entry
    entry = work.state.cache.entries.get(facts.entry)
    if entry is not None and entry.answers(work.now):
        if _hit(work, entry, facts, waited) or work.decision.needs:
            return False
        _mark(work, "lost", facts, waited)  # erased, or past their topic's retention
        entry = None
    op = _turn(work, entry, facts, waited)
    if op == "run":
        if waited is not None:
            cause = b"" if work.decision.outcomes else waited.last_event
            emit(work, "validate", "validated", stage_facts(work, "its turn"), caused_by=cause)
        _mark(work, "run", facts, waited)
        return True
    if entry is not None and new and len(entry.waiters) >= MAX_WAITERS:
        outcome = emit(work, "plan", "refused", StageFacts(""), "overloaded", content=_FULL.encode())
        reply(work, outcome, detail=_FULL)
        return False
    deadline = _deadline(work, waited)
    facts.until = min(deadline, work.now + WAIT_US)
    if waited is None:
        facts.op = op
        emit(work, "plan", "waiting", facts)
    else:
        _mark(work, op, facts, waited)
    return False


def _facts(work: Work, rule: CacheRule) -> CacheFacts:
    tool, state, o = work.tool, work.state, work.origin
    assert tool is not None and work.conformed is not None
    # Of a session that was closed meanwhile nobody knows what it saw: it counts as a secret one.
    seen = work.session.confidentiality if work.session is not None else len(CONFIDENTIALITY) - 1
    call = tool.name, tool.version, _asked(work), work.conformed.canonical
    key = entry_key(rule, state.env, o.tenant, o.agent_id, seen, call)
    home = home_of(rule, key, state.partition, state.partitions)
    return CacheFacts("", key, home, tool.name, work.action_digest, rule.ttl_s * 1_000_000)


def _asked(work: Work) -> bytes:
    """Who answers: the contract's executor object. Of an alias that of the candidate asked first, and who else may be asked.

    INVARIANT: nobody gets the answer of a candidate that may not be asked for it (tests/unit/test_cache_routes.py).
    """
    tool = asked(work)
    if work.aim is None:
        return tool.executor
    known = work.state.intents.get(key_of(work.origin))
    routes = known.routes if type(known) is OpenIntent else ()
    usable = work.choice.usable if work.choice is not None else routes
    others = sorted(name for name in usable if not stopped(work, name))
    return orjson.dumps([tool.name, tool.version, others]) + tool.executor


def turn_to(work: Work, known: OpenIntent) -> None:
    """A call of an alias that runs for others turns to another candidate: its answer is for who waits already, and is not kept.

    Else the answer of a lesser model would be given for as long as the entry stands, when the first is well again.
    """
    entry = work.state.cache.entries.get(known.cached) if known.cached and work.aim is not None else None
    runs = entry is not None and entry.state == RUNNING and entry.runner == key_of(work.origin)
    if (
        entry is None
        or work.aim is None
        or not runs
        or not entry.ttl_us
        or known.candidate == work.aim.candidate
    ):
        return
    _mark(work, "turned", CacheFacts("", known.cached, entry.home, known.tool, known.action_digest), known)


def _turn(work: Work, entry: CacheEntry | None, facts: CacheFacts, waited: OpenIntent | None) -> str:
    """`run`, `ask` or `wait`.

    INVARIANT: of equal calls one runs at a time (tests/properties/test_cache.py).
    """
    local = facts.home == work.state.partition
    if entry is None or entry.state == READY:
        return "run" if local else "ask"
    if entry.state == IDLE:
        if waited is None or entry.waiters[:1] != [key_of(work.origin)]:
            return "wait"
        return "run" if local or work.now < entry.lease_until else "ask"
    if entry.state == ASKING and work.now >= entry.lease_until:
        return "ask"
    return "run" if entry.state == AWAY and work.now >= entry.lease_until else "wait"


def _deadline(work: Work, waited: OpenIntent | None) -> int:
    if waited is not None:
        return deadline_of(waited)
    assert work.intent is not None
    return work.intent.deadline_at or work.intent.issued_at + DEFAULT_DEADLINE_US


def _mark(work: Work, op: str, facts: CacheFacts, waited: OpenIntent | None) -> None:
    cause = waited.last_event if waited is not None and not work.decision.outcomes else b""
    emit(work, CACHE, "noted", replace(facts, op=op), caused_by=cause)


def _hit(work: Work, entry: CacheEntry, facts: CacheFacts, waited: OpenIntent | None) -> bool:
    """Answer with the result at hand. False: its bytes are needed first, or they are gone."""
    tool, release = work.tool, work.release
    assert tool is not None and release is not None
    if is_erased(work.control, entry.subject):
        return False
    raw = at_hand(work, (entry.topic, entry.offset))
    result = result_in(raw) if raw is not None else None
    if result is None:
        return False
    guarded = Guarded(None, check_result(result, tool.result_validator))
    if not guarded.reason:
        rules = release.guardrails.results.get(tool.name, ())
        guarded = guard_result(work, result, tool.redact_result, rules, tool.result_validator)
    facts = replace(
        facts, op="hit", topic=entry.topic, offset=entry.offset, made_by=entry.made_by, executed_by=EXECUTED_BY,
        until=entry.expires_at, observed=guarded.observed, redacted=guarded.redacted,
    )  # fmt: skip
    labels: list[str] = []
    if guarded.result is not None:
        facts.result_digest = hashlib.sha256(guarded.result).digest()
        facts.result_bytes = len(guarded.result)
        # INVARIANT: a hit brings the labels that the call would have brought (tests/unit/test_cache.py).
        labels = header_labels(*join(orjson.loads(guarded.result), tool.labels, tool.confidential))
    outcome = emit(
        work, "execute", "withheld" if guarded.reason else "released", facts, guarded.reason, guarded.rules,
        caused_by=waited.last_event if waited is not None else b"", labels=labels,
    )  # fmt: skip
    reply(work, outcome, result=guarded.result, detail=guarded.detail)
    return True
