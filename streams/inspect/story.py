"""The story of one intent as data, and what the facts of each record add to it.

Next: `inspect/explain.py` (who finds the records and tells it), `processors/replay/account.py` (data, approvals, attempts, cost).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sluicegate.processors.budget.words import cost_in_words, in_words
from sluicegate.schemas import records as r
from sluicegate.schemas.scores import SCORE_MAX
from sluicegate.schemas.times import iso

_CACHE = {
    "ask": "asks the cache of another partition",
    "wait": "waits for an equal call that runs already",
    "run": "runs for all who ask the same",
    "hit": "answered from the cache of `{}`",
    "lost": "the cached result's bytes are gone",
    "turned": "another candidate is asked now: its answer is for who waits already, and is not kept",
    "leave": "waits for that call no more, it is another one by now",
}


@dataclass(slots=True)
class Step:
    """One stage's word. `ms` counts from the first one."""

    seq: int
    offset: int
    at: str
    ms: float
    stage: str
    status: str
    reason: str
    policies: list[str]
    detail: str = ""
    remedy: str = ""
    attempt: int = 0
    by: str = ""
    input: str = ""
    event: str = ""
    release: str = ""
    generation: int = 0


@dataclass(slots=True)
class Story:
    """One intent from request to end."""

    intent_id: str
    agent_id: str
    tenant: str
    roles: list[str] = field(default_factory=list)
    partition: int = 0
    state: str = ""
    kind: str = ""
    tool: str = ""
    tool_version: str = ""
    tool_class: str = ""
    arguments: str = ""
    goal: str = ""
    issued_at: str = ""
    session_id: str = ""
    session: dict[str, str] = field(default_factory=dict)
    release: str = ""
    release_name: str = ""
    control_head: int = -1
    engine: str = ""
    steps: list[Step] = field(default_factory=list)
    policies: dict[str, str] = field(default_factory=dict)
    result: str = ""
    times_ms: dict[str, float] = field(default_factory=dict)
    taken_back: str = ""
    source: str = ""
    prompt: str = ""
    prompt_digest: str = ""
    served: list[str] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, int | None] = field(default_factory=dict)
    caused: list[dict[str, Any]] = field(default_factory=list)
    reproducible: dict[str, str] = field(default_factory=dict)
    generation: int = 0
    """Of the log, in which it was asked for."""

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


def add_facts(story: Story, step: Step, facts: object) -> None:
    match facts:
        case r.IntentFacts():
            story.kind, story.tool, story.tool_version = facts.kind, facts.tool, facts.version
            story.issued_at = iso(facts.issued_at, "milliseconds")
        case r.AttemptFacts():
            story.tool_class, step.attempt = facts.tool_class, facts.attempt
            step.by = f"asks {facts.candidate} ({facts.why})" if facts.candidate else facts.executor
            if isinstance(facts, r.StreamFacts):
                step.by += f", streamed {facts.mode}"
                step.by += f", replaces message {facts.replaces}" if facts.replaces else ""
        case r.PlanFacts():
            story.tool_class, step.attempt, step.by = facts.tool_class, facts.attempt, facts.executor
        case r.HoldFacts():
            story.tool_class = facts.tool_class
            step.by = f"{facts.quorum} of {' or '.join(facts.reviewers) or 'any person'} must agree"
        case r.ReviewFacts():
            step.by = f"{facts.reviewer}, {len(facts.approvals)} of {facts.quorum} agreed"
        case r.ClaimFacts():
            step.attempt, step.by = facts.attempt, facts.executor
        case r.JobFacts():
            step.attempt, step.detail = facts.attempt, facts.note
            step.by = f"waits for {facts.waits_for}, look {facts.polls}, at most until {iso(facts.ends_at, 'milliseconds')}"
        case r.AnswerFacts():
            step.attempt, step.detail = facts.attempt, facts.error_class
            served = f"{facts.candidate} as {facts.served_model}" if facts.served_model else facts.candidate
            sure = f", confidence {facts.confidence / 1_000:.3f}" if facts.confidence >= 0 else ""
            step.by = f"{served or facts.executed_by}{sure}"
            if isinstance(facts, r.StreamedFacts):
                step.by += _streamed(facts)
        case r.TakenBackFacts():
            step.attempt, step.by = facts.attempt, facts.executed_by
            step.detail = (
                f"taken back by `{facts.undo}` of `{facts.undone_by}`, ordered as control event {facts.order}"
            )
        case r.ResultFacts():
            step.attempt, step.by = facts.attempt, facts.executed_by
            step.detail = facts.error_class
        case r.CacheFacts():
            step.by, step.detail = facts.executed_by, _CACHE.get(facts.op, "").format(facts.made_by)
        case r.CellFacts():
            step.detail = f"memory of `{facts.scope}`, partition {facts.home}"
            step.detail += f", version {facts.version}" if facts.version else ""
        case r.MemoryFacts():
            step.detail = f"memory of `{facts.scope}`, version {facts.version}"
        case r.PromptFacts():
            step.detail = f"prompt `{facts.prompt}` sha256 {facts.digest.hex()[:12]}"
        case r.ScoreFacts():
            step.by = facts.scorer
            step.detail = f"{facts.metric} {facts.value / SCORE_MAX:g} by {facts.kind} `{facts.scorer}`"
        case r.ChoiceFacts():
            step.detail = _choice(facts)
        case r.StageFacts() | r.IntakeFacts():
            step.detail = facts.detail
        case r.BudgetFacts():
            step.attempt, step.detail = facts.attempt, in_words(facts)
        case r.SpendFacts():
            step.attempt, step.by, step.detail = (
                facts.attempt,
                facts.model or facts.contract,
                cost_in_words(facts),
            )


def _streamed(facts: r.StreamedFacts) -> str:
    """What left before the end, and whether that is what was released."""
    if not facts.pieces:
        return f", streamed {facts.mode}, nothing before its end"
    said = "as released" if facts.same else "not as released"
    return f", streamed {facts.mode}, message {facts.message} of {facts.pieces} pieces, {said}, sha256 {facts.streamed.hex()[:12]}"


def _choice(facts: r.ChoiceFacts) -> str:
    """What a model call was told, and every candidate in the order it would be asked."""
    said = [facts.detail] if facts.detail else []
    if facts.prompt:
        said.append(f"prompt `{facts.prompt}` sha256 {facts.prompt_digest.hex()[:12]}")
    if facts.unversioned:
        said.append("brings system text that no release holds")
    rows = zip(facts.candidates, facts.scores, facts.standing, strict=True)
    said += [f"{name} score {score}: {standing}" for name, score, standing in rows]
    return "; ".join(said)
