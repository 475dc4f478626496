"""The cache between partitions: who may run a call is decided at one place, and its result goes to all who asked.

    cache.ask    to the home    a call waits here: may it run, or is the result there?
    cache.run    from the home  it may, until the lease is over
    cache.done   to the home    how it ended, with the result
    cache.hit    from the home  the result, to every partition that asked

A partition asks once for all its calls, and keeps what it was told until it ends: its next equal call is answered
without an exchange. A result travels in the exchange, and each ledger seals it under the key of whom it is about. What
is sent is never decided here: `cache_entries.step` says it, as it will be folded. Next: `cache/cache.py`, `crossing/exchanges.py`.
"""

from __future__ import annotations

import orjson
from sluicegate.processors.cache.entries import OVER, CacheEntry, Send, step
from sluicegate.processors.cache.fold import CACHE
from sluicegate.processors.crossing import exchanges
from sluicegate.processors.crossing.sending import amounts_of, send, taken
from sluicegate.processors.inputs import Input
from sluicegate.processors.outcomes import Outcome, key_of
from sluicegate.processors.plan import DEFAULT_DEADLINE_US
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.results import result_in
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import CacheFacts, Exchange

HOME = "cache:"
KINDS = {
    "ask": "cache.ask",
    "run": "cache.run",
    "hit": "cache.hit",
    "done": "cache.done",
    "failed": "cache.done",
}

LEASE_SPARE_US = 10_000_000
"""A run lasts until its intent's deadline and the call that was begun before it; this much later another one may run."""

TOLD_FOR_US = 600_000_000
"""How long a result that was sent may be taken: longer than a partition needs to find another owner."""


def tell(work: Work) -> None:
    """Send what the decision's outcomes mean for other partitions."""
    state, outcomes = work.state, work.decision.outcomes
    if not state.cache and not any(type(o.facts) is CacheFacts for o in outcomes):
        return
    seen: dict[bytes, CacheEntry | None] = {}
    entry_of: dict[bytes, bytes] = {}
    for outcome in list(outcomes):
        facts, intent = outcome.facts, key_of(outcome.origin)
        if type(facts) is CacheFacts and facts.op != "hit":
            key = facts.entry
            if facts.op in ("ask", "wait", "run"):
                entry_of[intent] = key
        elif outcome.status in OVER:
            call = state.intents.get(intent)
            key = entry_of.get(intent) or (call.cached if isinstance(call, OpenIntent) else b"")
        else:
            continue
        if not key:
            continue
        if key not in seen:
            known = state.cache.entries.get(key)
            seen[key] = known.copied() if known is not None else None
        room = key in state.cache.entries or state.cache.room()
        moved = step(seen[key], state.partition, intent, outcome, room)
        seen[key] = moved.entry
        for one in moved.sends:
            _send(work, outcome, key, moved.entry, one)


def _send(work: Work, cause: Outcome, key: bytes, entry: CacheEntry | None, one: Send) -> None:
    amounts, body, deadline = {"until": one.until}, b"", one.until
    if one.kind == "ask":
        facts = cause.facts
        assert isinstance(facts, CacheFacts)
        deadline = _lease(work)
        amounts, body = {"until": deadline, "ttl_us": facts.ttl_us}, _body(facts.tool, "", "")
    elif one.kind in ("hit", "done"):
        assert entry is not None
        place = (entry.topic, entry.offset)
        source = work.source
        here = isinstance(source, Input) and (source.topic, source.offset) == place
        raw = source.value if isinstance(source, Input) and here else at_hand(work, place)
        result = result_in(raw) if raw is not None else None
        if result is None:
            return  # `_ask` saw to it that it is there
        amounts["ok"] = 1
        body = _body(entry.tool, entry.made_by, entry.subject) + result
        deadline = max(one.until, work.now + TOLD_FOR_US)
    elif one.kind == "failed":
        amounts, deadline = {"until": 0, "ok": 0}, work.now + TOLD_FOR_US
    send(
        work,
        cause,
        KINDS[one.kind],
        HOME + key.hex(),
        one.partition,
        amounts,
        deadline_at=deadline,
        body=body,
    )


def _lease(work: Work) -> int:
    """Until when the call that asks would run."""
    intent, tool = work.intent, work.tool
    assert intent is not None and tool is not None
    deadline = intent.deadline_at or intent.issued_at + DEFAULT_DEADLINE_US
    return max(deadline, work.now) + tool.timeout_ms * 1_000 + LEASE_SPARE_US


def _body(tool: str, made_by: str, subject: str) -> bytes:
    """One line of JSON, and behind it the result."""
    return orjson.dumps([tool, made_by, subject]) + b"\n"


# -- what comes ----------------------------------------------------------------------------------------------------------


def _about(work: Work, exchange: Exchange, op: str) -> CacheFacts:
    """What an exchange says, as facts. Raises `ValueError` for what no partition of this version sends."""
    key = bytes.fromhex(exchange.home.removeprefix(HOME))
    if len(key) != 16:
        raise ValueError("no cache entry has this name")
    amounts, me = amounts_of(exchange), work.state.partition
    tool, made_by, subject = "", "", ""
    if exchange.body:
        tool, made_by, subject = orjson.loads(exchange.body.partition(b"\n")[0])
    if subject:
        work.origin.subject = (
            subject  # the ledger seals the exchange under the key of whom the result is about
        )
    home = me if exchange.kind in ("cache.ask", "cache.done") else exchange.from_partition
    return CacheFacts(
        op, key, home, tool, ttl_us=amounts.get("ttl_us", 0), until=amounts.get("until", 0),
        partition=exchange.from_partition, made_by=made_by,
    )  # fmt: skip


def _note(work: Work, exchange: Exchange, facts: CacheFacts, *, lost: bool = False) -> None:
    taken(work, exchange, amounts_of(exchange))
    if lost:
        emit(work, CACHE, "noted", CacheFacts("lost", facts.entry, facts.home, facts.tool))
    emit(work, CACHE, "noted", facts)


def _ask(work: Work, exchange: Exchange) -> None:
    facts = _about(work, exchange, "asked")
    entry, lost = work.state.cache.entries.get(facts.entry), False
    if entry is not None and entry.answers(work.now):
        raw = at_hand(work, (entry.topic, entry.offset))
        if work.decision.needs:
            return
        lost = raw is None or result_in(raw) is None
    _note(work, exchange, facts, lost=lost)


def _run(work: Work, exchange: Exchange) -> None:
    _note(work, exchange, _about(work, exchange, "granted"))


def _told(work: Work, exchange: Exchange) -> None:
    """`cache.done` at the home, or `cache.hit` at who asked."""
    facts = _about(work, exchange, "kept" if amounts_of(exchange).get("ok") else "failed")
    if facts.op == "kept":
        facts.topic, facts.offset = work.origin.topic, work.origin.offset
    _note(work, exchange, facts)


exchanges.HANDLERS.update({"cache.ask": _ask, "cache.run": _run, "cache.done": _told, "cache.hit": _told})
