"""Resolve: a person says of a call in doubt whether it happened.

A `Resolution` on the topic `reviews`: `happened`, with the tool's result if it was found, or `did_not_happen`. Only a
registered person may say it, and it is recorded who did. `look_up` lets an executor ask the tool by the call's key,
where the contract says how (`jobs.py`). A result is checked, redacted and labelled as an executor's is,
but grounds nothing: a person typed it. The agent is told. Never repeats the call: after `did_not_happen` the agent asks
again if it still wants it. What changes nothing is `noted` with its reason. Next: `receipts.py` (a late receipt
resolves, too), `reviews.py`.
"""

from __future__ import annotations

import hashlib

from sluicegate.processors import jobs
from sluicegate.processors.guardrails import Guarded
from sluicegate.processors.receipts import guard_of, labels_of
from sluicegate.processors.route import valid_id
from sluicegate.processors.state import Ended, OpenIntent, key_of
from sluicegate.processors.work import Work, emit, reply, stand_with
from sluicegate.schemas.records import IntakeFacts, Resolution, ResultFacts

HAPPENED, DID_NOT_HAPPEN, LOOK_UP = "happened", "did_not_happen", "look_up"
VERDICTS = (HAPPENED, DID_NOT_HAPPEN, LOOK_UP)

WHY_CHARS = 500


def decide_resolution(work: Work, said: Resolution) -> None:
    """One person's word on one call."""
    o = work.origin
    entry: OpenIntent | Ended | None = None
    if valid_id(said.intent_id):
        o.intent_id = said.intent_id
        entry = work.state.intents.get(key_of(o))
    if type(entry) is not OpenIntent:
        _note(work, "not_in_doubt")
        return
    o.session_id, o.subject = entry.session_id, entry.subject
    stand_with(work, entry)
    problem = _problem(work, said, entry)
    guarded, labels, result = Guarded(None), [], b""
    if not problem and said.result is not None:
        tool = work.control.release.tools.get(entry.tool) if work.control.release else None
        guarded = guard_of(work, entry, tool, said.result)
        problem = guarded.reason
        if guarded.result is not None:
            result, labels = guarded.result, labels_of(entry, tool, guarded.result)
        if entry.withdrawn:  # what happened is recorded, and nothing of it is released
            guarded, labels = Guarded(None), []
    if not problem and said.verdict == LOOK_UP and not jobs.can_look_up(work, entry):
        problem = "no_lookup"
    if problem:
        _note(work, problem)
        return
    if said.verdict == LOOK_UP:
        jobs.look_up(work, entry, "review")
        return
    facts = ResultFacts(
        entry.attempt, said.reviewer, entry.claimed_at, work.now, hashlib.sha256(result).digest() if result else b"",
        len(result), said.verdict, guarded.observed, guarded.redacted,
    )  # fmt: skip
    outcome = emit(
        work, "review", "resolved", facts, said.verdict, guarded.rules, caused_by=entry.last_event, labels=labels
    )  # fmt: skip
    reply(work, outcome, result=guarded.result, detail=said.why[:WHY_CHARS])


def _problem(work: Work, said: Resolution, entry: OpenIntent) -> str:
    """Why this changes nothing, or an empty text."""
    if entry.state != "in_doubt":
        return "not_in_doubt"
    if said.verdict not in VERDICTS or (said.result is not None and said.verdict != HAPPENED):
        return "bad_resolution"
    if said.reviewer in work.control.agents:
        # INVARIANT: no agent settles what its own call did (tests/unit/test_resolve.py::test_only_a_person_resolves).
        return "agent_cannot_review"
    if said.reviewer not in work.control.people:
        return "unknown_person"
    return "control_stale" if work.source.control_stale else ""


def _note(work: Work, reason: str) -> None:
    digest = hashlib.sha256(work.payload).digest()[:16]
    emit(work, "review", "noted", IntakeFacts("resolve", len(work.payload), digest), reason)
