"""The Cedar schema of a release: what policies may speak about, generated from its contracts.

    context.args         the tool's arguments, by the shape of its schema (`releases/shapes.py`)
    context.session      what the session did and saw so far      context.grounding   where protected values come from
    context.environment, .on_behalf_of?, .delegation?             principal: Agent in Role      resource: Tool
    context.prompt       of model calls: what the model is told, and in .stream how its answer would be streamed
    context.memory       of memory: scope and key
    context.task?, .own_task?                                     where the release declares a task: its fields and `goal`

One action a tool or alias of models; an alias has its candidates as resources. A part whose schema says nothing exact has the type `Untyped`: `has` may be asked of it, nothing
else. Deterministic, pure; never looks at a policy. Next: `policy/check.py` (policies against this schema).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sluicegate.processors.control.deployments import DEPLOYING
from sluicegate.processors.control.registry import ERASING, MANAGING
from sluicegate.processors.releases.shapes import UNTYPED, Shape

Json = object
Type = dict[str, Json]

STRING: Type = {"type": "String"}
LONG: Type = {"type": "Long"}
BOOLEAN: Type = {"type": "Boolean"}
DECIMAL: Type = {"type": "Extension", "name": "decimal"}
STRINGS: Type = {"type": "Set", "element": STRING}
UNTYPED_NAME = "Untyped"

HANDOFF = "handoff"
"""The action of a hand-off, which no contract may have as its name; its resource is `Tool::"handoff"`."""

SCALARS: dict[str, Type] = {
    "long": LONG,
    "decimal": DECIMAL,
    "string": STRING,
    "bool": {"type": "Boolean"},
    "untyped": {"type": "Entity", "name": UNTYPED_NAME},
}


@dataclass(frozen=True, slots=True)
class ToolTypes:
    """What the schema must know of one tool. `measures` are the numbers summed per session."""

    name: str
    tool_class: str
    arguments: Shape
    protected: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    model: bool = False
    """Whether its calls tell a model something: then there is `context.prompt`."""
    memory: bool = False
    """Whether it is a memory operation: then there is `context.memory`."""
    candidates: tuple[str, ...] = ()
    """Of an alias: the contracts that can be the resource of its action, in place of one of its own name."""
    task: Shape | None = None
    """Of the sessions it is called in, where the release declares a task (`sessions/task.py`)."""


def schema_of(tools: Iterable[ToolTypes]) -> dict[str, Json]:
    """Cedar's JSON schema for these tools."""
    ordered = sorted(tools, key=lambda t: t.name)
    actions = {
        tool.name: {
            "appliesTo": {"principalTypes": ["Agent"], "resourceTypes": ["Tool"], "context": context_of(tool)}
        }
        for tool in ordered
    }
    agent = record({"tenant": STRING, "team": STRING})
    entities: dict[str, Json] = {
        "Role": {},
        "Agent": {"memberOfTypes": ["Role"], "shape": agent},
        "Tool": {"shape": record({"class": STRING})},
        UNTYPED_NAME: {},
    }
    return {
        "": {"commonTypes": {"Session": session_of(ordered)}, "entityTypes": entities, "actions": actions}
    }


def control_schema(group: str = "") -> dict[str, Json]:
    """The schema of `control.cedar`: people change modes and, where a policy names such an event (`control/policy.py`), deploy
    (`deploying`), register people and keys (`managing`), erase subjects (`erasing`), or do what else protects (`guarding`)."""
    resources = ["Agent", "Tool", "Environment", "Policy"]
    context = record({"mode": STRING, "environment": STRING})
    applies = {"principalTypes": ["Person"], "resourceTypes": resources, "context": context}
    entities: dict[str, Json] = {
        "Role": {},
        "Person": {"memberOfTypes": ["Role"]},
        **{n: {} for n in (*resources, "Release", "Session")},
    }
    about = record({"environment": STRING, "weight_bp": LONG, "now": BOOLEAN, "attested": BOOLEAN})
    events: Json = {"principalTypes": ["Person"], "resourceTypes": ["Release"], "context": about}
    given = record({"environment": STRING, "roles": STRINGS})
    made: Json = {"principalTypes": ["Person"], "resourceTypes": ["Environment"], "context": given}
    gone = record({"environment": STRING, "subjects": LONG})
    ends: Json = {"principalTypes": ["Person"], "resourceTypes": ["Environment"], "context": gone}
    more = {
        "deploying": dict.fromkeys(DEPLOYING, events),
        "managing": dict.fromkeys(MANAGING, made),
        "erasing": dict.fromkeys(ERASING, ends),
        "guarding": _guarding(),
    }
    actions: dict[str, Json] = {
        "mode.set": {"appliesTo": applies},
        **{kind: {"appliesTo": to} for kind, to in more.get(group, {}).items()},
    }
    return {"": {"entityTypes": entities, "actions": actions}}


