"""The names that policies may use: tools, roles, and what stands in the context of each tool's action.

Also the paths of Cedar's EST, as lists of names. Pure; never judges a policy.
Next: `policy/cedar_schema.py` (the types behind it), `policy/check.py`, `policy/words.py` (who judge).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from sluicegate.processors.policy.cedar import Json, Policy
from sluicegate.processors.policy.cedar_schema import ToolTypes, Type, context_of, session_of


@dataclass(slots=True)
class Vocabulary:
    """The names policies may use. `roles` is empty when the release lists none: then any role may stand."""

    tools: dict[str, ToolTypes]
    roles: Sequence[str] = ()
    _session: Type = field(default_factory=dict)
    _contexts: dict[str, Type] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._session = session_of(list(self.tools.values()))
        self._contexts = {name: context_of(tool) for name, tool in self.tools.items()}

    @property
    def ways(self) -> dict[str, tuple[str, ...]]:
        """Alias -> its candidates."""
        return {name: tool.candidates for name, tool in self.tools.items() if tool.candidates}

    def names_at(self, tool: str, path: Sequence[str]) -> Mapping[str, Json] | None:
        """The attributes below a path of the context, or None when it is no record."""
        found = self._contexts[tool]
        for part in path:
            attributes = cast("dict[str, Type]", found.get("attributes", {}))
            if part not in attributes:
                return None
            found = self._session if attributes[part]["type"] == "Session" else attributes[part]
        return cast("dict[str, Json]", found["attributes"]) if found.get("type") == "Record" else None


def scope_tools(
    policy: Policy, tools: Iterable[str], ways: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """The tools that a policy's scope names, or all when it names none, in order. `ways`: alias -> its candidates, which
    are its action's resources."""
    action = cast("dict[str, Json]", policy.est["action"])
    resource = cast("dict[str, Json]", policy.est["resource"])
    named = {e["id"] for e in entities_in(action)} if action["op"] in ("==", "in") else None
    resources = {e["id"] for e in entities_in(resource)} if resource["op"] in ("==", "in") else None
    return [
        t
        for t in sorted(tools)
        if (named is None or t in named)
        and (resources is None or not resources.isdisjoint((ways or {}).get(t) or (t,)))
    ]


def entities_in(part: Mapping[str, Json]) -> list[dict[str, str]]:
    """The entities of one part of a scope."""
    found = [part["entity"]] if "entity" in part else cast("list[Json]", part.get("entities", []))
    if isinstance(inner := part.get("in"), dict):
        found = [*found, inner["entity"]]
    return cast("list[dict[str, str]]", found)


def dotted(path: Sequence[str]) -> str:
    """A path as Cedar writes it."""
    return path[0] + "".join(f".{p}" if p.isidentifier() else f"[{json.dumps(p)}]" for p in path[1:])


def path_of(node: Json) -> list[str] | None:
    """`context.args.x` as `["context", "args", "x"]`, or None for anything else."""
    if not isinstance(node, dict):
        return None
    if "Var" in node:
        return [str(node["Var"])]
    if "." in node:
        left = path_of(node["."]["left"])
        return None if left is None else [*left, str(node["."]["attr"])]
    return None
