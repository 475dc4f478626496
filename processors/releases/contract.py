"""What people write in a release, as forms: contracts (MCP descriptors plus `x-sluicegate`) and `release.yaml`.

A form says which keys there are and what they may hold; what only fits together with others is checked where it is compiled.
Pure. Next: `releases/release.py` (the compiled form), `releases/schema.py` (the same as JSON Schema), docs/releases.md.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sluicegate.processors.artifacts import Kept
from sluicegate.processors.budget.rules import Costs, Tables
from sluicegate.processors.cache.rules import CacheRule
from sluicegate.processors.canary.rules import DEFAULT_FORM, CanaryForm
from sluicegate.processors.drift.rules import NO_SECTION, DriftRow
from sluicegate.processors.guardrails.derail import NO_LIMITS, Derail
from sluicegate.processors.guardrails.recall_rules import Recall
from sluicegate.processors.guardrails.rules import Guardrail
from sluicegate.processors.jobs.compensate import Compensation, Verification
from sluicegate.processors.jobs.terms import DEFAULT_LIMIT_S, MAX_LIMIT_S
from sluicegate.processors.models.routes import Route
from sluicegate.processors.releases.evaluators import EvaluatorRow
from sluicegate.processors.releases.task_rules import Tasks

ToolClass = Literal["read_only", "idempotent", "queryable", "irreversible"]

GroundingKind = Literal["exact", "account", "amount", "date", "links", "text"]

DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 600_000
"""One call; longer work needs `completion: callback | poll`."""
MEMORY_OPS = ("write", "append", "read", "search", "forget", "history")
"""What a contract of executor kind `memory` may do, see `memory/memory.py`."""


class Executor(BaseModel):
    """How a tool is reached. Further keys belong to the executor kind."""

    model_config = ConfigDict(extra="allow")
    kind: Literal["http", "python", "in_process", "memory", "model", "sql", "mcp", "prompt"]


class Redactions(BaseModel):
    """What never reaches a tool, and what of its result never reaches an agent."""

    model_config = ConfigDict(extra="forbid")
    arguments: list[str] = []
    result: list[str] = []


class Governance(Costs, Kept, BaseModel):
    """`x-sluicegate` of a contract. The class defaults to the worst."""

    model_config = ConfigDict(extra="forbid")
    version: str = "1"
    tool_class: ToolClass = Field("irreversible", alias="class")
    executor: Executor
    timeout_ms: int = Field(DEFAULT_TIMEOUT_MS, gt=0, le=MAX_TIMEOUT_MS)
    completion: Literal["answer", "poll", "callback"] = "answer"
    """What ends a call: the tool's answer, or work that goes on after it (`jobs/jobs.py`)."""
    job_limit_s: int = Field(DEFAULT_LIMIT_S, gt=0, le=MAX_LIMIT_S)
    heartbeat_s: int = Field(0, ge=0, le=MAX_LIMIT_S)
    poll_every_s: int = Field(2, gt=0, le=3_600)
    key_lifetime_s: int = Field(0, ge=0)
    """How long the tool knows an idempotency key; 0: for longer than any call is repeated."""
    protected: dict[str, GroundingKind] = {}
    constants: dict[str, list[str | float]] = {}
    labels: dict[str, str] = {}
    confidential: dict[str, str] = {}
    measures: list[str] = []
    asset: str = ""
    redact: Redactions = Redactions()
    cache: CacheRule | None = None
    compensate: Compensation | None = None
    verify: Verification | None = None
    guessed: list[str] = []
    """Keys that `release init` guessed and nobody has looked at; `release check` says so."""

    @model_validator(mode="before")
    @classmethod
    def _model_class(cls, value: object) -> object:
        """A model has no effect but its answer: `read_only` unless its contract says otherwise."""
        if isinstance(value, dict) and isinstance(value.get("executor"), dict):
            return {"class": "read_only", **value} if value["executor"].get("kind") == "model" else value
        return value

    @field_validator("protected", mode="before")
    @classmethod
    def _kinds(cls, value: object) -> object:
        """A bare list of names means whole values."""
        return dict.fromkeys(value, "exact") if isinstance(value, list) else value


class Contract(BaseModel):
    """An MCP tool descriptor plus `x-sluicegate`."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(min_length=1, max_length=128)
    description: str = ""
    input_schema: dict[str, object] = Field(alias="inputSchema")
    output_schema: dict[str, object] | None = Field(None, alias="outputSchema")
    governance: Governance = Field(alias="x-sluicegate")


class Manifest(Tables, Tasks, BaseModel):
    """`release.yaml`."""

    model_config = ConfigDict(extra="allow")
    name: str
    version: str
    description: str = ""
    parent: object = ""
    """Digest of the release it was derived from. What is no digest names none: releases of before may have a key of theirs."""
    roles: list[str] = []
    grounding: Literal["off", "observe", "enforce"] = "observe"
    guardrails: list[Guardrail] = []
    recall: dict[str, Recall] = {}
    derail: Derail = NO_LIMITS
    models: dict[str, Route] = {}
    canary: CanaryForm = DEFAULT_FORM
    drift: DriftRow = NO_SECTION
    evaluators: list[EvaluatorRow] = []
    require_verified_user: bool = False
    """Sessions may name whom they are for only by a token that was verified."""
