"""What an asker and a home of shared memory tell each other, as the amounts and the body of an exchange.

The body is one line of JSON, and behind it the value, or the home's answer. Who asks stands in the exchange itself. Reading
raises `ValueError`, `KeyError` or `TypeError` for what no partition of this version sends. Never decides anything.
Next: `memory/memory.py` (who asks), `memory/homes.py` (who answers).
"""

from __future__ import annotations

import orjson
from sluicegate.processors.crossing.sending import amounts_of
from sluicegate.processors.memory.ops import Done, Request
from sluicegate.processors.payload import record_in
from sluicegate.schemas.records import CellFacts, Exchange

ASK, TOLD = "memory.ask", "memory.told"

Message = tuple[dict[str, int], bytes]


def asking(ask: Request, subject: str, not_after: int) -> Message:
    """A request. `subject`: whose key seals it at the home. `not_after`: later it is not acted on."""
    amounts = {
        "if_version": ask.if_version, "integrity": ask.integrity, "confidentiality": ask.confidentiality,
        "limit": ask.limit, "before": ask.before, "not_after": not_after,
    }  # fmt: skip
    head = {
        "op": ask.op, "scope": ask.scope, "key": ask.key, "form": ask.form, "words": ask.words, "subject": subject,
    }  # fmt: skip
    return amounts, orjson.dumps(head) + b"\n" + ask.value


def asked_in(exchange: Exchange) -> tuple[Request, str, int]:
    """(request, subject, not_after) of an exchange."""
    head, _, value = exchange.body.partition(b"\n")
    said, amounts = orjson.loads(head), amounts_of(exchange)
    ask = Request(
        str(said["op"]), str(said["scope"]), exchange.tenant, exchange.agent_id, exchange.session_id, exchange.intent_id,
        str(said["key"]), value, amounts["if_version"], amounts["integrity"], amounts["confidentiality"],
        str(said["form"]), str(said["words"]), amounts["limit"], amounts["before"],
    )  # fmt: skip
    return ask, str(said["subject"]), amounts["not_after"]


def telling(done: Done, subject: str) -> Message:
    """An answer. `subject`: whom it is about."""
    facts = done.facts
    amounts = {
        "version": facts.version, "base_version": facts.base_version, "value_bytes": facts.value_bytes,
        "integrity": facts.integrity, "confidentiality": facts.confidentiality, "examined": facts.examined,
        "matched": facts.matched,
    }  # fmt: skip
    head = {
        "op": facts.op, "scope": facts.scope, "cell": facts.cell.hex(), "digest": facts.value_digest.hex(),
        "form": facts.form, "reason": done.reason, "subject": subject,
    }  # fmt: skip
    return amounts, orjson.dumps(head) + b"\n" + orjson.dumps(done.answer, option=orjson.OPT_SORT_KEYS)


def told_by(exchange: Exchange) -> tuple[Done, str]:
    """(what the home did, whom it is about)."""
    head, _, answer = exchange.body.partition(b"\n")
    said, amounts = orjson.loads(head), amounts_of(exchange)
    facts = CellFacts(
        str(said["op"]), str(said["scope"]), bytes.fromhex(said["cell"]), exchange.from_partition, amounts["version"],
        amounts["base_version"], bytes.fromhex(said["digest"]), amounts["value_bytes"], str(said["form"]),
        amounts["integrity"], amounts["confidentiality"], exchange.agent_id, exchange.intent_id,
        examined=amounts["examined"], matched=amounts["matched"],
    )  # fmt: skip
    return Done(facts, orjson.loads(answer), str(said["reason"])), str(said["subject"])


def told_in(raw: bytes) -> Done | None:
    """The answer in an input's bytes, or None when these hold none."""
    record = record_in(raw)
    try:
        return told_by(record)[0] if isinstance(record, Exchange) else None
    except (ValueError, KeyError, TypeError):
        return None
