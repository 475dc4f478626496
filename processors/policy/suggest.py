"""Suggest: least-privilege policies from what was observed, with the evidence as comments.

One permit for each role (or agent) and tool that was called: with the values, prefixes and bounds that were seen, and
nothing wider. Optional arguments nobody used are ruled out; calls that act want a user who spoke and arguments as well
grounded as those seen. A suggestion is a first draft for a person: it permits what happened, good or bad.
Pure and deterministic. Next: `policy/observed.py` (where calls come from), `commands/policy.py`.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from sluicegate.processors.labels import INTEGRITY, RANK
from sluicegate.processors.policy.observed import Observation
from sluicegate.processors.releases.shapes import Field, Shape

Json = object

MAX_DISTINCT = 200
"""Texts told apart of one argument; beyond, it counts as free text."""
MAX_VALUES = 8
"""Texts listed in a policy: more is no vocabulary, but data."""
MAX_HEADS = 4
"""Beginnings or mail domains listed in a policy."""
MIN_CALLS = 5
"""Calls below which single texts and flags are no habit yet."""
EXAMPLES = 3

MAX_NUMBER = Decimal(2**49)
"""Beyond, a bound says nothing; Cedar's decimal ends soon after, at 15 digits."""

_PLACES = Decimal("0.0001")
_HEAD = re.compile(r"(?:https?://[^/?#]+/|[A-Za-z]+(?:_[A-Za-z]+)*[_:/#])")


@dataclass(slots=True)
class _Seen:
    """What one argument was."""

    present: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    flags: set[bool] = field(default_factory=set)
    low: Decimal | None = None
    high: Decimal | None = None
    parts: dict[str, _Seen] = field(default_factory=dict)

    def add(self, value: Json, shape: Shape) -> None:
        """Count one value; what is not of the contract's type is left out."""
        self.present += 1
        if shape.kind == "string" and isinstance(value, str):
            if value in self.texts or len(self.texts) <= MAX_DISTINCT:
                self.texts[value] += 1
        elif shape.kind == "bool" and isinstance(value, bool):
            self.flags.add(value)
        elif shape.kind in ("long", "decimal") and isinstance(value, int | float):
            number = Decimal(str(value))
            if abs(number) > MAX_NUMBER:
                return
            self.low = number if self.low is None else min(self.low, number)
            self.high = number if self.high is None else max(self.high, number)
        elif shape.kind == "record" and isinstance(value, dict):
            for f in shape.fields:
                if value.get(f.name) is not None:
                    self.parts.setdefault(f.name, _Seen()).add(value[f.name], f.shape)


@dataclass(slots=True)
class Pattern:
    """All calls of one tool by one role or agent."""

    principal: tuple[str, str]
    tool: str
    count: int = 0
    first: int = 0
    last: int = 0
    agents: set[str] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    always_spoke: bool = True
    worst: str | None = "user"
    arguments: _Seen = field(default_factory=_Seen)

    def add(self, seen: Observation, shape: Shape) -> None:
        """Count one call."""
        self.first = seen.decided_at if not self.count else min(self.first, seen.decided_at)
        self.last = max(self.last, seen.decided_at)
        self.count += 1
        self.agents.add(seen.agent.agent_id)
        if len(self.examples) < EXAMPLES:
            self.examples.append(seen.intent_id)
        self.ended[seen.ended] += 1
        self.always_spoke = self.always_spoke and seen.user_spoke
        if self.worst is not None:
            self.worst = None if seen.worst is None else max(self.worst, seen.worst, key=RANK.__getitem__)
        self.arguments.add(seen.arguments, shape)


@dataclass(frozen=True, slots=True)
class Tool:
    """What suggestions must know of a contract."""

    shape: Shape
    acts: bool
    protected: tuple[str, ...]


