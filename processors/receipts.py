"""Receipts: what executors (or, in process, agents) report about a dispatch.

A claim says that from here the call may have happened; an end carries the result, which is validated before the
agent sees it. What comes late or twice is noted and changes nothing, except that the truth about a call in doubt
resolves it. Next: `ticks.py` (when no receipt comes), `validate.py` (results).
"""

from __future__ import annotations

import hashlib

import orjson
from sluicegate.processors.artifacts import STORED, check_reference
from sluicegate.processors.control.quarantine import REASON
from sluicegate.processors.guardrails.guardrails import Guarded, guard_result
from sluicegate.processors.guardrails.verdicts import decide_verdict
from sluicegate.processors.jobs import jobs
from sluicegate.processors.labels import CONFIDENTIALITY_RANK, UNKNOWN, header_labels, join, join_all
from sluicegate.processors.large_arguments import REASON as CONTENT
from sluicegate.processors.models import streaming
from sluicegate.processors.models.attempts import answer_facts, follow
from sluicegate.processors.releases.release import CompiledTool
from sluicegate.processors.state import Ended, OpenIntent, Session, key_of, session_key
from sluicegate.processors.ticks import REPEATABLE
from sluicegate.processors.validate import check_result
from sluicegate.processors.work import Work, emit, reply, stand_with
from sluicegate.schemas.kinds import OPEN
from sluicegate.schemas.records import ClaimFacts, IntakeFacts, Receipt, ResultFacts

_WITHHELD = (
    "malformed_result",
    "result_too_large",
    "model_changed",
    "guardrail",
    "guardrail_error",
    "redaction_breaks_schema",
)
"""Failures of which the executor says that the tool answered; the last three are of results it validated (`artifacts.py`)."""


def decide_receipt(work: Work, receipt: Receipt) -> None:
    """One receipt of a known agent's call."""
    o = work.origin
    o.intent_id, o.session_id = receipt.intent_id, receipt.session_id
    entry = work.state.intents.get(key_of(o))
    if type(entry) is OpenIntent:
        stand_with(work, entry)
    if type(entry) is not OpenIntent or not _acceptable(work, entry, receipt):
        digest = hashlib.sha256(work.payload).digest()[:16]
        reason = "late" if type(entry) is Ended or type(entry) is OpenIntent else "unknown_dispatch"
        emit(
            work,
            "execute",
            "noted",
            IntakeFacts(f"receipt {receipt.kind}"[:80], len(work.payload), digest),
            reason,
        )
        return
    o.subject, o.session_id = entry.subject, entry.session_id
    if entry.state == "waiting":
        decide_verdict(work, entry, receipt)
        return
    if receipt.kind == "claimed":
        lease = work.now + entry.timeout_ms * 1000  # by the ledger's clock: the executor's may say anything
        facts = ClaimFacts(receipt.attempt, receipt.executor, receipt.started_at, lease)
        emit(work, "execute", "claimed", facts, caused_by=entry.last_event)
        return
    if receipt.kind in _JOBS:
        jobs.take(work, entry, receipt)
        return
    _end(work, entry, receipt)


def _acceptable(work: Work, entry: OpenIntent, receipt: Receipt) -> bool:
    """Whether this receipt may move this intent."""
    in_process = entry.executor == "in_process"
    if in_process != (work.origin.topic == "intents"):
        return (
            False  # an agent may report only what it ran itself, an executor only what was dispatched to it
        )
    if receipt.kind == "claimed":
        offered = receipt.dispatch_id == entry.dispatch_id and receipt.attempt == entry.attempt
        return entry.state == "dispatched" and offered
    if receipt.kind in _JOBS:
        return jobs.acceptable(entry, receipt)
    if receipt.kind not in ("finished", "failed", STORED):
        return False
    if entry.aimed > receipt.attempt:
        return False  # of a candidate that failed before
    if entry.state == "waiting":
        if entry.awaits:
            return False  # nothing was sent yet
        return receipt.dispatch_id == entry.dispatch_id
    if (
        entry.state in ("in_doubt", "parked")
        and receipt.kind == "failed"
        and receipt.sent
        and receipt.error_class in _UNCERTAIN
    ):
        return False  # it says nothing new
    if entry.state == "dispatched":
        # INVARIANT: only a class that may repeat ends without a claim
        # (tests/unit/test_receipts.py::test_end_without_claim_is_noted).
        free = entry.tool_class == "read_only" or jobs.late_callback(work, entry)
        return free and 0 < receipt.attempt <= entry.attempt
    return entry.state in ("claimed", "parked", "in_doubt") and 0 < receipt.attempt <= entry.attempt


