"""Policies against the contracts: what a policy reads must be there, of the type it takes it for.

Cedar's own strict validator is the authority on types; its answers are said again with file, line and the nearest
real name. Cedar stays silent where a condition can never hold (`context.args has recipent`), and about words that
are plain text to it (roles, labels, names of tools), so those are looked at here.
Pure; never evaluates a request. Next: `cedar_schema.py`, `release_check.py` (what a whole release is checked for).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import cedarpy
from sluicegate.processors.cedar import Json, Policy
from sluicegate.processors.cedar_schema import (
    UNTYPED_NAME,
    ToolTypes,
    Type,
    context_of,
    schema_of,
    session_of,
)
from sluicegate.processors.findings import Finding, nearest

INTEGRITY = ("user", "internal", "third_party", "web", "unknown")
CONFIDENTIALITY = ("public", "internal", "secret")
GROUNDS = ("user", "result", "constant", "default", "absent", "nowhere")
CLASSES = ("read_only", "idempotent", "queryable", "irreversible")
ORIGINS = ("channel", "agent", "handoff")

_COMPARE = ("==", "!=", "contains", "containsAll", "containsAny")
_CONTEXT = re.compile(r'attribute `(?P<path>.+)` in context for Action::"(?P<tool>.+?)"')
_ENTITY = re.compile(r"attribute `(?P<attr>.+?)` on entity type `(?P<type>\w+)`")
_ACTION = re.compile(r'unrecognized action `Action::"(?P<tool>.+?)"`')
_PART = re.compile(r'\["((?:\\.|[^"\\])*)"\]|([^.\[\]]+)')


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

    def names_at(self, tool: str, path: Sequence[str]) -> Mapping[str, Json] | None:
        """The attributes below a path of the context, or None when it is no record."""
        found = self._contexts[tool]
        for part in path:
            attributes = cast("dict[str, Type]", found.get("attributes", {}))
            if part not in attributes:
                return None
            found = self._session if attributes[part]["type"] == "Session" else attributes[part]
        return cast("dict[str, Json]", found["attributes"]) if found.get("type") == "Record" else None


def check_policies(
    policies: Sequence[Policy], tools: Iterable[ToolTypes], roles: Sequence[str] = ()
) -> list[Finding]:
    """Everything that makes a policy mean something else than its author thinks, in order of file and line."""
    known = Vocabulary({t.name: t for t in tools}, roles)
    findings = [*_from_cedar(policies, known)]
    for policy in policies:
        findings += _Words(policy, known).findings()
    return sorted(set(findings))


def scope_tools(policy: Policy, tools: Iterable[str]) -> list[str]:
    """The tools that a policy's scope names, or all when it names none, in order."""
    action = cast("dict[str, Json]", policy.est["action"])
    resource = cast("dict[str, Json]", policy.est["resource"])
    named = {e["id"] for e in _entities(action)} if action["op"] in ("==", "in") else None
    resources = {e["id"] for e in _entities(resource)} if resource["op"] in ("==", "in") else None
    return [
        t for t in sorted(tools) if (named is None or t in named) and (resources is None or t in resources)
    ]


def _entities(part: Mapping[str, Json]) -> list[dict[str, str]]:
    """The entities of one part of a scope."""
    found = [part["entity"]] if "entity" in part else cast("list[Json]", part.get("entities", []))
    if isinstance(inner := part.get("in"), dict):
        found = [*found, inner["entity"]]
    return cast("list[dict[str, str]]", found)


# -- what Cedar's validator says -----------------------------------------------------------------------------------


def _from_cedar(policies: Sequence[Policy], known: Vocabulary) -> Iterator[Finding]:
    schema = cedarpy.Schema.from_json_str(json.dumps(schema_of(known.tools.values())))
    answer = cedarpy.validate_policies("\n".join(p.source.text for p in policies), schema)
    told: set[str] = set()
    for error in answer.errors:
        index = error.policy_id.removeprefix("policy")
        if not index.isdecimal():  # nothing can be told apart any more: it is refused as a whole
            yield Finding(policies[0].source.path if policies else "", 0, "type", "error", error.error)
            continue
        policy = policies[int(index)]
        text = error.error.removeprefix(f"for policy `{error.policy_id}`, ")
        if "unable to find an applicable action" in text and policy.policy_id in told:
            continue  # follows from the one before
        told.add(policy.policy_id)
        yield _say(policy, text, known)


