"""What follows from policies alone: conditions no call can meet, and policies whose scope and conditions cover another's.

Conditions become branches of atoms (an `or` of `and`s, within a bound); a branch is impossible when its atoms about one
path cannot hold together. Sound, not complete: what is called impossible is, and what is too hard is taken for possible.
Pure; never evaluates a request. Next: `releases/check.py` (who asks), `policy/check.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

from sluicegate.processors.policy.cedar import Json, Policy
from sluicegate.processors.policy.vocabulary import path_of, scope_tools

MAX_BRANCHES = 64
"""Branches of one policy's conditions; beyond, they are taken for possible."""

Atom = tuple[Json, bool]
"""An expression, and whether it must hold or must not."""

_ORDER = {"<": "<", "<=": "<=", ">": ">", ">=": ">="}
_METHODS = {"lessThan": "<", "lessThanOrEqual": "<=", "greaterThan": ">", "greaterThanOrEqual": ">="}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Reach:
    """Which calls a policy speaks about. `principal` is `("all", "")`, `("role", id)` or `("agent", id)`."""

    principal: tuple[str, str]
    tools: frozenset[str]
    conditions: frozenset[str]

    def covers(self, other: Reach) -> bool:
        """Whether every call that the other matches is matched by this one."""
        wide = self.principal[0] == "all" or self.principal == other.principal
        return wide and self.tools >= other.tools and self.conditions <= other.conditions


def reach_of(policy: Policy, tools: Iterable[str], ways: Mapping[str, Sequence[str]] | None = None) -> Reach:
    """The reach of one policy among these tools. `ways`: alias -> its candidates."""
    conditions = cast("list[dict[str, Json]]", policy.est.get("conditions", []))
    atoms = [a for c in conditions for a in _flat(c["body"], c["kind"] == "when")]
    keys = frozenset(json.dumps([node, holds], sort_keys=True) for node, holds in atoms)
    return Reach(_principal(policy), frozenset(scope_tools(policy, tools, ways)), keys)


def _principal(policy: Policy) -> tuple[str, str]:
    part = cast("dict[str, Json]", policy.est["principal"])
    inner = part.get("in") if part["op"] == "is" else part if part["op"] in ("==", "in") else None
    if not isinstance(inner, dict):
        return "all", ""  # `is Agent`: every principal is one
    entity = cast("dict[str, str]", inner["entity"])
    return ("role" if entity["type"] == "Role" else "agent"), entity["id"]


def _flat(node: Json, holds: bool) -> list[Atom]:
    """The atoms that must all be as they say; an `or` stays one atom."""
    if isinstance(node, dict):
        joint = "&&" if holds else "||"
        if joint in node:
            return _flat(node[joint]["left"], holds) + _flat(node[joint]["right"], holds)
        if "!" in node:
            return _flat(node["!"]["arg"], not holds)
    return [(node, holds)]


def impossible(policy: Policy) -> str:
    """Why no call can meet the policy's conditions, in words, or an empty string."""
    branches: list[list[Atom]] = [[]]
    for condition in cast("list[dict[str, Json]]", policy.est.get("conditions", [])):
        more = _branches(condition["body"], condition["kind"] == "when")
        branches = [a + b for a in branches for b in more]
        if len(branches) > MAX_BRANCHES:
            return ""
    reasons = [_clash(branch) for branch in branches]
    return reasons[0] if all(reasons) else ""


def implies(narrow: Policy, wide: Policy) -> bool:
    """Whether every call that meets `narrow`'s conditions meets `wide`'s. False also where it is too hard to tell."""
    cases: list[list[Atom]] = [[]]
    for condition in cast("list[dict[str, Json]]", narrow.est.get("conditions", [])):
        more = _branches(condition["body"], condition["kind"] == "when")
        cases = [a + b for a in cases for b in more]
        if len(cases) > MAX_BRANCHES:
            return False
    for condition in cast("list[dict[str, Json]]", wide.est.get("conditions", [])):
        for against in _branches(condition["body"], condition["kind"] != "when"):
            if not all(_clash(case + against) for case in cases):
                return False
    return True


def _branches(node: Json, holds: bool) -> list[list[Atom]]:
    if isinstance(node, dict):
        if "!" in node:
            return _branches(node["!"]["arg"], not holds)
        for op, joint in (("&&", holds), ("||", not holds)):
            if op in node:
                left = _branches(node[op]["left"], holds)
                right = _branches(node[op]["right"], holds)
                if not joint:
                    return left + right
                if len(left) * len(right) > MAX_BRANCHES:
                    return [[(node, holds)]]
                return [a + b for a in left for b in right]
    return [[(node, holds)]]


