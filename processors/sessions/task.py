"""Task: what a session is for, as policies, routes of models, prompts and the agent read it.

    task: {properties: {kind: {enum: [refund, question]}, ticket: {type: string}}, required: [kind]}     # release.yaml

It is said once, when the session opens, and never changes: the state keeps where the opening input stands, not what it
says. `context.task` is what a channel said, `context.own_task` what an agent said of a session that it opened itself, so no policy
takes one for the other; a session that is handed on has those of the one it comes from. Both hold the declared fields and `goal`.

A task that does not fit the release is refused when the session opens. One that does not fit the release in force by now, or
whose bytes are gone, refuses every call: what a policy would have said, nobody knows. Pure. Next: `authorize.py` (who puts it
into contexts), `releases/task_rules.py` (what is declared), `models/candidates.py`, `releases/prompts.py`, docs/policies.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson
from sluicegate.processors.conform import Conformed, Json, Misfit, conform
from sluicegate.processors.payload import record_in
from sluicegate.processors.releases.task_rules import GOAL, CompiledTask
from sluicegate.processors.sessions.session import Session
from sluicegate.processors.work import Refusal, Work, at_hand
from sluicegate.schemas.model_facts import widen
from sluicegate.schemas.records import Intent, Message, OpeningFacts, SessionFacts, Transfer

MAX_TASK_BYTES = 4_096
"""Of a task as JSON: it is read for every call of its session, and travels with a hand-off."""

CHANNEL, AGENT = "channel", "agent"
PLACES = {CHANNEL: "messages", AGENT: "intents", "handoff": "transfers"}
"""How a session was opened -> the topic of its opening input."""
REASON = "bad_task"


@dataclass(frozen=True, slots=True)
class Said:
    """What an opening input says. `by`: channel | agent; `fields`: JSON of an object, as it was given."""

    by: str
    goal: str
    fields: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """The task of a call's session, conformed. `given`: JSON as it was said; `cedar`: as policies see it."""

    by: str
    given: dict[str, Json]
    cedar: dict[str, Json]


def said_in(record: object) -> Said | None:
    """What an opening input says."""
    if isinstance(record, Message):
        return Said(CHANNEL, record.goal, record.task.encode())
    if isinstance(record, Intent):
        return Said(AGENT, record.goal, own(record.arguments))
    if isinstance(record, Transfer) and record.task:
        found = cast("dict[str, Json]", orjson.loads(record.task))
        return Said(str(found["by"]), str(found[GOAL]), orjson.dumps(found["fields"]))
    return None


def own(arguments: bytes) -> bytes:
    """The task in the arguments of an agent's `session.open`: `{"task": {...}}`. Others say nothing, and never did."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return b""
    return orjson.dumps(found["task"]) if isinstance(found, dict) and "task" in found else b""


def wrong(declared: CompiledTask | None, fields: bytes) -> str:
    """Why a session may not open with this task; empty when it may, or says none."""
    if not fields:
        return ""
    if len(fields) > MAX_TASK_BYTES:
        return f"the task has more than {MAX_TASK_BYTES} bytes"
    if declared is None:
        return "the release declares no `task`"
    found = conform(declared.validator, declared.typer, fields)
    return found.detail if isinstance(found, Misfit) else ""


def facts_of(work: Work, facts: SessionFacts, said: bool) -> SessionFacts:
    """What the ledger keeps of an opening, so that its input is read again where the release declares a task."""
    if work.control.release is None or work.control.release.task is None:
        return facts
    return widen(OpeningFacts, facts, task=said)


def read(work: Work, session: Session) -> Refusal | None:
    """Set `work.task` where the release declares one. With `work.decision.needs`, nothing."""
    work.task = None
    declared = work.release.task if work.release is not None else None
    if declared is None or session.opened_offset < 0:
        return None
    raw = at_hand(work, (PLACES[session.origin], session.opened_offset))
    if work.decision.needs:
        return None
    record = record_in(raw)
    if record is None:
        # INVARIANT: no call is decided as if there were no task, when nobody can say (tests/unit/test_task.py).
        return Refusal(REASON, "what the session was opened with is gone, and its task with it")
    said = said_in(record)
    if said is None or (not said.fields and declared.required):
        return None
    found = conform(declared.validator, declared.typer, said.fields or b"{}")
    if not isinstance(found, Conformed):
        return Refusal(REASON, f"the session's task does not fit its release: {found.detail}")
    work.task = Task(said.by, {**found.args, GOAL: said.goal}, {**found.cedar, GOAL: said.goal})
    return None


def contexts(task: Task | None) -> dict[str, Json]:
    """`task` or `own_task` of a request to Cedar, or neither."""
    # INVARIANT: what an agent says of its own session is never `context.task` (tests/unit/test_task.py).
    return {} if task is None else {"task" if task.by == CHANNEL else "own_task": task.cedar}


def trusted(task: Task | None) -> Mapping[str, Json]:
    """What routes of models and prompts see: what a channel said, or nothing."""
    return task.given if task is not None and task.by == CHANNEL else {}


def handed_on(task: Task | None) -> bytes:
    """The task of a session that is handed on, for its record on `transfers`."""
    if task is None:
        return b""
    fields = {name: value for name, value in task.given.items() if name != GOAL}
    return orjson.dumps(
        {"by": task.by, GOAL: task.given[GOAL], "fields": fields}, option=orjson.OPT_SORT_KEYS
    )
