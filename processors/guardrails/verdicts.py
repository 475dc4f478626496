"""Verdicts: what plug-ins said about a waiting call, and what follows from it.

    pass     the call goes on
    refuse   the call is refused, or held where its rule's `verdict` is `hold`
    hold     a person decides: the call is held with what the plug-in said, and authorized again as of now
    else     a failure (a crash, a time-out, silence, no plug-in of that name): the rule's `on_failure` decides

What was permitted is not authorized again for these few seconds, but the agent, the session and the bytes of the call
are. Never runs a plug-in. Next: `guardrails/plugins.py` (who asks), `approval/approvals.py` (held calls).
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sluicegate.processors.approval import approvals
from sluicegate.processors.approval.holds import Hold, stricter
from sluicegate.processors.guardrails.rules import Rule
from sluicegate.processors.offering import proceed
from sluicegate.processors.plan import deadline_of
from sluicegate.processors.redecide import restore_call
from sluicegate.processors.state import OpenIntent
from sluicegate.processors.trace import stage_facts
from sluicegate.processors.work import Refusal, Work, emit, reply
from sluicegate.schemas.records import Receipt

PASS, REFUSE, HOLD = "pass", "refuse", "hold"

WHY_CHARS = 300
"""Kept of a plug-in's own words."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A plug-in's answer: `pass`, `refuse`, `hold`, or anything else for a failure; and why."""

    verdict: str
    why: str


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
    said = Refusal(problem) if problem else _judge(work, entry, verdicts, failure)
    if isinstance(said, Hold):
        _hold(work, entry, said)
    elif said is not None:
        _refuse(work, entry, said)
    else:
        emit(work, "validate", "validated", stage_facts(work, "plug-in"), caused_by=entry.last_event)
        proceed(work)


def _refuse(work: Work, entry: OpenIntent, refusal: Refusal) -> None:
    facts, policies = stage_facts(work, "plug-in"), list(refusal.policies)
    outcome = emit(work, "validate", "refused", facts, refusal.reason, policies, caused_by=entry.last_event)
    reply(work, outcome, detail=refusal.detail)


def _hold(work: Work, entry: OpenIntent, hold: Hold) -> None:
    """Ask people, under the state of this moment: they are shown where values come from, and what policies ask."""
    observed = work.observed
    refusal = approvals.recheck(work)
    if work.decision.needs:
        return
    work.observed = list(dict.fromkeys([*observed, *work.observed]))
    if refusal is None and work.action_digest != entry.action_digest:
        refusal = Refusal("call_changed")
    hold = hold if work.hold is None else stricter(hold, work.hold)
    if refusal is None and hold.impossible:
        refusal = approvals.no_reviewer(hold)
    if refusal is not None:
        _refuse(work, entry, refusal)
        return
    emit(work, "validate", "validated", stage_facts(work, "plug-in"), caused_by=entry.last_event)
    approvals.ask(work, hold, work.now + hold.expires_us, "validate")


def _judge(
    work: Work, entry: OpenIntent, verdicts: dict[str, Verdict], failure: str
) -> Refusal | Hold | None:
    """The first refusal, else everything that people are asked, else None."""
    assert work.release is not None
    asked, hold = entry.asked.split(), None
    rules = [r for r in work.release.guardrails.calls.get(entry.tool, ()) if r.plugin and r.rule_id in asked]
    for rule in rules:
        meant, why = _meant(rule, verdicts.get(rule.rule_id), failure)
        if meant == PASS and not why:
            continue
        # INVARIANT: a plug-in that hangs or crashes lets nothing pass unless its rule says so
        # (tests/unit/test_plugins.py::test_a_plug_in_that_fails_refuses_unless_its_rule_says_pass).
        if rule.observe or meant == PASS:
            work.observed.append(rule.rule_id)
        elif meant == HOLD:
            one = Hold(why, (rule.rule_id,))
            hold = one if hold is None else stricter(hold, one)
        else:
            return Refusal(meant, why, (rule.rule_id,))
    return hold


def _meant(rule: Rule, given: Verdict | None, failure: str) -> tuple[str, str]:
    """(`pass`, `hold` or the reason of a refusal; in words): no words for what the plug-in itself let pass."""
    if given is not None and given.verdict == PASS:
        return PASS, ""
    if given is not None and given.verdict in (REFUSE, HOLD):
        said = "; ".join(text for text in (rule.say, given.why) if text)
        if HOLD in (given.verdict, rule.verdict):
            return HOLD, f"`{rule.rule_id}`: {said or 'the plug-in wants a person to decide'}"
        return "guardrail", f"`{rule.rule_id}`: {said or 'the plug-in refused it'}"
    why = f"`{rule.rule_id}`: {given.why if given is not None and given.why else failure}"
    return {"pass": PASS, "hold": HOLD}.get(rule.on_failure, "guardrail_failed"), why
