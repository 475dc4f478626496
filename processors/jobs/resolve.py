"""Resolve: a person says of a call in doubt whether it happened.

A `Resolution` on the topic `reviews`: `happened`, with the tool's result if it was found, or `did_not_happen`. Only a
registered person may say it, and it is recorded who did. `look_up` lets an executor ask the tool by the call's key,
where the contract says how (`jobs/jobs.py`). `compensated` ends a call that was taken for one that happened and taken back by an operator:
control's orders say that it was (`control/orders.py`), nobody's word alone. A result is checked, redacted and labelled as an executor's is,
but grounds nothing: a person typed it. The agent is told. Never repeats the call: after `did_not_happen` the agent asks
again if it still wants it. What changes nothing is `noted` with its reason. Next: `receipts.py` (a late receipt
resolves, too), `approval/reviews.py`.
"""

from __future__ import annotations

import hashlib

from sluicegate.processors.control.orders import DONE, VERIFIED
from sluicegate.processors.guardrails.guardrails import Guarded
from sluicegate.processors.jobs import jobs
from sluicegate.processors.jobs.compensate import undo_id
from sluicegate.processors.receipts import guard_of, labels_of
from sluicegate.processors.route import valid_id
from sluicegate.processors.state import Ended, OpenIntent, key_of
from sluicegate.processors.work import Work, emit, reply, stand_with
from sluicegate.schemas.model_facts import widen
from sluicegate.schemas.records import IntakeFacts, Resolution, ResultFacts, TakenBackFacts

HAPPENED, DID_NOT_HAPPEN, LOOK_UP, COMPENSATED = "happened", "did_not_happen", "look_up", "compensated"
VERDICTS = (HAPPENED, DID_NOT_HAPPEN, LOOK_UP, COMPENSATED)

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
    if said.verdict == COMPENSATED:
        undo = undo_id(entry.agent_id, entry.intent_id)
        order = work.control.orders[undo]
        facts = widen(TakenBackFacts, facts, undo=undo, undone_by=order.agent_id, order=order.order)
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
    if work.source.control_stale:
        return "control_stale"
    return "" if said.verdict != COMPENSATED or _taken_back(work, entry) else "not_compensated"


def _taken_back(work: Work, entry: OpenIntent) -> bool:
    """Whether control says that an operator's order to take this call back was done, and read back where its contract says how."""
    # INVARIANT: no word alone says that a call was taken back (tests/unit/test_resolve.py).
    order = work.control.orders.get(undo_id(entry.agent_id, entry.intent_id))
    tool = work.control.release.tools.get(entry.tool) if work.control.release else None
    read_back = tool is not None and tool.contract.governance.verify is not None
    return order is not None and order.state in ((VERIFIED,) if read_back else (DONE, VERIFIED))


def _note(work: Work, reason: str) -> None:
    digest = hashlib.sha256(work.payload).digest()[:16]
    emit(work, "review", "noted", IntakeFacts("resolve", len(work.payload), digest), reason)
