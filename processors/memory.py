"""Memory: what agents remember, kept by the ledger itself.

A contract with executor kind `memory` and an `op` (`write`, `read`, `forget`) needs no executor: once the call is
permitted and validated, the decision that dispatches it also ends it. Scopes `session` (gone with it) and `agent`. The
state holds where a value stands (the writing intent's place), its version and its labels; never the value or its key's
name. A value carries the labels of the session that wrote it, and brings them to whoever reads it.
What an agent wrote down is its own words, so a value read from memory grounds nothing. Never leaves its partition.
Next: `plan.py` (who calls this), `cells.py` (what the state keeps).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson
from sluicegate.processors.cells import MAX_CELLS, cell_key
from sluicegate.processors.guardrails import Guarded, guard_result
from sluicegate.processors.labels import header_labels
from sluicegate.processors.session import MAX_SESSION_CELLS
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.records import ClaimFacts, Envelope, Intent, MemoryFacts, ResultFacts, Review

KIND = "memory"
MAX_VALUE_BYTES = 16 * 1024
"""A remembered value as JSON; larger things are artifacts."""

Json = object


@dataclass(frozen=True, slots=True)
class _Done:
    """What an operation led to: the agent's answer, or a reason that it failed."""

    answer: dict[str, Json] | None
    facts: MemoryFacts | None = None
    reason: str = ""


def perform(work: Work, lease_us: int) -> None:
    """Do it: claim, then end, after the dispatch that was just emitted. A value that is not at hand is asked for."""
    emit(work, "execute", "claimed", ClaimFacts(1, "ledger", work.now, lease_us))
    op = _op(work)
    done = {"write": _write, "read": _read, "forget": _forget}[op](work)
    if work.decision.needs:
        return
    if done.answer is None or done.facts is None:
        ended = ResultFacts(1, "ledger", work.now, work.now, b"", 0, done.reason)
        reply(work, emit(work, "execute", "failed", ended, done.reason))
        return
    result = orjson.dumps(done.answer, option=orjson.OPT_SORT_KEYS)
    rules: list[str] = []
    if op == "read":
        guarded = _guard(work, result)
        if guarded.result is None:
            why, seen = guarded.reason, guarded.observed
            ended = ResultFacts(1, "ledger", work.now, work.now, b"", 0, why, seen)
            outcome = emit(work, "execute", "withheld", ended, why, guarded.rules)
            reply(work, outcome, detail=guarded.detail)
            return
        result, rules = guarded.result, guarded.rules
    done.facts.result_bytes = len(result)
    labels = header_labels(done.facts.integrity, done.facts.confidentiality) if op == "read" else []
    reply(work, emit(work, "execute", "released", done.facts, policies=rules, labels=labels), result=result)


def _guard(work: Work, result: bytes) -> Guarded:
    """What was remembered, as the agent may see it."""
    assert work.tool is not None and work.release is not None
    rules = work.release.guardrails.results.get(work.tool.name, ())
    return guard_result(work, result, work.tool.redact_result, rules, work.tool.result_validator)


def _op(work: Work) -> str:
    assert work.tool is not None
    return str(work.tool.contract.governance.executor.model_dump().get("op"))


def _args(work: Work) -> dict[str, Json]:
    assert work.conformed is not None
    return work.conformed.args


def _scope(work: Work) -> str:
    return str(_args(work).get("scope", "session"))


def _key(work: Work) -> bytes:
    o = work.origin
    return cell_key(_scope(work), o.agent_id, o.session_id, str(_args(work).get("key", "")))


def _write(work: Work) -> _Done:
    state, session, key = work.state, work.session, _key(work)
    assert session is not None
    value = orjson.dumps(_args(work).get("value"), option=orjson.OPT_SORT_KEYS)
    old = state.memory.get(key)
    version = old.version if old else 0
    wanted = _args(work).get("if_version")
    if wanted is not None and wanted != version:
        return _Done(None, reason="version_conflict")
    if work.redacted:  # the cell names the intent's bytes, which hold what was taken out
        return _Done(None, reason="memory_redacted")
    if len(value) > MAX_VALUE_BYTES:
        return _Done(None, reason="value_too_large")
    full = len(state.memory) >= MAX_CELLS or (
        _scope(work) == "session" and len(session.cells) >= MAX_SESSION_CELLS
    )
    if old is None and full:
        return _Done(None, reason="memory_full")
    # INVARIANT: a value never has better labels than what its writer had seen (tests/unit/test_memory.py).
    facts = MemoryFacts(
        "write", _scope(work), key, version + 1, hashlib.sha256(value).digest(), 0, session.integrity,
        session.confidentiality,
    )  # fmt: skip
    return _Done({"version": version + 1}, facts)


def _read(work: Work) -> _Done:
    key = _key(work)
    cell = work.state.memory.get(key)
    if cell is None:
        return _Done({"found": False, "version": 0}, MemoryFacts("read", _scope(work), key, 0, b"", 0, 0, 0))
    place = (cell.topic, cell.offset)
    library = work.source.library
    raw = library.raw(place) if library is not None else None
    if raw is None and place not in work.source.contents:
        work.decision.needs.append(place)
    value = value_in(raw or work.source.contents.get(place), cell.value_digest)
    facts = MemoryFacts(
        "read", _scope(work), key, cell.version, cell.value_digest, 0, cell.integrity, cell.confidentiality
    )
    if value is None:  # erased, or past the input topic's retention
        return _Done({"found": False, "gone": True, "version": cell.version}, facts)
    return _Done({"found": True, "value": orjson.loads(value), "version": cell.version}, facts)


def _forget(work: Work) -> _Done:
    key = _key(work)
    cell = work.state.memory.get(key)
    version = cell.version if cell else 0
    return _Done(
        {"forgotten": cell is not None}, MemoryFacts("forget", _scope(work), key, version, b"", 0, 0, 0)
    )


def value_in(raw: bytes | None, digest: bytes) -> bytes | None:
    """The value in a writing intent's bytes, or in those of the review that edited it; None when they are gone or hold
    another one."""
    if raw is None:
        return None
    try:
        record = codec.decode(raw)
        if isinstance(record, Envelope):
            record = codec.decode(record.payload)
        if not isinstance(record, Intent | Review) or record.arguments is None:
            return None
        value = orjson.dumps(orjson.loads(record.arguments).get("value"), option=orjson.OPT_SORT_KEYS)
    except (Unreadable, orjson.JSONDecodeError):
        return None
    return value if hashlib.sha256(value).digest() == digest else None