def _say(policy: Policy, text: str, known: Vocabulary) -> Finding:
    """One of Cedar's messages, with its place and what to do."""
    source = policy.source

    def no(rule: str, line: int, sentence: str) -> Finding:
        return Finding(source.path, line, rule, "error", f"`{policy.policy_id}`: {sentence}")

    if match := _CONTEXT.search(text):
        path = [
            json.loads(f'"{quoted}"') if quoted else plain for quoted, plain in _PART.findall(match["path"])
        ]
        shown, line = dotted(["context", *path]), source.line_of(path[-1])
        if "optional attribute" in text:
            guard = f"{dotted(['context', *path[:-1]])} has {_name(path[-1])}"
            return no(
                "optional-field",
                line,
                f"`{shown}` may be absent in `{match['tool']}`, write `{guard} && ...`",
            )
        return no("unknown-field", line, _unknown(path, match["tool"], policy, known))
    if match := _ENTITY.search(text):
        name = match["attr"]
        if match["type"] == UNTYPED_NAME:
            said = f"the contract says nothing exact about what `{name}` belongs to, give it a type in inputSchema"
            return no("untyped-field", source.line_of(name), said)
        there = {"Agent": ("tenant", "team"), "Tool": ("class",)}.get(match["type"], ())
        return no(
            "unknown-field", source.line_of(name), f"`{match['type']}` has no `{name}`{nearest(name, there)}"
        )
    if match := _ACTION.search(text):
        name = json.loads(f'"{match["tool"]}"')
        said = f"no contract is named `{name}`{nearest(name, known.tools)}"
        return no("unknown-tool", source.line_of(name, match["tool"]), said)
    if "unable to find an applicable action" in text:
        return no("never-matches", source.line, "no tool fits its scope, so no call can ever meet it")
    hint = ""
    if UNTYPED_NAME in text:
        hint = ", the contract says nothing exact about one of them: give it a type in inputSchema"
    elif "decimal" in text:
        hint = ', compare a `number` with `.lessThanOrEqual(decimal("100.0"))` and the like'
    return no("untyped-field" if UNTYPED_NAME in text else "type", source.line, text + hint)


def _unknown(path: list[str], tool: str, policy: Policy, known: Vocabulary) -> str:
    names = known.names_at(tool, path[:-1])
    sentence = f"`{dotted(['context', *path])}` does not exist in `{tool}`"
    others = [t for t in scope_tools(policy, known.tools) if path[-1] in (known.names_at(t, path[:-1]) or {})]
    if others:
        return f"{sentence}, only in `{others[0]}` and the like: give those a policy of their own"
    return sentence + nearest(path[-1], names or ())


def dotted(path: Sequence[str]) -> str:
    """A path as Cedar writes it."""
    return path[0] + "".join(f".{p}" if p.isidentifier() else f"[{json.dumps(p)}]" for p in path[1:])


def _name(part: str) -> str:
    return part if part.isidentifier() else json.dumps(part)


# -- what Cedar does not look at -----------------------------------------------------------------------------------


class _Words:
    """One policy's words: what `has` asks for, entities by id, and texts compared with a known vocabulary."""

    def __init__(self, policy: Policy, known: Vocabulary) -> None:
        self._policy, self._known = policy, known
        self._tools = scope_tools(policy, known.tools)
        self._found: list[Finding] = []

    def findings(self) -> list[Finding]:
        """What is wrong with them."""
        est = self._policy.est
        for part in ("principal", "resource"):
            for entity in _entities(cast("dict[str, Json]", est[part])):
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


def _texts(node: Json) -> list[str]:
    """The text, or the texts of a set, that an expression is."""
    if not isinstance(node, dict):
        return []
    if "Set" in node:
        return [text for item in node["Set"] for text in _texts(item)]
    return [node["Value"]] if isinstance(node.get("Value"), str) else []
