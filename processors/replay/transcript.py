"""The conversation so far: what was said and answered in one session, told again from the ledger's own inputs.

Only what was released to the session is told: the user's words and results that its state names (`Session.sources`), and each
result as the rules in force now let it through, without what was taken out of it then. Bounded in turns and bytes; the
oldest are left out. Bytes that are gone are said to be. Adds no labels: the session has them. Never tells of another session.
Next: `memory/memory.py` (who asks), `sessions/session.py`.
"""

from __future__ import annotations

import orjson
from sluicegate.processors.guardrails.guardrails import guard_result
from sluicegate.processors.guardrails.recipes import redact
from sluicegate.processors.memory.ops import Done, Request
from sluicegate.processors.payload import record_in
from sluicegate.processors.redecide import at_hand
from sluicegate.processors.results import result_in
from sluicegate.processors.sessions.session import Session, Source
from sluicegate.processors.work import Work
from sluicegate.schemas.records import CellFacts, Message, Receipt

HISTORY = "history"
"""The op of a contract that tells it."""

MAX_TURNS, TURNS = 50, 20
"""Of one answer at most, and when nothing is said: each may have to be loaded, a few milliseconds."""

MAX_TOLD_BYTES = 48 * 1024
"""All turns together, as JSON; a result has at most 64 kB."""

Json = object
Turn = dict[str, Json]


def history(work: Work, ask: Request, session: Session | None) -> Done:
    """The last turns, the oldest of them first. With `work.decision.needs`, nothing."""
    facts = CellFacts(
        HISTORY, "session", b"", work.state.partition, writer=ask.agent_id, made_by=ask.intent_id
    )
    sources = session.sources if session is not None else ()
    chosen = sources[-ask.limit :]
    raws = [at_hand(work, (one.topic, one.offset)) for one in chosen]
    if work.decision.needs:
        return Done(facts)
    turns: list[Turn] = []
    size = 0
    for source, raw in zip(reversed(chosen), reversed(raws), strict=True):
        turn = _turn(work, source, raw)
        size += len(orjson.dumps(turn))
        if size > MAX_TOLD_BYTES and turns:
            break
        turns.insert(0, turn)
    facts.examined, facts.matched = len(chosen), len(turns)
    about: Turn = {} if work.task is None else {"task": {"by": work.task.by, **work.task.given}}
    return Done(facts, {"turns": turns, "more": len(turns) < len(sources), **about})


def _turn(work: Work, source: Source, raw: bytes | None) -> Turn:
    if source.origin == "user":
        return {"role": "user", **_words(raw)}
    turn: Turn = {"role": "tool", "tool": source.tool}
    result = result_in(raw) if raw is not None else None
    if raw is None or result is None:
        return {**turn, "gone": True}
    return {**turn, **_result(work, source, raw, result)}


def _words(raw: bytes | None) -> Turn:
    """What a channel reported: the user's text, or the goal and the task it opened the session with."""
    record = record_in(raw)
    if not isinstance(record, Message):
        return {"gone": True}
    if record.kind == "session.open":
        about: Turn = {"task": orjson.loads(record.task)} if record.task else {}
        return {"goal": record.goal, **about, "at": record.issued_at}
    return {"text": record.text, "at": record.issued_at}


def _result(work: Work, source: Source, raw: bytes, result: bytes) -> Turn:
    """A result as the agent may see it."""
    record = record_in(raw)
    turn: Turn = {"at": record.finished_at} if isinstance(record, Receipt) else {}
    name, release = source.tool, work.release
    tool = release.tools.get(name) if release is not None else None
    if release is None or tool is None:
        return {**turn, "withheld": "unknown_tool"}
    if source.redacted:
        # INVARIANT: what was taken out once is never told later (tests/unit/test_transcript.py).
        result = orjson.dumps(redact(orjson.loads(result), source.redacted.split()))
    guarded = guard_result(work, result, tool.redact_result, release.guardrails.results.get(name, ()), None)
    if guarded.result is None:
        return {**turn, "withheld": guarded.reason}
    return {**turn, "result": orjson.loads(guarded.result)}
