"""How a canary is judged, as `release.yaml` says it, compiled once a release. Nothing has to be said: these are the defaults.

    canary:
      alpha: 0.05            # an even canary is aborted with at most this probability, however often one looks
      min_sessions: 50       # of the canary, compared, before it may be promoted
      max_sessions: 5000     # of the canary, closed; then:
      at_cap: hold           # hold: draw nobody any more and leave it to a person; or abort
      metrics:
        failure: {weight: 3, margin: 0.05, score: any}   # any: a session with such a call is 1; share: of its calls
        quality: {weight: 0}                         # not judged
        cost: {weight: 1, clip: 500000, margin: 0.1} # micro-units a session that count as 1

The rules are those of the release that is *deployed*: a candidate does not set its own examination
(docs/decisions/0023). Never judges. Next: `canary/judge.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding

FAILURE, REFUSAL, WITHHELD, UNGROUNDED, QUALITY, COST = METRICS = (
    "failure", "refusal", "withheld", "ungrounded", "quality", "cost",
)  # fmt: skip
Metric = Literal["failure", "refusal", "withheld", "ungrounded", "quality", "cost"]

WEIGHTS = {FAILURE: 3.0, REFUSAL: 2.0, WITHHELD: 1.0, UNGROUNDED: 2.0, QUALITY: 2.0, COST: 0.0}
"""Parts of alpha. Cost has none until somebody says what a session may cost (`clip`)."""
LOWER_IS_WORSE = (QUALITY,)
COUNTED = (FAILURE, REFUSAL, WITHHELD, UNGROUNDED)
"""Metrics that count calls."""
DEFAULT_MARGIN = 0.05
MAX_SESSIONS = 1_000_000


class MetricForm(BaseModel):
    """One row of `canary.metrics`."""

    model_config = ConfigDict(extra="forbid")
    weight: float | None = Field(None, ge=0, le=1_000)
    margin: float = Field(DEFAULT_MARGIN, gt=0, lt=1)
    direction: Literal["higher_is_worse", "lower_is_worse"] | None = None
    clip: int = Field(0, ge=0, le=2**53)
    score: Literal["any", "share"] = "any"


class CanaryForm(BaseModel):
    """`canary:` of `release.yaml`."""

    model_config = ConfigDict(extra="forbid")
    alpha: float = Field(0.05, gt=0, le=0.5)
    min_sessions: int = Field(50, ge=1, le=MAX_SESSIONS)
    max_sessions: int = Field(5_000, ge=1, le=MAX_SESSIONS)
    at_cap: Literal["hold", "abort"] = "hold"
    metrics: dict[Metric, MetricForm] = {}


DEFAULT_FORM = CanaryForm.model_validate({})
_PLAIN = MetricForm.model_validate({})


@dataclass(frozen=True, slots=True)
class MetricRule:
    """One bounded score a session.

    Attributes:
        alpha: its part of the canary's; aborts at an e-value of 1 / alpha.
        margin: how much worse, of a score in [0, 1], is no reason against promoting.
        lower_is_worse: of quality.
        clip: micro-units of money that count as 1; only of cost.
        share: the score is the share of calls; else 1 for a session with any such call. Of long sessions most have one.
    """

    name: str
    alpha: float
    margin: float
    lower_is_worse: bool
    clip: int = 0
    share: bool = False


@dataclass(frozen=True, slots=True)
class CanaryRules:
    """Compiled."""

    alpha: float
    min_sessions: int
    max_sessions: int
    at_cap: str
    metrics: tuple[MetricRule, ...]


def compile_canary(form: CanaryForm, text: str = "", findings: list[Finding] | None = None) -> CanaryRules:
    """The rules; what cannot be becomes a finding, and the defaults stand in its place."""
    wrong = _wrong(form)
    if wrong and findings is not None:
        path, said = wrong
        findings.append(Finding("release.yaml", line_of(text, ["canary", *path]), "release", "error", said))
    form = DEFAULT_FORM if wrong else form
    given: Mapping[str, MetricForm] = {str(name): row for name, row in form.metrics.items()}
    weights = {name: _weight(name, given.get(name)) for name in METRICS}
    whole = sum(weights.values())
    rules = []
    for name in METRICS:
        row = given.get(name, _PLAIN)
        if weights[name]:
            lower = (row.direction == "lower_is_worse") if row.direction else name in LOWER_IS_WORSE
            rules.append(
                MetricRule(
                    name,
                    form.alpha * weights[name] / whole,
                    row.margin,
                    lower,
                    row.clip,
                    row.score == "share",
                )
            )
    return CanaryRules(form.alpha, form.min_sessions, form.max_sessions, form.at_cap, tuple(rules))


def _weight(name: str, row: MetricForm | None) -> float:
    if row is None or row.weight is None:
        return 1.0 if name == COST and row is not None and row.clip else WEIGHTS[name]
    return row.weight


def _wrong(form: CanaryForm) -> tuple[list[str], str] | None:
    if form.min_sessions > form.max_sessions:
        return [
            "min_sessions"
        ], "`canary.min_sessions` is above `max_sessions`, so nothing would ever be promoted"
    for name, row in form.metrics.items():
        if name == COST and row.weight and not row.clip:
            return [
                "metrics",
                name,
            ], "`canary.metrics.cost` needs `clip`: the micro-units a session that count as 1"
        if name not in COUNTED and "score" in row.model_fields_set:
            return [
                "metrics",
                name,
            ], f"`canary.metrics.{name}` has a `score`, which only {', '.join(COUNTED)} have"
        if name != COST and row.clip:
            return ["metrics", name], f"`canary.metrics.{name}` has a `clip`, which only `cost` has"
    if form.metrics and not sum(
        _weight(m, {str(k): v for k, v in form.metrics.items()}.get(m)) for m in METRICS
    ):
        return ["metrics"], "`canary.metrics` gives every metric the weight 0, so nothing would be judged"
    return None


DEFAULT_RULES = compile_canary(DEFAULT_FORM)
