"""Plug-ins: guardrails that are somebody's own code, asked through an executor.

    validated ▸ waiting (a dispatch of the kind `guardrail`) ▸ validated ▸ dispatched
                                                             ▸ refused

Impure code never runs here: its verdict is a receipt, an input like any other, so a replay decides by what was said then.
Its time-out, its crash and its silence are failures, and the rule says whether a failure refuses (the default) or passes.
Asking may be repeated, so it needs no claim. What was permitted is not authorized again for these few seconds, but the
agent, the session and the bytes of the call are. Next: `guardrail_rules.py`; `executors/guardrail.py` is the other side.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sluicegate.processors.guardrail_rules import Rule
from sluicegate.processors.offering import proceed
from sluicegate.processors.plan import LEASE_US, deadline_of, dispatch
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.work import Refusal, Work, emit, reply
from sluicegate.schemas.records import PlanFacts, Receipt

KIND = "guardrail"
"""The executor kind."""

CLASS = "read_only"
"""Asking changes nothing, so it may be repeated and needs no claim."""

WHY_CHARS = 300
"""Kept of a plug-in's own words."""

PASS, REFUSE = "pass", "refuse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A plug-in's answer: `pass`, `refuse`, or anything else for a failure; and why."""

    verdict: str
    why: str


def offer(work: Work) -> None:
    """The last step of a call that passed every stage: ask the plug-ins that have to be asked, else offer it."""
    if work.asks:
        _ask(work)
    else:
        proceed(work)


def _ask(work: Work) -> None:
    assert work.intent is not None
    timeout_ms = sum(rule.timeout_ms for rule in work.asks)
    not_after = work.now + LEASE_US
    if work.intent.deadline_at is not None:
        not_after = min(not_after, work.intent.deadline_at)
    answer_by = not_after + timeout_ms * 1_000
    facts = PlanFacts(work.action_digest, CLASS, KIND, 1, answer_by, timeout_ms)
    outcome = emit(work, "validate", "waiting", facts, policies=[rule.rule_id for rule in work.asks])
    plugins = [{"id": r.rule_id, "plugin": r.plugin, "timeout_ms": r.timeout_ms} for r in work.asks]
    executor = orjson.dumps({"kind": KIND, "plugins": plugins}, option=orjson.OPT_SORT_KEYS)
    dispatch(work, outcome, CLASS, executor, 1, timeout_ms, not_after)


def decide_verdict(work: Work, entry: OpenIntent, receipt: Receipt) -> None:
    """The executor's receipt for a waiting call."""
    _settle(work, entry, read_verdicts(receipt), receipt.error_class or "it gave no verdict")


def decide_silence(work: Work, entry: OpenIntent) -> None:
    """No receipt came in time."""
    _settle(work, entry, {}, "nobody answered in time")


def read_verdicts(receipt: Receipt) -> dict[str, Verdict]:
    """Rule -> verdict; nothing for what cannot be read."""
    try:
        rows = orjson.loads(receipt.result or b"null")
    except orjson.JSONDecodeError:
        return {}
    if receipt.kind != "finished" or not isinstance(rows, list):
        return {}
    found = {}
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            found[row["id"]] = Verdict(str(row.get("verdict", "")), str(row.get("why", ""))[:WHY_CHARS])
    return found


def _settle(work: Work, entry: OpenIntent, verdicts: dict[str, Verdict], failure: str) -> None:
    problem = restore_call(work, entry)
    if work.decision.needs:
        return
    if not problem and work.action_digest != entry.action_digest:
        problem = "call_changed"
    if not problem and work.session is None:
        problem = "unknown_session"
    if not problem and work.now >= deadline_of(entry):
        problem = "deadline_passed"
    refusal = Refusal(problem) if problem else _judge(work, entry, verdicts, failure)
    if refusal is not None:
        policies = list(refusal.policies)
        facts = stage_facts(work, "plug-in")
        outcome = emit(
            work, "validate", "refused", facts, refusal.reason, policies, caused_by=entry.last_event
        )
        reply(work, outcome, detail=refusal.detail)
        return
    emit(work, "validate", "validated", stage_facts(work, "plug-in"), caused_by=entry.last_event)
    proceed(work)


def _judge(work: Work, entry: OpenIntent, verdicts: dict[str, Verdict], failure: str) -> Refusal | None:
    assert work.release is not None
    asked = entry.asked.split()
    rules = [r for r in work.release.guardrails.calls.get(entry.tool, ()) if r.plugin and r.rule_id in asked]
    for rule in rules:
        refusal = _verdict_of(rule, verdicts.get(rule.rule_id), failure)
        if refusal is None:
            continue
        # INVARIANT: a plug-in that hangs or crashes lets nothing pass unless its rule says so
        # (tests/unit/test_plugins.py::test_a_plug_in_that_fails_refuses_unless_its_rule_says_pass).
        if rule.observe or (refusal.reason == "guardrail_failed" and rule.fails_open):
            work.observed.append(rule.rule_id)
            continue
        return refusal
    return None


def _verdict_of(rule: Rule, given: Verdict | None, failure: str) -> Refusal | None:
    if given is not None and given.verdict == PASS:
        return None
    if given is not None and given.verdict == REFUSE:
        said = "; ".join(text for text in (rule.say, given.why) if text)
        return Refusal("guardrail", f"`{rule.rule_id}`: {said or 'the plug-in refused it'}", (rule.rule_id,))
    why = given.why if given is not None and given.why else failure
    return Refusal("guardrail_failed", f"`{rule.rule_id}`: {why}", (rule.rule_id,))
