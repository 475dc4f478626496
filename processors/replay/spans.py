"""An intent's ledger records as spans of a trace: OpenTelemetry's data, without OpenTelemetry.

One trace a session, or the trace that the agent named by its `traceparent`; one span an intent, under the agent's own span
where it named one; one span a hop below it: decided, waited for a person, waited to be claimed, each attempt. Ids follow
from the ledger's, so exporting twice gives the same spans. Attributes are those of OpenTelemetry's conventions for
generative AI (`gen_ai.*`, of 2026, in development) and ours (`sluicegate.*`). No content: no arguments, no result, no text.
Pure. Next: `streams/inspect/otel.py` (who exports), `replay/account.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sluicegate.processors import lifecycle
from sluicegate.processors.replay.account import Account, Attempt, account
from sluicegate.schemas import records as r

Value = str | int | list[str]
INTERNAL, CLIENT = "internal", "client"
MODEL_KINDS = ("model_call", "model_stream")
PROVIDER = "sluicegate"
"""Of a model call: who the agent asked. Which provider stood behind it is `gen_ai.response.model`'s to say."""
BAD = ("refused", "expired", "voided", "failed", "withheld", "in_doubt")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(slots=True)
class Span:
    """Ids in hex; times in microseconds; `error` is empty for a good end."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str = ""


def spans(records: Sequence[tuple[r.Header, object]], traceparent: str = "") -> list[Span]:
    """Of one intent, from its records in ledger order: its own span first. None for what asks for nothing."""
    asked = next(((h, f) for h, f in records if isinstance(f, r.IntentFacts)), None)
    if asked is None:
        return []
    first, facts = asked
    named = _TRACEPARENT.fullmatch(traceparent.lower())
    trace_id = named[1] if named else _hex("trace", first.agent_id, first.session_id, first.log_id.hex())[:32]
    span_id = _hex("intent", first.agent_id, first.intent_id, first.log_id.hex())[:16]
    made = account(records)
    state, ended = _state(records)
    model = facts.kind in MODEL_KINDS
    end = max(ended, first.decided_at)
    whole = Span(
        trace_id, span_id, named[2] if named else "", f"{'chat' if model else 'execute_tool'} {facts.tool}",
        CLIENT if model else INTERNAL, min(facts.issued_at, end), end,
    )  # fmt: skip
    whole.attributes = {**_gen_ai(first, facts, made, model), **_ours(records, first, state)}
    whole.error = _error(records) if state in BAD else ""
    return [whole, *_hops(whole, records, facts, made)]


def _hex(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _state(records: Sequence[tuple[r.Header, object]]) -> tuple[str, int]:
    """Where the intent stands, and when it came there."""
    state, at = "", 0
    for header, _ in records:
        following = lifecycle.follow(state, header.status)
        if following is not None and header.status != lifecycle.ATTACHED:
            state, at = following, header.decided_at
    return state, at


def _error(records: Sequence[tuple[r.Header, object]]) -> str:
    """The last reason: `error.type` is of low cardinality, as our reason codes are."""
    return next((h.reason for h, _ in reversed(records) if h.reason), "_OTHER")


def _gen_ai(h: r.Header, facts: r.IntentFacts, made: Account, model: bool) -> dict[str, Value]:
    found: dict[str, Value] = {"gen_ai.agent.id": h.agent_id, "gen_ai.conversation.id": h.session_id}
    if model:
        found |= {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": PROVIDER, "gen_ai.request.model": facts.tool,
        }  # fmt: skip
        if made.served:
            found["gen_ai.response.model"] = made.served[-1]
        if made.prompt:
            found["gen_ai.prompt.name"] = made.prompt
        if made.input_tokens >= 0:
            found["gen_ai.usage.input_tokens"] = made.input_tokens
        if made.output_tokens >= 0:
            found["gen_ai.usage.output_tokens"] = made.output_tokens
    else:
        found |= {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": facts.tool, "gen_ai.tool.call.id": h.intent_id,
            "gen_ai.tool.type": "function",
        }  # fmt: skip
    return found


def _ours(records: Sequence[tuple[r.Header, object]], h: r.Header, state: str) -> dict[str, Value]:
    last = records[-1][0]
    policies = sorted({policy for header, _ in records for policy in header.policies})
    found: dict[str, Value] = {
        "sluicegate.intent.id": h.intent_id, "sluicegate.intent.state": state, "sluicegate.tenant": h.tenant,
        "sluicegate.release": h.release, "sluicegate.control_head": h.control_head, "sluicegate.engine": h.engine,
        "sluicegate.ledger.partition": h.partition, "sluicegate.ledger.first_seq": h.seq, "sluicegate.ledger.last_seq": last.seq,
        "sluicegate.event.id": h.event_id.hex(),
    }  # fmt: skip
    if policies:
        found["sluicegate.policies"] = policies
    return found


def _hops(
    whole: Span, records: Sequence[tuple[r.Header, object]], facts: r.IntentFacts, made: Account
) -> list[Span]:
    at: dict[str, int] = {}
    for header, _ in records:
        if header.status != lifecycle.ATTACHED:
            at.setdefault(header.status, header.decided_at)
    first = next(h.decided_at for h, f in records if f is facts)
    found = [_hop(whole, "decide", facts.issued_at, first)]
    for name, since, until in (("wait for a person", "held", "permitted"), ("wait to be claimed", "dispatched", "claimed")):  # fmt: skip
        if since in at and until in at:
            found.append(_hop(whole, name, at[since], at[until]))
    found += [_attempt(whole, one) for one in made.attempts if one.finished_at]
    return found


def _hop(whole: Span, name: str, start: int, end: int, kind: str = INTERNAL) -> Span:
    ident = _hex(whole.span_id, name)[:16]
    about: dict[str, Value] = {"sluicegate.intent.id": whole.attributes["sluicegate.intent.id"]}
    return Span(whole.trace_id, ident, whole.span_id, name, kind, min(start, end), end, about)


def _attempt(whole: Span, one: Attempt) -> Span:
    hop = _hop(whole, f"attempt {one.number}", one.started_at, one.finished_at, CLIENT)
    hop.attributes |= {"sluicegate.attempt": one.number, "sluicegate.asked": one.asked, "sluicegate.executor": one.claimed_by}  # fmt: skip
    hop.error = one.error
    return hop
