"""Evaluators: who scores a sample of the sessions by itself, as a release says.

    evaluators:
      - {name: polite, python: "judges:polite", sample: 0.2}
      - {name: judge, contract: judge, prompt: judge, sample: 0.05, per_hour: 60, metric: quality}

`python` is a function as SLUICEGATE_PYTHON_TOOLS of the evaluator's process allows it, `contract` a model contract of this release with a `prompt` of it.
A session is in the sample by a hash of its name and the evaluator's, so every worker draws the same ones, before and after a
restart. Never scores anything: `streams/watch/evaluator.py` does. Pure. Next: `sessions/scores.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.schemas.kinds import MODEL
from sluicegate.schemas.scores import QUALITY

if TYPE_CHECKING:
    from sluicegate.processors.releases.release import CompiledTool

MAX_EVALUATORS = 20
"""Of one release."""
_DRAWS = 1 << 32


class EvaluatorRow(BaseModel):
    """One row of `evaluators:`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    metric: str = Field(QUALITY, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    python: str = Field("", max_length=200)
    """`module:function`: takes `session`, gives a number from 0 to 1, or {"score": number, "why": text}."""
    contract: str = Field("", max_length=256)
    prompt: str = Field("", max_length=256)
    sample: float = Field(1.0, ge=0, le=1)
    """Share of the closed sessions."""
    agents: list[str] = []
    """Only these; empty: all."""
    per_hour: int = Field(600, ge=1, le=100_000)
    """Scores an hour at most, over all sessions: what a model costs here is bounded by it, and by the contract's `max_tokens`."""
    max_chars: int = Field(20_000, ge=500, le=200_000)
    """Of a session, what is shown; of a longer one the end."""
    timeout_s: int = Field(30, ge=1, le=300)


def sampled(row: EvaluatorRow, agent_id: str, session_id: str) -> bool:
    """Whether a session is in the sample."""
    if row.agents and agent_id not in row.agents:
        return False
    drawn = hashlib.sha256(f"{row.name}\0{agent_id}\0{session_id}".encode()).digest()[:4]
    return int.from_bytes(drawn, "big") < row.sample * _DRAWS


def score_id(row: EvaluatorRow, agent_id: str, session_id: str) -> str:
    """The same for the same session, so that a second score of it is a duplicate."""
    named = f"{row.name}\0{row.metric}\0{agent_id}\0{session_id}"
    return f"e-{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def check_evaluators(
    rows: list[EvaluatorRow], tools: Mapping[str, CompiledTool], prompts: Collection[str], text: str
) -> list[Finding]:
    """What is wrong with them."""
    findings, names = list[Finding](), set[str]()
    for at, row in enumerate(rows):

        def wrong(said: str, key: str, at: int = at) -> None:
            findings.append(Finding("release.yaml", line_of(text, ["evaluators", str(at), key]), "release", "error", said))  # fmt: skip

        if row.name in names:
            wrong(f"evaluator `{row.name}` stands twice", "name")
        names.add(row.name)
        if bool(row.python) == bool(row.contract):
            wrong(f"evaluator `{row.name}` needs either `python` or `contract`", "name")
        if row.contract and (row.contract not in tools or tools[row.contract].executor_kind != MODEL):
            wrong(
                f"evaluator `{row.name}`: `{row.contract}` is no model contract of this release", "contract"
            )
        if row.contract and row.prompt not in prompts:
            wrong(f"evaluator `{row.name}` needs a `prompt` of this release", "prompt")
    if len(rows) > MAX_EVALUATORS:
        findings.append(Finding("release.yaml", line_of(text, ["evaluators"]), "release", "error", f"a release has at most {MAX_EVALUATORS} evaluators"))  # fmt: skip
    return findings
