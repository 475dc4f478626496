"""Budgets, limits and prices of a release, compiled.

    budgets:
      - {id: monthly, scope: team, match: support, unit: money, cap: 50000000, window: month}
    limits:
      - {id: pace, scope: agent, unit: requests, cap: 60, window: minute}
    prices:
      assistant: {input_per_mtok: 150000, output_per_mtok: 600000}

Amounts are whole numbers; money is micro-units of one currency (1,000,000 is one). A window is of decided time, in UTC,
from the epoch on; a `week` begins on Thursday and a `month` has 30 days, so that no calendar decides anything.
Never counts. Next: `budget/costs.py` (what a call costs), `budget/budgets.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding
from sluicegate.schemas.errors import Terminal

_S = 1_000_000
WINDOWS_US = {
    "none": 0, "minute": 60 * _S, "hour": 3_600 * _S, "day": 86_400 * _S, "week": 7 * 86_400 * _S,
    "month": 30 * 86_400 * _S,
}  # fmt: skip
MAX_AMOUNT = 2**53
"""The largest cap: exact in every JSON reader, and the sum of 1,000 of them fits 64 bits."""

Scope = Literal["agent", "session", "team", "tenant", "tool"]
Window = Literal["none", "minute", "hour", "day", "week", "month"]
_ID = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class BudgetRow(BaseModel):
    """One row of `budgets:`."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=_ID)
    scope: Scope
    match: str = Field("*", min_length=1, max_length=256)
    tools: list[str] = []
    unit: Literal["money", "tokens", "calls", "wall_ms", "depth", "fan_out"]
    cap: int = Field(ge=0, le=MAX_AMOUNT)
    headroom: int = Field(0, ge=0, le=MAX_AMOUNT)
    window: Window = "none"


class LimitRow(BaseModel):
    """One row of `limits:`."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=_ID)
    scope: Scope
    match: str = Field("*", min_length=1, max_length=256)
    tools: list[str] = []
    unit: Literal["requests", "tokens", "cost"]
    cap: int = Field(ge=0, le=MAX_AMOUNT)
    window: Literal["minute", "hour", "day", "week", "month"]


class PriceRow(BaseModel):
    """What a model costs, in micro-units for a million tokens."""

    model_config = ConfigDict(extra="forbid")
    input_per_mtok: int = Field(ge=0, le=MAX_AMOUNT)
    output_per_mtok: int = Field(ge=0, le=MAX_AMOUNT)


class Tables(BaseModel):
    """What `release.yaml` says about amounts."""

    budgets: list[BudgetRow] = []
    limits: list[LimitRow] = []
    prices: dict[str, PriceRow] = {}
    spend: bool = False
    """What every reported attempt cost is written to the ledger (`budget/spend.py`)."""


class Costs(BaseModel):
    """What a contract says about them."""

    max_cost: int | None = Field(None, ge=0, le=MAX_AMOUNT)
    """The most one attempt costs, in micro-units of the currency; of a model only where no price is known."""
    cost: str = ""
    """Where the result says what it cost, `$.path`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled row.

    Attributes:
        match: a name of the scope's, `*`, or a beginning followed by `*`.
        tools: as `match`, of the tools it counts; empty: all.
        headroom: kept back from reservations, for overruns.
        limit: a rate limit: refused `rate_limited`, never frozen.
    """

    rule_id: str
    scope: str
    match: str
    tools: tuple[str, ...]
    unit: str
    cap: int
    headroom: int
    window: str
    limit: bool

    @property
    def ceiling(self) -> int:
        """What may be reserved and spent together."""
        return self.cap - self.headroom

    def window_at(self, now: int) -> int:
        """The number of the window at a time in microseconds."""
        span = WINDOWS_US[self.window]
        return now // span if span else 0

    def covers(self, tool: str) -> bool:
        """Whether calls of a tool count."""
        return not self.tools or any(fits(one, tool) for one in self.tools)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Everything of a release that is about amounts.

    Attributes:
        rules: by id.
        by_tool: contract -> the rules it may fall under, in the release's order.
        prices: contract or model -> (input, output) in micro-units for a million tokens.
        spend: whether what attempts cost is recorded.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    by_tool: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    prices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    spend: bool = False

    def rules_of(self, tool: str) -> tuple[Rule, ...]:
        """The rules that a contract may fall under."""
        # INVARIANT: a tool that only another release has, a canary's or a pinned one, counts as well
        # (tests/unit/test_seams.py).
        known = self.by_tool.get(tool)
        return known if known is not None else rules_for(self.rules.values(), tool)


NO_BUDGETS = Budgets()


def fits(pattern: str, name: str) -> bool:
    """Whether a name fits: the same, or any with that beginning."""
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))


def rules_for(rules: Iterable[Rule], tool: str) -> tuple[Rule, ...]:
    """Those of the rules that a tool may fall under, in their order."""
    return tuple(r for r in rules if r.covers(tool) and (r.scope != "tool" or fits(r.match, tool)))


def compile_budgets(
    budgets: Sequence[BudgetRow],
    limits: Sequence[LimitRow],
    prices: Mapping[str, PriceRow],
    tools: Sequence[str],
) -> Budgets:
    """Compile the rows. Raises `Terminal` for an id that stands twice, or a row that could not mean anything."""
    rules: dict[str, Rule] = {}
    rows: list[BudgetRow | LimitRow] = [*budgets, *limits]
    for row in rows:
        if row.id in rules:
            raise Terminal(f"budget `{row.id}` stands twice, give one of them another id")
        headroom = row.headroom if isinstance(row, BudgetRow) else 0
        if headroom > row.cap:
            raise Terminal(
                f"budget `{row.id}` keeps back {headroom} of {row.cap}, make `headroom` less than `cap`"
            )
        if row.unit in ("depth", "fan_out") and (row.window != "none" or headroom):
            raise Terminal(f"budget `{row.id}` counts {row.unit}, which knows no window and no headroom")
        if row.tools and not any(fits(one, tool) for one in row.tools for tool in tools):
            raise Terminal(f"budget `{row.id}` counts `{row.tools[0]}`, and no contract has such a name")
        rules[row.id] = Rule(
            row.id, row.scope, row.match, tuple(row.tools), row.unit, row.cap, headroom, row.window,
            isinstance(row, LimitRow),
        )  # fmt: skip
    by_tool = {tool: rules_for(rules.values(), tool) for tool in tools}
    rates = {name: (row.input_per_mtok, row.output_per_mtok) for name, row in prices.items()}
    return Budgets(rules, by_tool, rates)


def read_budgets(tables: Tables, tools: Sequence[str], text: str, findings: list[Finding]) -> Budgets:
    """`compile_budgets` for a release that is being checked: a fault becomes a finding with its line."""
    if tables.prices and not tables.spend:
        said = "there are prices, and no `spend: true`: the view `spend` will know no money"
        findings.append(Finding("release.yaml", line_of(text, ["prices"]), "spend", "warning", said))
    try:
        compiled = compile_budgets(tables.budgets, tables.limits, tables.prices, tools)
        return replace(compiled, spend=tables.spend)
    except Terminal as error:
        key = "budgets" if any(f"`{row.id}`" in str(error) for row in tables.budgets) else "limits"
        findings.append(Finding("release.yaml", line_of(text, [key]), "release", "error", str(error)))
        return NO_BUDGETS