@dataclass(slots=True)
class _Facts:
    """What a branch says about one path."""

    texts: set[str] | None = None
    excluded: set[str] = field(default_factory=set)
    low: tuple[Decimal, bool] | None = None
    high: tuple[Decimal, bool] | None = None
    present: set[bool] = field(default_factory=set)
    patterns: list[tuple[str, bool]] = field(default_factory=list)

    def clash(self) -> bool:
        """Whether nothing can be all of this."""
        if len(self.present) > 1:
            return True
        if self.texts is not None and not any(self._may_be(t) for t in self.texts - self.excluded):
            return True
        if self.low is None or self.high is None:
            return False
        return self.low[0] > self.high[0] or (self.low[0] == self.high[0] and self.low[1] + self.high[1] < 2)

    def _may_be(self, text: str) -> bool:
        return all(bool(re.fullmatch(p, text, re.DOTALL)) is holds for p, holds in self.patterns)


def _clash(branch: list[Atom]) -> str:
    """Why these atoms cannot hold together, or an empty string."""
    facts: dict[str, _Facts] = {}
    stated: dict[str, bool] = {}
    for node, holds in branch:
        if node in ({"Value": True}, {"Value": False}):
            if node["Value"] is not holds:
                return "its condition is always false"
            continue
        key = json.dumps(node, sort_keys=True)
        if stated.setdefault(key, holds) is not holds:
            return "a condition is asked for and ruled out at once"
        path = _tell(node, holds, facts)
        if path and facts[path].clash():
            return f"what it asks of `{path}` cannot all be"
    return ""


def _tell(node: Json, holds: bool, facts: dict[str, _Facts]) -> str:
    """Add what one atom says to the facts; the path it speaks about, or an empty string."""
    if not isinstance(node, dict) or len(node) != 1:
        return ""
    ((op, body),) = node.items()
    if op == "has":
        left = path_of(body["left"])
        if left is None:
            return ""
        path = ".".join([*left, str(body["attr"])])
        facts.setdefault(path, _Facts()).present.add(holds)
        return path
    if op == "like":
        return _like(body, holds, facts)
    if op in ("==", "!=") or op in _ORDER:
        return _compared(op, body["left"], body["right"], holds, facts)
    if op in _METHODS:
        return _compared(_METHODS[op], body[0], body[1], holds, facts)
    if op == "contains" and isinstance(body["left"], dict) and "Set" in body["left"]:
        texts = [
            i["Value"] for i in body["left"]["Set"] if isinstance(i, dict) and isinstance(i.get("Value"), str)
        ]
        if len(texts) == len(body["left"]["Set"]):
            return _among(path_of(body["right"]), set(texts), holds, facts)
    return ""


def _like(body: dict[str, Json], holds: bool, facts: dict[str, _Facts]) -> str:
    path = path_of(body["left"])
    if path is None:
        return ""
    parts = cast("list[Json]", body["pattern"])
    pattern = "".join(
        ".*" if p == "Wildcard" else re.escape(cast("dict[str, str]", p)["Literal"]) for p in parts
    )
    found = facts.setdefault(".".join(path), _Facts())
    found.patterns.append((pattern, holds))
    return ".".join(path)


def _compared(op: str, left: Json, right: Json, holds: bool, facts: dict[str, _Facts]) -> str:
    path, value = path_of(left), _value(right)
    if path is None or value is None:
        path, value, op = path_of(right), _value(left), _FLIPPED.get(op, op)
    if path is None or value is None:
        return ""
    if isinstance(value, str):
        return _among(path, {value}, holds is (op == "=="), facts) if op in ("==", "!=") else ""
    if op in ("==", "!="):
        if holds is not (op == "=="):
            return ""
        bounds = [(">=", value), ("<=", value)]
    else:
        bounds = [(op if holds else _NEGATED[op], value)]
    found = facts.setdefault(".".join(path), _Facts())
    for sign, bound in bounds:
        limit = (bound, len(sign) == 2)
        if sign[0] == ">" and (
            found.low is None or (limit[0], not limit[1]) > (found.low[0], not found.low[1])
        ):
            found.low = limit
        if sign[0] == "<" and (found.high is None or (limit[0], limit[1]) < found.high):
            found.high = limit
    return ".".join(path)


def _among(path: list[str] | None, texts: set[str], holds: bool, facts: dict[str, _Facts]) -> str:
    if path is None:
        return ""
    found = facts.setdefault(".".join(path), _Facts())
    if holds:
        found.texts = texts if found.texts is None else found.texts & texts
    else:
        found.excluded |= texts
    return ".".join(path)


def _value(node: Json) -> str | Decimal | None:
    """A literal text or number; decimals as numbers."""
    if not isinstance(node, dict):
        return None
    value = node.get("Value")
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(node.get("decimal"), list):
        return Decimal(str(node["decimal"][0]["Value"]))
    return None