class Suggester:
    """Observations in, policies out. `unknown` counts calls of tools without a contract."""

    def __init__(self, tools: Mapping[str, Tool], by: str = "role") -> None:
        self._tools, self._by = tools, by
        self._patterns: dict[tuple[tuple[str, str], str], Pattern] = {}
        self.unknown: Counter[str] = Counter()
        self._ids: set[str] = set()

    def add(self, seen: Observation) -> None:
        """Count one call."""
        tool = self._tools.get(seen.tool)
        if tool is None:
            self.unknown[seen.tool] += 1
            return
        roles = seen.agent.roles
        # Of an agent with several roles nobody can tell which one it acted in.
        who = ("role", roles[0]) if self._by == "role" and len(roles) == 1 else ("agent", seen.agent.agent_id)
        pattern = self._patterns.setdefault((who, seen.tool), Pattern(who, seen.tool))
        pattern.add(seen, tool.shape)

    def files(self, min_calls: int = 1) -> dict[str, str]:
        """`policies/<who>.cedar` -> text, one file for each role or agent."""
        found: dict[str, list[Pattern]] = {}
        for key in sorted(self._patterns):
            pattern = self._patterns[key]
            if pattern.count >= min_calls:
                found.setdefault(f"policies/{_slug(pattern.principal[1])}-observed.cedar", []).append(pattern)
        self._ids = set()
        return {path: self._file(patterns) for path, patterns in found.items()}

    def _file(self, patterns: list[Pattern]) -> str:
        kind, name = patterns[0].principal
        calls, agents = sum(p.count for p in patterns), len({a for p in patterns for a in p.agents})
        head = [
            f"// Suggested from {calls:,} calls of {agents:,} agent(s), for the {kind} {_plain(name)}. It permits what was",
            "// seen, good or bad: read it, widen what is too narrow, forbid what should not have been.",
            "",
        ]
        return "\n".join([*head, *[self._policy(p) for p in patterns]])

    def _policy(self, p: Pattern) -> str:
        kind, name = p.principal
        scope = (
            f"principal in Role::{quoted(name)}" if kind == "role" else f"principal == Agent::{quoted(name)}"
        )
        ended = ", ".join(f"{count:,} {status}" for status, count in sorted(p.ended.items()))
        lines = [
            f"// {p.count:,} calls by {len(p.agents):,} agent(s), {_day(p.first)} to {_day(p.last)}: {ended}.",
            f"// Such as {', '.join(_plain(e) for e in p.examples)}.",
            f'@id("{self._new_id(f"{_slug(name)}-{_slug(p.tool)}-observed")}")',
            f"permit ({scope}, action == Action::{quoted(p.tool)}, resource)",
        ]
        conditions = self._conditions(p)
        if conditions:
            lines.append("when {")
            lines.append(" &&\n".join(f"    {c}" for c in conditions))
            lines.append("}")
        return "\n".join(lines) + ";\n"

    def _new_id(self, wanted: str) -> str:
        """Names that differ only in their signs would make one id."""
        found, number = wanted, 1
        while found in self._ids:
            number += 1
            found = f"{wanted}-{number}"
        self._ids.add(found)
        return found

    def _conditions(self, p: Pattern) -> list[str]:
        tool = self._tools[p.tool]
        found = conditions_of(tool.shape, p.arguments, "context.args", p.count)
        if tool.acts and p.always_spoke:
            found.append("context.session.user_messages >= 1")
        if tool.protected and p.worst is not None and p.worst != INTEGRITY[-1]:
            allowed = ", ".join(quoted(label) for label in INTEGRITY[: RANK[p.worst] + 1])
            found.append(f"[{allowed}].contains(context.grounding.worst)")
        return found


def conditions_of(shape: Shape, seen: _Seen, path: str, count: int) -> list[str]:
    """What was always so of a record's fields, as conditions."""
    found = []
    for f in shape.fields:
        part = seen.parts.get(f.name)
        has = f"{path} has {f.name if f.name.isidentifier() else quoted(f.name)}"
        if part is None:
            if not f.required:
                found.append(f"!({has})")
            continue
        bounds = _bounds(f, part, path)
        if not bounds:
            continue
        together = " && ".join(bounds)
        if f.required:
            found += bounds
        elif part.present == count:
            found.append(f"{has} && {together}")
        else:
            found.append(f"(if {has} then {together} else true)")
    return found


def _bounds(f: Field, seen: _Seen, path: str) -> list[str]:
    name = f"{path}.{f.name}" if f.name.isidentifier() else f"{path}[{quoted(f.name)}]"
    if f.shape.kind == "record":
        return conditions_of(f.shape, seen, name, seen.present)
    if f.shape.kind == "bool":
        only = seen.present >= MIN_CALLS and len(seen.flags) == 1
        return [f"{name} == {'true' if True in seen.flags else 'false'}"] if only else []
    if f.shape.kind == "string":
        return _texts(name, seen)
    if seen.low is None or seen.high is None:
        return []
    if f.shape.kind == "long":
        least, most = int(seen.low), int(seen.high)
        return [f"{name} == {least}"] if least == most else [f"{name} >= {least}", f"{name} <= {most}"]
    low, high = seen.low.quantize(_PLACES, ROUND_FLOOR), seen.high.quantize(_PLACES, ROUND_CEILING)
    return [
        f"{name}.greaterThanOrEqual(decimal({quoted(_decimal(low))}))",
        f"{name}.lessThanOrEqual(decimal({quoted(_decimal(high))}))",
    ]


def _texts(name: str, seen: _Seen) -> list[str]:
    """A vocabulary, common beginnings, or common mail domains; nothing for free text."""
    texts = sorted(seen.texts)
    if not texts or len(texts) > MAX_DISTINCT or seen.present < MIN_CALLS:
        return []
    if len(texts) <= MAX_VALUES and seen.present >= 2 * len(texts):
        return [f"[{', '.join(map(quoted, texts))}].contains({name})"]
    heads = {m.group() if (m := _HEAD.match(t)) else "" for t in texts}
    if "" not in heads and len(heads) <= MAX_HEADS:
        return [_any(f'{name} like "{_escaped(h, pattern=True)}*"' for h in sorted(heads))]
    domains = {t.rpartition("@")[2] if "@" in t else "" for t in texts}
    if "" not in domains and len(domains) <= MAX_HEADS:
        return [_any(f'{name} like "*@{_escaped(d, pattern=True)}"' for d in sorted(domains))]
    return []


def _any(conditions: Iterable[str]) -> str:
    found = list(conditions)
    return found[0] if len(found) == 1 else f"({' || '.join(found)})"


def quoted(text: str) -> str:
    """A Cedar text."""
    return f'"{_escaped(text)}"'


def _escaped(text: str, *, pattern: bool = False) -> str:
    special = {"\\": "\\\\", '"': '\\"', **({"*": "\\*"} if pattern else {})}
    return "".join(special.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)


def _plain(text: str) -> str:
    """A name inside a comment: one line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:120]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "unnamed"


def _decimal(number: Decimal) -> str:
    whole, _, places = f"{number:f}".partition(".")
    return f"{whole}.{places.rstrip('0') or '0'}"


def _day(at: int) -> str:
    return datetime.datetime.fromtimestamp(at / 1_000_000, datetime.UTC).strftime("%Y-%m-%d %H:%M")
