"""Plug-ins: guardrails that are somebody's own code, asked through an executor.

    validated ▸ waiting (a dispatch of the kind `guardrail`) ▸ validated ▸ dispatched
                                                                         ▸ held, where a plug-in wants a person
                                                             ▸ refused

Impure code never runs here: its verdict is a receipt, an input like any other, so a replay decides by what was said then.
Asking may be repeated, so it needs no claim. Never reads a verdict. Next: `guardrails/verdicts.py` (what an answer means),
`guardrails/rules.py`; `executors/guardrail.py` is the other side.
"""

from __future__ import annotations

import orjson
from sluicegate.processors.offering import proceed
from sluicegate.processors.plan import LEASE_US, dispatch
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import PlanFacts

KIND = "guardrail"
"""The executor kind."""

CLASS = "read_only"
"""Asking changes nothing, so it may be repeated and needs no claim."""


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
