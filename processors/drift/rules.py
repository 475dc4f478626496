"""What a release says about drift: which streams are watched, how rarely they may cry wolf, and what an alarm does.

    drift:
      run_length_h: 672               # a false alarm anywhere once in four weeks of traffic, on average
      alarms:
        - {id: refunds, stream: refused, per: agent, agents: [refunds], action: rollback}
        - {id: broken-tools, stream: failed, per: tool, action: quarantine, at_least: 0.2}
      automatic: {unacknowledged: 2, per_day: 6}

Without the section every stream of `DEFAULTS` is watched and only told of. Rows of `alarms` replace the default row of
the same id and come beside the others; `action: none` takes one away. Compiled once a release. Pure.
Next: `drift/watch.py` (what follows these), `drift/alarm_events.py` (the bounds that hold whatever stands here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sluicegate.processors.drift.alarm_events import NOTIFY, REVIEW, ROLLBACK_AGENT
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding

RATES = ("refused", "failed", "withheld", "ungrounded", "observed", "low_quality")
"""Streams of ones and noughts, or of badness from 0 to 1: a detector of a rise."""
NEWS = ("model",)
"""Streams of names where one that was never seen is the alarm."""

Stream = Literal["refused", "failed", "withheld", "ungrounded", "observed", "low_quality", "tools", "bigrams", "shapes", "model"]  # fmt: skip
Per = Literal["release", "agent", "tool", "agent_tool"]
Action = Literal["notify", "review", "rollback_agent", "rollback", "quarantine", "none"]

RATE_FLOOR, MIX_FLOOR = 0.05, 0.01
"""The smallest rise of a rate, and the smallest Jensen-Shannon divergence, that anybody wants to be woken for."""
MAX_ALARMS = 200
"""Rules of a release."""
US = 1_000_000


class AlarmRow(BaseModel):
    """One row of `alarms:`."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    stream: Stream
    per: Per = "agent"
    agents: list[str] = []
    """Only these; empty: all."""
    tools: list[str] = []
    action: Action = "notify"
    at_least: float | None = Field(default=None, gt=0, lt=1)
    expected: float | None = Field(default=None, ge=0, lt=1)
    """A rate that people promise; then no earlier traffic is asked."""
    cool_down_s: int = Field(default=3_600, ge=60, le=7 * 86_400)


class Automatic(BaseModel):
    """Bounds of this release; those of control's fold hold besides."""

    model_config = ConfigDict(extra="forbid")
    unacknowledged: int = Field(default=3, ge=0, le=100)
    per_day: int = Field(default=10, ge=0, le=1_000)


class DriftRow(BaseModel):
    """`drift:` of `release.yaml`."""

    model_config = ConfigDict(extra="forbid")
    bucket_s: int = Field(default=10, ge=1, le=3_600)
    run_length_h: float = Field(default=672.0, gt=0, le=87_600)
    window: int = Field(default=500, ge=50, le=1_000_000)
    """Observations of a window of names."""
    reference: int = Field(default=500, ge=50, le=1_000_000)
    """Observations that a reference needs."""
    blind_after_s: int = Field(default=300, ge=5, le=86_400)
    alarms: list[AlarmRow] = Field(default=[], max_length=MAX_ALARMS)
    automatic: Automatic = Automatic()


@dataclass(frozen=True, slots=True)
class Rule:
    """One row, ready."""

    rule_id: str
    stream: str
    per: str
    agents: frozenset[str]
    tools: frozenset[str]
    action: str
    floor: float
    expected: float | None
    cool_down_s: int


@dataclass(frozen=True, slots=True)
class Drift:
    """The rules of one release."""

    rules: tuple[Rule, ...]
    bucket_us: int
    run_length_us: int
    window: int
    reference: int
    blind_after_us: int
    unacknowledged: int
    per_day: int

    @property
    def run_length(self) -> float:
        """In buckets: 1/alpha of all detectors together."""
        return max(1.0, self.run_length_us / self.bucket_us)


DEFAULTS = (
    AlarmRow(id="refused", stream="refused"),
    AlarmRow(id="failed", stream="failed", per="tool"),
    AlarmRow(id="withheld", stream="withheld", per="tool"),
    AlarmRow(id="ungrounded", stream="ungrounded"),
    AlarmRow(id="low-quality", stream="low_quality"),
    AlarmRow(id="tools", stream="tools"),
    AlarmRow(id="bigrams", stream="bigrams"),
    AlarmRow(id="shapes", stream="shapes", per="tool"),
    AlarmRow(id="model", stream="model", per="tool"),
)
"""What is watched where nobody says otherwise: told of, never acted on. Not `observed`: who only observes looks at violations anyway."""


def compile_drift(row: DriftRow) -> Drift:
    """The section, ready to be watched by."""
    rows = {one.id: one for one in (*DEFAULTS, *row.alarms)}
    return Drift(
        tuple(_rule(one) for one in rows.values() if one.action != "none"), row.bucket_s * US,
        int(row.run_length_h * 3_600 * US), row.window, row.reference, row.blind_after_s * US,
        row.automatic.unacknowledged, row.automatic.per_day,
    )  # fmt: skip


def check_drift(row: DriftRow, tools: set[str], text: str) -> list[Finding]:
    """What cannot work, with its line."""
    found = []
    seen: set[str] = set()
    for index, one in enumerate(row.alarms):
        said = _problem(one, tools, seen)
        seen.add(one.id)
        if said:
            line = line_of(text, ["drift", "alarms", str(index)])
            found.append(Finding("release.yaml", line, "drift", "error", f"alarm `{one.id}` {said}"))
    return found


def _problem(one: AlarmRow, tools: set[str], seen: set[str]) -> str:
    if one.id in seen:
        return "stands twice, give every alarm an id of its own"
    unknown = sorted(set(one.tools) - tools)
    if unknown:
        return f"names tool `{unknown[0]}`, which has no contract, see contracts/"
    if one.action in (REVIEW, ROLLBACK_AGENT) and one.per not in ("agent", "agent_tool"):
        return f"asks for `{one.action}`, which is about an agent: set `per` to agent or agent_tool"
    if one.expected is not None and one.stream not in RATES:
        return f"has `expected`, and `{one.stream}` is no rate: take it out"
    return ""


def _rule(one: AlarmRow) -> Rule:
    floor = one.at_least or (RATE_FLOOR if one.stream in RATES else MIX_FLOOR)
    action = NOTIFY if one.action == "none" else one.action
    return Rule(
        one.id, one.stream, one.per, frozenset(one.agents), frozenset(one.tools), action, floor, one.expected,
        one.cool_down_s,
    )  # fmt: skip


NO_SECTION = DriftRow()
DEFAULT_DRIFT = compile_drift(NO_SECTION)
