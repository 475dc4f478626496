"""Model routes: an alias stands for candidates, and each call gets the ones that fit it, in an order that can be made again.

    models:                                   # in release.yaml
      triage:                                 # what a model call names
        candidates:
          - contract: model.large             # a contract of kind `model`
            when: size(arguments.messages) < 20 && !(agent.team == "night")      # CEL
            weight: 3
          - contract: model.small
        choose: ordered                       # as written | weighted, drawn by the call's id | scored, best first | cheapest
        requires: [json]                      # `features` of the contract's executor
        region: [eu]                          # `region` of the contract's executor
        on_error: {rate_limit: retry, content_policy: stop}                       # `models/attempts.py`
        attempts: 6

To policies an alias is an action of its own, and each candidate a resource: `action == Action::"triage", resource ==
Tool::"model.large"`. An unhealthy candidate is asked last, behind it one whose own budgets have no room. Compiled here, once a release. Next: `models/candidates.py`
(who is asked for a call), `models/attempts.py` (what follows a failure).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import cel
import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sluicegate.processors.policy.expressions import MAX_EXPRESSION_CHARS, compile_expression
from sluicegate.processors.releases.contract_check import line_of
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.kinds import MODEL

if TYPE_CHECKING:
    from sluicegate.processors.releases.release import CompiledTool

MAX_CANDIDATES = 8
"""Of one alias: each costs a policy evaluation of about 40 us a call, and a row of facts."""
MAX_ATTEMPTS = 20
"""Failed attempts of one call that a route may follow; each is at most the contract's time."""
DEFAULT_ATTEMPTS = 6
MAX_WEIGHT = 1_000
ERROR_CLASSES = (
    "rate_limit", "overload", "timeout", "context_length", "content_policy", "authentication", "malformed_output",
    "server_error", "model_changed", "refused",
)  # fmt: skip
"""What can become of an attempt besides an answer; `refused` is anything else a server says no to."""
Rule = Literal["next", "retry", "repair", "stop"]
RULES: Mapping[str, Rule] = {
    "rate_limit": "next", "overload": "next", "timeout": "next", "context_length": "next", "content_policy": "stop",
    "authentication": "next", "malformed_output": "repair", "server_error": "next", "model_changed": "next",
    "refused": "next",
}  # fmt: skip
"""What follows where the route says nothing."""
VARIABLES = ("agent", "session", "arguments", "environment", "health", "task")
OK, UNHEALTHY, FULL = "ok", "unhealthy", "full"
"""Standings of a candidate that may be asked; `full` is followed by the budget or limit that has no room for the call.
Every other one says why it is not asked."""
_SAME = ("tool_class", "protected", "constants", "measures", "redact_arguments", "redact_result", "cache")


class Candidate(BaseModel):
    """One way to go."""

    model_config = ConfigDict(extra="forbid")
    contract: str
    when: str = Field("", max_length=MAX_EXPRESSION_CHARS)
    weight: int = Field(1, ge=1, le=MAX_WEIGHT)


class Route(BaseModel):
    """One alias of `models:`."""

    model_config = ConfigDict(extra="forbid")
    candidates: list[Candidate] = Field(min_length=1, max_length=MAX_CANDIDATES)
    choose: Literal["ordered", "weighted", "scored", "cheapest"] = "ordered"
    requires: list[str] = Field([], max_length=16)
    region: list[str] = Field([], max_length=16)
    on_error: dict[str, Rule] = {}
    attempts: int = Field(DEFAULT_ATTEMPTS, ge=1, le=MAX_ATTEMPTS)

    @model_validator(mode="after")
    def _known(self) -> Route:
        for name, rule in self.on_error.items():
            if name not in ERROR_CLASSES:
                raise ValueError(f"`on_error` names `{name}`{nearest(name, ERROR_CLASSES)}")
            if rule == "repair" and name != "malformed_output":
                raise ValueError(f"only `malformed_output` can be repaired, not `{name}`")
        return self


@dataclass(frozen=True, slots=True)
class Way:
    """A compiled candidate. `unfit`: why it is never asked, or empty."""

    tool: CompiledTool
    when: cel.Program | None
    weight: int
    features: frozenset[str] | None
    unfit: str = ""


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """An alias, ready to choose."""

    ways: tuple[Way, ...]
    choose: str
    rules: dict[str, Rule]
    attempts: int

    def way(self, name: str) -> Way | None:
        """The candidate of this name."""
        return next((w for w in self.ways if w.tool.name == name), None)


def may_be_asked(standing: str) -> bool:
    """Whether a candidate of this standing may be asked."""
    return standing in (OK, UNHEALTHY) or standing.startswith(f"{FULL} ")