def _end(work: Work, entry: OpenIntent, receipt: Receipt) -> None:
    if entry.candidate and not entry.withdrawn and follow(work, entry, receipt):
        return
    release = work.control.release
    tool = release.tools.get(entry.tool) if release is not None else None
    labels: list[str] = []
    guarded = Guarded(None)
    result = receipt.result or b""
    stored = receipt.kind == STORED
    if stored or receipt.kind == "finished":
        guarded = (
            guard_reference(tool, receipt.result) if stored else guard_of(work, entry, tool, receipt.result)
        )
        if entry.withdrawn:
            # INVARIANT: no result of before a rollback reaches the state after it (tests/unit/test_agent_rollback.py).
            guarded = Guarded(None, "rolled_back", guarded.observed)
        reason = guarded.reason
        status = "withheld" if reason else "released"
        if guarded.result is not None:
            result = guarded.result
            labels = labels_of(entry, tool, result, stored=stored)
            if entry.stream == OPEN:
                labels = streaming.unvalidated(labels)
    else:
        reason = receipt.error_class if receipt.error_class in _FAILURES else "crashed"
        status = "withheld" if reason in _WITHHELD else "failed"
        if receipt.sent and reason in (*_UNCERTAIN, REASON) and entry.tool_class not in REPEATABLE:
            # INVARIANT: a call that may have happened never ends as failed (tests/unit/test_receipts.py).
            status, reason = "in_doubt", "call_in_doubt"
    facts = ResultFacts(
        receipt.attempt, "agent" if entry.executor == "in_process" else "executor", receipt.started_at,
        receipt.finished_at, hashlib.sha256(result).digest() if result else b"", len(result), reason,
        guarded.observed, guarded.redacted,
    )  # fmt: skip
    facts = answer_facts(work, entry, tool, facts, receipt.said if stored else receipt.result)
    facts = streaming.end_facts(entry, facts, receipt, guarded.result)
    outcome = emit(
        work, "execute", status, facts, reason, guarded.rules, caused_by=entry.last_event, labels=labels
    )
    detail = receipt.error[:500] if status == "failed" else guarded.detail
    reply(work, outcome, result=guarded.result, detail=detail)


def guard_of(work: Work, entry: OpenIntent, tool: CompiledTool | None, result: bytes | None) -> Guarded:
    """The result as the agent may see it, or why it may not."""
    if tool is None or work.control.release is None:
        # No contract says any more what must be kept from the agent, so nothing is told.
        return Guarded(None, check_result(result, None) or "unknown_tool")
    same = tool.version == entry.version
    reason = check_result(result, tool.result_validator if same else None)
    if reason or result is None:
        return Guarded(None, reason)
    work.tool, work.session = tool, session_of(work, entry)
    rules = work.control.release.guardrails.results.get(tool.name, ())
    return guard_result(work, result, tool.redact_result, rules, tool.result_validator if same else None)


def guard_reference(tool: CompiledTool | None, result: bytes | None) -> Guarded:
    """A reference to what the executor validated, as the agent may see it: whole, or not at all."""
    if tool is None:
        return Guarded(None, "unknown_tool")
    reason = check_reference(result, tool.contract.governance.max_result_bytes)
    return Guarded(None if reason else result, reason)


def session_of(work: Work, entry: OpenIntent) -> Session | None:
    """The intent's session, while it is open."""
    return work.state.sessions.get(session_key(entry.agent_id, entry.session_id))


def labels_of(
    entry: OpenIntent, tool: CompiledTool | None, result: bytes | None, *, stored: bool = False
) -> list[str]:
    """What the result brings into the session; of one that is stored, all that any part of it may have. A tool no contract describes, or that the agent ran, is unknown."""
    if tool is None or result is None or entry.executor == "in_process":
        return header_labels(1 << UNKNOWN, CONFIDENTIALITY_RANK["internal"])
    if stored:
        return header_labels(*join_all(tool.labels, tool.confidential))
    return header_labels(*join(orjson.loads(result), tool.labels, tool.confidential))


_JOBS = (jobs.PARKED, jobs.PROGRESS, jobs.TRACELESS)

_UNCERTAIN = ("timeout", "unreachable", "tool_broke", "server_error")
"""The tool may have acted: nobody heard its answer, or it broke on the way to one."""

_FAILURES = (
    "timeout",
    "refused_by_tool",
    "tool_broke",
    "unreachable",
    "egress_denied",
    "crashed",
    "descriptor_changed",
    "rate_limit",
    "overload",
    "context_length",
    "content_policy",
    "authentication",
    "server_error",
    REASON,
    CONTENT,
    *_WITHHELD,
)
