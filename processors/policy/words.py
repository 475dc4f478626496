"""A policy's words, where Cedar's validator is silent: `has` of a name that is not there, roles, labels, names of tools.

`context.args has recipent` is false to Cedar, and what stands behind it is not looked at any more; a role or a label is
any text to it. Pure; never evaluates a request. Next: `policy/check.py` (who asks), `policy/vocabulary.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

from sluicegate.processors.labels import CONFIDENTIALITY, INTEGRITY
from sluicegate.processors.policy.cedar import Json, Policy
from sluicegate.processors.policy.vocabulary import Vocabulary, dotted, entities_in, path_of, scope_tools
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.schemas.kinds import STREAM_MODES

GROUNDS = ("user", "result", "constant", "default", "absent", "nowhere")
CLASSES = ("read_only", "idempotent", "queryable", "irreversible")
ORIGINS = ("channel", "agent", "handoff")
_COMPARE = ("==", "!=", "contains", "containsAll", "containsAny")


class Words:
    """One policy's words: what `has` asks for, entities by id, and texts compared with a known vocabulary."""

    def __init__(self, policy: Policy, known: Vocabulary) -> None:
        self._policy, self._known = policy, known
        self._tools = scope_tools(policy, known.tools, known.ways)
        self._found: list[Finding] = []

    def findings(self) -> list[Finding]:
        """What is wrong with them."""
        est = self._policy.est
        for part in ("principal", "resource"):
            for entity in entities_in(cast("dict[str, Json]", est[part])):
                self._entity(entity)
        for condition in cast("list[dict[str, Json]]", est.get("conditions", [])):
            self._walk(condition["body"])
        return self._found

    def _no(self, rule: str, word: str, sentence: str, warn: bool = False) -> None:
        source = self._policy.source
        line = source.line_of(word, json.dumps(word, ensure_ascii=False)[1:-1])
        said = f"`{self._policy.policy_id}`: {sentence}"
        self._found.append(Finding(source.path, line, rule, "warning" if warn else "error", said))

    def _walk(self, node: Json) -> None:
        if isinstance(node, list):
            for item in node:
                self._walk(item)
        if not isinstance(node, dict):
            return
        for op, body in node.items():
            if op == "has":
                self._has(body)
            elif op in _COMPARE:
                self._compare(body)
            elif op == "Value" and isinstance(body, dict) and "__entity" in body:
                self._entity(body["__entity"])
            self._walk(body)

    def _entity(self, entity: Mapping[str, str]) -> None:
        kind, name = entity["type"], entity["id"]
        if kind == "Tool" and name not in self._known.tools:
            self._no("unknown-tool", name, f"no contract is named `{name}`{nearest(name, self._known.tools)}")
        if kind == "Role" and self._known.roles and name not in self._known.roles:
            said = f"release.yaml lists no role `{name}`{nearest(name, self._known.roles)}"
            self._no("unknown-role", name, said)

    def _has(self, body: Mapping[str, Json]) -> None:
        path = path_of(body["left"])
        if path is None or path[:1] != ["context"] or not self._tools:
            return
        name = str(body["attr"])
        there = [self._known.names_at(tool, path[1:]) or {} for tool in self._tools]
        if not any(name in names for names in there):
            where = f"`{self._tools[0]}`" if len(self._tools) == 1 else "any tool of its scope"
            near = nearest(name, [n for names in there for n in names])
            self._no("unknown-field", name, f"`{dotted([*path, name])}` does not exist in {where}{near}")

    def _compare(self, body: Mapping[str, Json]) -> None:
        for one, other in ((body["left"], body["right"]), (body["right"], body["left"])):
            path, words = path_of(one), _texts(other)
            if path is None or not words:
                continue
            allowed, rule = self._vocabulary(path)
            for word in words if allowed else []:
                if word not in allowed:
                    said = f"`{dotted(path)}` is never `{word}`{nearest(word, [a for a in allowed if a])}"
                    self._no(rule, word, said, warn=path[:2] == ["context", "args"])

    def _vocabulary(self, path: list[str]) -> tuple[Sequence[str], str]:
        """The texts that can stand at a path, or nothing when any may."""
        rest = path[1:]
        if path == ["resource", "class"]:
            return CLASSES, "never-matches"
        if path[0] != "context" or not rest:
            return (), ""
        if rest in (["session", "tools"], ["session", "last"]):
            return ("", *self._known.tools), "unknown-tool"
        fixed = {
            "session.integrity": INTEGRITY,
            "session.labels": INTEGRITY,
            "session.confidentiality": CONFIDENTIALITY,
            "session.origin": ORIGINS,
            "grounding.worst": INTEGRITY,
            "stream": ("", *STREAM_MODES),
        }.get(".".join(rest))
        if fixed is None and rest[:2] == ["grounding", "args"] and len(rest) == 4:
            fixed = {"label": INTEGRITY, "from": GROUNDS}.get(rest[3])
        if fixed is not None:
            return fixed, "never-matches"
        return (self._values(rest[1:]) if rest[0] == "args" else ()), "never-matches"

    def _values(self, path: Sequence[str]) -> Sequence[str]:
        """What the contracts' enums allow at a path of the arguments; nothing when any tool allows any text."""
        allowed: set[str] = set()
        for tool in self._tools:
            shape = self._known.tools[tool].arguments
            for part in path:
                inner = shape.field(part)
                if inner is None:
                    break
                shape = inner.shape
            else:
                if not shape.values:
                    return ()
                allowed.update(shape.values)
        return sorted(allowed)


def _texts(node: Json) -> list[str]:
    """The text, or the texts of a set, that an expression is."""
    if not isinstance(node, dict):
        return []
    if "Set" in node:
        return [text for item in node["Set"] for text in _texts(item)]
    return [node["Value"]] if isinstance(node.get("Value"), str) else []