@dataclass(slots=True)
class Choice:
    """The candidates of one call, in the order they would be asked; the lists go together, item by item."""

    names: list[str] = field(default_factory=list)
    scores: list[int] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)

    @property
    def usable(self) -> tuple[str, ...]:
        """Those that may be asked."""
        pairs = zip(self.names, self.standing, strict=True)
        return tuple(name for name, standing in pairs if may_be_asked(standing))


@dataclass(slots=True)
class Aim:
    """Who is asked now.

    Attributes:
        why: `first`, `again`, or what failed before and the rule that followed.
        tried: `contract class` of every attempt that failed, oldest first.
        aimed: the attempt with which this candidate was first offered this call.
        repair: offset in `receipts` of the answer that is to be repaired, or -1; `message`: what is asked then.
    """

    candidate: str
    why: str
    tried: tuple[str, ...]
    aimed: int
    repair: int = -1
    message: bytes = b""


def compile_routes(
    routes: Mapping[str, Route], tools: dict[str, CompiledTool], text: str, findings: list[Finding]
) -> dict[str, tuple[str, ...]]:
    """Add each alias to `tools` as a tool of its own. Returns alias -> contracts, for policies; faults become findings."""
    found: dict[str, tuple[str, ...]] = {}
    contracts = dict(tools)
    for alias in sorted(routes):
        try:
            tools[alias] = _alias(alias, routes[alias], contracts)
        except Terminal as error:
            line = line_of(text, ["models", alias])
            findings.append(Finding("release.yaml", line, "route", "error", str(error)))
            continue
        found[alias] = tuple(c.contract for c in routes[alias].candidates)
    return found


def _alias(alias: str, route: Route, tools: Mapping[str, CompiledTool]) -> CompiledTool:
    where = f"route `{alias}`"
    if alias in tools or not 0 < len(alias) <= 128 or not alias.isprintable():
        raise Terminal(f"{where} has the name of a contract, or none that a call could use, choose another")
    ways = tuple(_way(where, route, candidate, tools) for candidate in route.candidates)
    if len({way.tool.name for way in ways}) < len(ways):
        raise Terminal(f"{where} names a candidate twice")
    if all(way.unfit for way in ways):
        raise Terminal(f"{where} leads nowhere: `{ways[0].tool.name}`: {ways[0].unfit}")
    first = ways[0].tool
    if any(_shape(way.tool) != _shape(first) for way in ways):
        raise Terminal(
            f"{where}: its candidates do not take and give the same, let their contracts differ only in executor,"
            " time, version and description"
        )
    if first.tool_class != "read_only":
        raise Terminal(f"{where}: `{first.name}` is no `read_only`, so another could not be asked after it")
    digest = hashlib.sha256(orjson.dumps([alias, route.model_dump(), [_bytes(w.tool) for w in ways]]))
    compiled = CompiledRoute(ways, route.choose, {**RULES, **route.on_error}, route.attempts)
    return replace(
        first,
        name=alias,
        version=f"route-{digest.hexdigest()[:12]}",
        executor=b"",
        path="release.yaml",
        stream="",  # each candidate's own
        route=compiled,
    )


def _way(where: str, route: Route, candidate: Candidate, tools: Mapping[str, CompiledTool]) -> Way:
    tool = tools.get(candidate.contract)
    if tool is None:
        raise Terminal(
            f"{where} leads to `{candidate.contract}`, which no contract is{nearest(candidate.contract, tools)}"
        )
    if tool.executor_kind != MODEL:
        raise Terminal(f"{where} leads to `{tool.name}`, which is no model")
    program = None
    if candidate.when:
        program = compile_expression(candidate.when, f"{where}: `when` of `{tool.name}`", VARIABLES)
    executor = orjson.loads(tool.executor)
    features = executor.get("features")
    declared = frozenset(map(str, features)) if isinstance(features, list) else None
    missing = sorted(set(route.requires) - (declared or frozenset()))
    unfit = f"feature {missing[0]}" if missing else ""
    if not unfit and route.region and executor.get("region") not in route.region:
        unfit = "region"
    return Way(tool, program, candidate.weight, declared, unfit)


def _shape(tool: CompiledTool) -> list[object]:
    contract = tool.contract
    governance = contract.governance
    schemas = [contract.input_schema, contract.output_schema, governance.labels, governance.confidential]
    texts = [orjson.dumps(part, option=orjson.OPT_SORT_KEYS) for part in schemas]
    bounds = (governance.max_argument_bytes, governance.max_result_bytes)
    return [*texts, bounds, *(getattr(tool, name) for name in _SAME)]


def _bytes(tool: CompiledTool) -> list[str]:
    return [tool.name, tool.version, tool.executor.decode(), str(tool.timeout_ms)]
