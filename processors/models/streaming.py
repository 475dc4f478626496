"""Streaming: in which mode an answer may leave its executor before it ends, and what the ledger keeps of that.

    buffered   nothing leaves before validation: the reply is the answer (the default)
    gated      sentence by sentence, each past the release's result rules at the executor (`models/stream_gate.py`)
    open       as it comes: the result is labelled `unvalidated` and grounds nothing

The mode is a property of the contract that is asked, for calls of the kind `model_stream`. Pieces never pass through the
ledger; it keeps the mode of each attempt, one digest of what it streamed, and which message stands for which. Since an agent
may see pieces from the offer on, whatever becomes of it, the session's labels join there (docs/decisions/0021).
Never decides what follows a failure: `models/attempts.py`. Next: `plan.py`, `receipts.py`, docs/models.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson
from sluicegate.processors.artifacts import limit_of
from sluicegate.processors.conform import Json
from sluicegate.processors.guardrails.guardrails import around
from sluicegate.processors.labels import UNKNOWN, header_labels, join
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import OpenIntent, key_of
from sluicegate.processors.work import Work
from sluicegate.schemas.kinds import GATED, MODEL, MODEL_STREAM, OPEN
from sluicegate.schemas.model_facts import widen
from sluicegate.schemas.records import (  # fmt: skip
    AnswerFacts,
    AttemptFacts,
    PlanFacts,
    Receipt,
    ResultFacts,
    StreamedFacts,
    StreamFacts,
)
from sluicegate.schemas.topics import MAX_RESULT_BYTES

UNVALIDATED = "unvalidated"
"""Among the labels of what left before anybody looked at it. To every reader of labels a word it does not know is the worst."""
LIVE = (GATED, OPEN)
"""Modes in which something leaves before the end."""
MAX_NAME_CHARS = 32
"""Of a message; executors make 16."""
_ANSWER: Json = {
    "text": "", "tool_calls": [{"id": "", "name": "", "arguments": ""}], "finish_reason": "", "served_model": "", "usage": 0,
}  # fmt: skip
"""What an answer is made of: where a contract's labels are looked up before there is one."""


def message_digest(text: str, calls: Sequence[tuple[str, Json]]) -> bytes:
    """sha256 of a message: its text and its tool calls as (name, arguments). Arguments that broke off are their text."""
    rows = [text, [[name, arguments] for name, arguments in calls]]
    return hashlib.sha256(orjson.dumps(rows, option=orjson.OPT_SORT_KEYS)).digest()


def result_digest(result: bytes) -> bytes:
    """The same of a released answer; empty when it is none."""
    value = orjson.loads(result)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return b""
    listed = value.get("tool_calls")
    calls = [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
    return message_digest(value["text"], [(str(c.get("name")), c.get("arguments")) for c in calls])


def mode_of(work: Work, tool: CompiledTool) -> str:
    """How an answer of this contract would leave for the call at hand; empty when nobody asked for a stream."""
    asks = work.intent is not None and work.intent.kind == MODEL_STREAM and tool.executor_kind == MODEL
    return tool.stream if asks else ""


def plan_facts(work: Work, tool: CompiledTool, facts: PlanFacts) -> PlanFacts:
    """The facts of an offer; of a streamed call they say how, and which message this attempt's stands for."""
    mode = mode_of(work, tool)
    if not mode:
        return facts
    if type(facts) is PlanFacts:
        facts = widen(AttemptFacts, facts)
    receipt, entry = work.receipt, work.state.intents.get(key_of(work.origin))
    shown = entry.shown if type(entry) is OpenIntent else ""
    digest, pieces = b"", 0
    if receipt is not None and receipt.pieces > 0 and receipt.message:
        shown, digest, pieces = receipt.message[:MAX_NAME_CHARS], receipt.streamed[:32], receipt.pieces
    return widen(
        StreamFacts, facts, mode=mode, replaces=shown, replaced_digest=digest, replaced_pieces=pieces
    )


def offer_labels(tool: CompiledTool, facts: object) -> list[str]:
    """What the session may learn from pieces, from the offer on; nothing of a call that shows none."""
    if not isinstance(facts, StreamFacts) or facts.mode not in LIVE:
        return []
    bits, secrecy = join(_ANSWER, tool.labels, tool.confidential)
    return unvalidated(header_labels(bits | 1 << UNKNOWN, secrecy)) if facts.mode == OPEN else header_labels(bits, secrecy)  # fmt: skip


def unvalidated(labels: list[str]) -> list[str]:
    """Labels of what was shown as it came."""
    return [*labels, UNVALIDATED]


def rules_context(work: Work, facts: object) -> bytes:
    """What result rules see beside the answer, for the executor that asks them of each sentence, or of a
    result it stores; else nothing."""
    release, tool = work.release or work.control.release, work.tool
    gated = isinstance(facts, StreamFacts) and facts.mode == GATED
    if release is None or tool is None or not (gated or limit_of(tool.executor) > MAX_RESULT_BYTES):
        return b""
    rules = release.guardrails.results.get(tool.name)
    return orjson.dumps(around(work), option=orjson.OPT_SORT_KEYS) if rules else b""


def end_facts(entry: OpenIntent, facts: ResultFacts, receipt: Receipt, released: bytes | None) -> ResultFacts:
    """The facts of a call's end; of a streamed call they say what was streamed, and whether that is what was released."""
    if not entry.stream:
        return facts
    if type(facts) is ResultFacts:
        facts = widen(AnswerFacts, facts)
    streamed = receipt.streamed[:32] if receipt.pieces > 0 else b""
    same = released is not None and bool(streamed) and result_digest(released) == streamed
    return widen(
        StreamedFacts, facts, mode=entry.stream, message=receipt.message[:MAX_NAME_CHARS],
        pieces=max(0, receipt.pieces), streamed=streamed, same=same,
    )  # fmt: skip
