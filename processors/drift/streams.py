"""What is counted: rows of traffic, and the streams that a release's rules make of them.

A row is one bucket of time × release × agent × tool. A stream is one rule over one agent, tool or release. The same
function makes streams of the newest bucket, of a reference of weeks ago and of a recomputation. Pure.
Next: `drift/watch.py` (detectors over streams), `streams/watch/windows.py` (where rows come from).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from sluicegate.processors.drift.rules import NEWS, RATES, Drift, Rule

START = "(start)"
"""Stands before the first call of a session in a pair of tools."""
MAX_NAMES = 500
"""Different names of one stream, about 100 bytes each; further ones count as rare, so that nobody fills memory by naming."""
OVERFLOW = "(more)"


@dataclass(slots=True)
class Row:
    """Counts of one bucket, release, agent and tool.

    Attributes:
        at: start of the bucket, microseconds.
        asked: calls that were asked for in it.
        refused: calls refused in it by the contract, a policy or a guardrail; not for a budget, a quarantine or a bad id.
        executed, failed, withheld: executions that ended in it, and those of them that failed or were kept back.
        ungrounded: calls with a protected argument whose value stands nowhere.
        observed: calls that something only observed would have decided otherwise, were it enforced.
        scored, bad: scores of quality in [0, 1], and the sum of 1 - score; others were left out (`ignored`).
        after: tool called before this one in the session -> how often.
        shapes: names and types of the arguments -> how often.
        models: model that answered -> how often.
    """

    at: int
    release: str
    agent_id: str
    tool: str
    asked: int = 0
    refused: int = 0
    executed: int = 0
    failed: int = 0
    withheld: int = 0
    ungrounded: int = 0
    scored: int = 0
    bad: float = 0.0
    ignored: int = 0
    after: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    observed: int = 0


class Key(NamedTuple):
    """One stream."""

    rule_id: str
    release: str
    agent_id: str
    tool: str

    @property
    def text(self) -> str:
        """Its name in alarms: without the release, so that a cool-down outlives a deployment."""
        about = [f"agent={self.agent_id}"] * bool(self.agent_id) + [f"tool={self.tool}"] * bool(self.tool)
        return " ".join([self.rule_id, *about])

    @property
    def place(self) -> Key:
        """The stream under whatever release: what references are kept by."""
        return Key(self.rule_id, "", self.agent_id, self.tool)


@dataclass(slots=True)
class Tally:
    """What one stream holds: a rate (`bad` of `n`), or names (`names`, `n` of them)."""

    n: int = 0
    bad: float = 0.0
    names: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Both together."""
        self.n += other.n
        self.bad += other.bad
        for name, count in other.names.items():
            known = name in self.names or len(self.names) < MAX_NAMES
            self.names[name if known else OVERFLOW] += count


def tally(drift: Drift, rows: Iterable[Row], *, by_release: bool = True) -> dict[Key, Tally]:
    """Every stream that these rows say something of."""
    found: dict[Key, Tally] = {}
    for row in rows:
        for rule in drift.rules:
            if (rule.agents and row.agent_id not in rule.agents) or (
                rule.tools and row.tool not in rule.tools
            ):
                continue
            one = _of(rule, row)
            if one.n:
                key = key_of(rule, row, by_release=by_release)
                found.setdefault(key, Tally()).add(one)
    return found


def key_of(rule: Rule, row: Row, *, by_release: bool = True) -> Key:
    """The stream that a row belongs to."""
    agent = row.agent_id if rule.per in ("agent", "agent_tool") else ""
    tool = row.tool if rule.per in ("tool", "agent_tool") else ""
    return Key(rule.rule_id, row.release if by_release else "", agent, tool)


def _of(rule: Rule, row: Row) -> Tally:
    match rule.stream:
        case "refused":
            return Tally(row.asked, min(row.refused, row.asked))
        case "failed":
            return Tally(row.executed, min(row.failed, row.executed))
        case "withheld":
            return Tally(row.executed, min(row.withheld, row.executed))
        case "ungrounded":
            return Tally(row.asked, min(row.ungrounded, row.asked))
        case "observed":
            return Tally(row.asked, min(row.observed, row.asked))
        case "low_quality":
            return Tally(row.scored, min(max(row.bad, 0.0), row.scored))
        case "tools":
            return _names({row.tool or "(unknown)": row.asked} if row.asked else {})
        case "bigrams":
            return _names({f"{before} > {row.tool}": n for before, n in row.after.items()})
        case "shapes":
            return _names({f"{row.tool}({shape})": n for shape, n in row.shapes.items()})
        case _:
            return _names(row.models)


def _names(counts: dict[str, int]) -> Tally:
    return Tally(sum(counts.values()), 0.0, Counter(counts))


def kind_of(rule: Rule) -> str:
    """`rate`, `mix` or `news`."""
    return "rate" if rule.stream in RATES else "news" if rule.stream in NEWS else "mix"