def _guarding() -> dict[str, Json]:
    """The events of `registry.GUARDING`: resource and context of each, as `control/policy.py` makes them."""
    bounds = ("unacknowledged", "per_day", "unacknowledged_before", "per_day_before")
    parts = dict.fromkeys(("partitions", "partitions_before"), LONG)
    about: dict[str, tuple[list[str], dict[str, Type]]] = {
        "agents.registered": (["Environment"], {"roles": STRINGS}),
        "agent.rolled_back": (["Agent"], {}),
        "quarantine.lifted": (["Agent", "Tool", "Session", "Release"], {}),
        "review.ended": (["Agent"], {}),
        "alarm.acked": (["Environment"], {"rule": STRING, "action": STRING}),
        "alarms.bounded": (["Environment"], dict.fromkeys(bounds, LONG)),
        "release.attested": (["Environment"], {}),
        "generation.begun": (["Environment"], parts),
        "generation.started": (["Environment"], parts),
    }
    return {
        kind: {
            "principalTypes": ["Person"],
            "resourceTypes": types,
            "context": record({"environment": STRING, **more}),
        }
        for kind, (types, more) in about.items()
    }


def context_of(tool: ToolTypes) -> Type:
    """The context of one tool's action."""
    place = record({"from": STRING, "label": STRING})
    about = {} if tool.task is None else dict.fromkeys(("task", "own_task"), type_of(tool.task))
    grounding = record({"worst": STRING, "args": record(dict.fromkeys(sorted(tool.protected), place))})
    return record(
        {
            "args": type_of(tool.arguments) if tool.arguments.kind == "record" else record({}),
            "environment": STRING,
            "session": {"type": "Session"},
            "grounding": grounding,
            **({"prompt": PROMPT, "stream": STRING} if tool.model else {}),
            **({"memory": MEMORY} if tool.memory else {}),
        },
        {"on_behalf_of": STRING, "delegation": record({"depth": LONG, "parent": STRING}), **about},
    )


def session_of(tools: list[ToolTypes]) -> Type:
    """The session's part of the context: the same for every tool."""
    sums = {f"{tool.name}.{path}": DECIMAL for tool in tools for path in sorted(tool.measures)}
    each = record({tool.name: LONG for tool in tools})
    return record(
        {
            "calls": LONG,
            "user_messages": LONG,
            "origin": STRING,
            "integrity": STRING,
            "confidentiality": STRING,
            "labels": STRINGS,
            "tools": STRINGS,
            "last": STRING,
            "counts": each,
            "since": each,
            "sums": record(sums),
        }
    )


def type_of(shape: Shape) -> Type:
    """The Cedar type of what `conform.compile_typer` makes of a value of this shape."""
    if shape.kind == "set":
        return {"type": "Set", "element": type_of(shape.items or UNTYPED)}
    if shape.kind == "record":
        always = {f.name: type_of(f.shape) for f in shape.fields if f.required}
        return record(always, {f.name: type_of(f.shape) for f in shape.fields if not f.required})
    return SCALARS[shape.kind]


def record(always: dict[str, Type], optional: dict[str, Type] | None = None) -> Type:
    """A closed record type."""
    attributes: dict[str, Json] = dict(always)
    attributes.update({name: {**t, "required": False} for name, t in (optional or {}).items()})
    return {"type": "Record", "attributes": attributes}


PROMPT = record({"name": STRING, "digest": STRING, "unversioned": {"type": "Boolean"}})
"""`context.prompt` of a model call: the prompt it names (both empty when none), and whether it brings system text of its own."""

MEMORY = record({"scope": STRING, "key": STRING})
"""`context.memory` of a memory operation: its scope, `session` where the call names none; its key, of a search how keys begin."""
