"""Recipes: what is taken out of a call or a result, as texts that follow from the release.

    $.subject            a text becomes `[redacted]`, anything else is removed
    $.rows[*].iban       the same in every row
    $.amount#remove      removed, because the schema takes no text there
    $.body#card,iban     what these detectors find in it, at any depth

A recipe never holds a value, so it may stand in facts, and it gives the same bytes again on a second offer, after an
approval and in a repeated reply. A path that does not exist, or whose redaction could never fit the schema, is refused
when the release is compiled. Never changes its input. Next: `guardrails/redact.py` (who applies them to calls and results).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import jsonschema_rs
from sluicegate.processors.conform import Json
from sluicegate.processors.guardrails.detectors import MARK, MIN_NUMBER, detects, scrub
from sluicegate.processors.policy.cedar import Policy
from sluicegate.schemas.errors import Terminal

ANNOTATION = "redact"
"""`@redact("args.subject")` on a permit: it permits the call without these parts. Several are separated by spaces."""

MAX_RECIPES = 32
"""Redactions of one tool, or of one policy; each costs a walk over the value."""

MAX_REFERENCES = 16
"""`$ref`s and single branches followed from one schema to the next."""

_REMOVE = "remove"
_STEP = re.compile(r"\.([A-Za-z0-9_\-]+)|(\[\*\])")


class NoSuchPath(Terminal):
    """The schema names its properties, and this is none of them."""


def redact(value: Json, recipes: Sequence[str]) -> Json:
    """A JSON value without what the recipes name. The same value again where nothing fits."""
    for recipe in recipes:
        path, _, how = recipe.partition("#")
        value = _taken(value, steps_of(path), how)
    return value


class _Gone:
    """Stands for a part that is to be removed from its parent."""


_GONE = _Gone()


def _taken(value: Json, steps: Sequence[str], how: str) -> Json:
    found = _walk(value, steps, 0, how)
    return MARK if isinstance(found, _Gone) else found


def _walk(value: Json, steps: Sequence[str], at: int, how: str) -> Json | _Gone:
    if at == len(steps):
        if value is None:
            return value  # it says nothing, and the schema may ask for it
        if how and how != _REMOVE:
            return _scrubbed(value, tuple(how.split(",")))
        return MARK if isinstance(value, str) and how != _REMOVE else _GONE
    step = steps[at]
    if step == "[*]":
        if not isinstance(value, list):
            return value
        items = [_walk(item, steps, at + 1, how) for item in value]
        return [item for item in items if not isinstance(item, _Gone)]
    if not isinstance(value, dict) or step not in value:
        return value
    part = _walk(value[step], steps, at + 1, how)
    if isinstance(part, _Gone):
        return {k: v for k, v in value.items() if k != step}
    return {**value, step: part}


def _scrubbed(value: Json, kinds: tuple[str, ...]) -> Json | _Gone:
    """A value without what detectors find in it. Names of fields are looked at too; a number is removed."""
    if isinstance(value, str):
        return scrub(kinds, value)
    if isinstance(value, list):
        items = [_scrubbed(item, kinds) for item in value]
        return [item for item in items if not isinstance(item, _Gone)]
    if isinstance(value, dict):
        fields = {scrub(kinds, name): _scrubbed(item, kinds) for name, item in value.items()}
        return {name: item for name, item in fields.items() if not isinstance(item, _Gone)}
    if type(value) is int and value >= MIN_NUMBER and any(detects(kind, value) for kind in kinds):
        return _GONE
    return value


def parts(value: Json, steps: Sequence[str]) -> Iterator[Json]:
    """What stands at a path: nothing, one part, or one of each row."""
    if not steps:
        yield value
    elif steps[0] == "[*]":
        for item in value if isinstance(value, list) else ():
            yield from parts(item, steps[1:])
    elif isinstance(value, dict) and steps[0] in value:
        yield from parts(value[steps[0]], steps[1:])


def steps_of(path: str) -> list[str]:
    """`$.a[*].b`, `args.a[*].b` or `a[*].b` -> ["a", "[*]", "b"]. Raises `Terminal` for anything else."""
    rest = _rest(path)
    steps = [m[1] or "[*]" for m in _STEP.finditer(rest)]
    if "".join(s if s == "[*]" else f".{s}" for s in steps) != rest:
        raise Terminal(f"path `{path}` is not of the form `$.name[*].name`")
    return steps


def _rest(path: str) -> str:
    if path.startswith("$"):
        return path[1:]
    if path.startswith("args."):
        return path[4:]
    return path if path.startswith("[") else f".{path}"


def compile_recipes(schema: dict[str, Json], paths: Sequence[str], where: str) -> tuple[str, ...]:
    """Paths as recipes for values of `schema`. Raises `Terminal`, with `where`, for a path that does not exist in it
    and for a redaction that could never fit it."""
    if len(paths) > MAX_RECIPES:
        raise Terminal(f"{where} redacts {len(paths)} paths, at most {MAX_RECIPES} are taken")
    return tuple(sorted({_recipe(schema, path, where) for path in paths}))


def _recipe(schema: dict[str, Json], path: str, where: str) -> str:
    plain, leaf, removable = look_up(schema, path, where)
    if plain == "$":
        raise Terminal(f"{where} redacts everything, withhold or forbid it instead")
    if leaf is None or _takes_text(leaf, schema):
        return plain
    if not removable:
        raise Terminal(
            f"{where} redacts `{plain}`, which is required and takes no text: make it optional, or forbid the call"
        )
    return f"{plain}#{_REMOVE}"


def look_up(schema: dict[str, Json], path: str, where: str) -> tuple[str, dict[str, Json] | None, bool]:
    """(the path in full, its schema or None where nothing is said of it, whether it may be missing).

    Raises `Terminal` for a path that is none, `NoSuchPath` for one that the schema rules out.
    """
    try:
        steps = steps_of(path)
    except Terminal as error:
        raise Terminal(f"{where}: {error}") from error
    plain = "$" + "".join(s if s == "[*]" else f".{s}" for s in steps)
    node: dict[str, Json] | None = schema
    removable = True
    for step in steps:
        node, removable = _child(resolve(node, schema), step, plain, where)
    return plain, resolve(node, schema), removable


def resolve(node: dict[str, Json] | None, root: dict[str, Json]) -> dict[str, Json] | None:
    """A schema with its `$ref` followed and `anyOf [T, null]` read as T; None where it says nothing exact."""
    for _ in range(MAX_REFERENCES):  # a loop says nothing
        if node is None:
            return None
        reference = node.get("$ref")
        branches = node.get("anyOf") or node.get("oneOf")
        if isinstance(reference, str) and reference.startswith("#/"):
            target: Json = root
            for part in reference[2:].split("/"):
                target = target.get(part) if isinstance(target, dict) else None
            node = cast("dict[str, Json]", target) if isinstance(target, dict) else None
        elif isinstance(branches, list):
            real = [b for b in branches if isinstance(b, dict) and b.get("type") != "null"]
            node = real[0] if len(real) == 1 else None
        else:
            return node
    return None


def _child(
    node: dict[str, Json] | None, step: str, plain: str, where: str
) -> tuple[dict[str, Json] | None, bool]:
    """(the schema one step down or None, whether that part may be missing)."""
    if node is None:
        return None, True
    if step == "[*]":
        items = node.get("items")
        return (items, True) if isinstance(items, dict) else (None, True)
    properties = node.get("properties")
    child = properties.get(step) if isinstance(properties, dict) else None
    if isinstance(child, dict):
        required = node.get("required")
        return child, not (isinstance(required, list) and step in required)
    if isinstance(properties, dict) and node.get("additionalProperties") is False:
        raise NoSuchPath(
            f"{where} names `{plain}`, but `{step}` is not one of {', '.join(sorted(properties))}"
        )
    return None, True


def _takes_text(leaf: dict[str, Json], root: dict[str, Json]) -> bool:
    words: dict[str, Json] = {k: root[k] for k in ("$defs", "definitions") if k in root}
    try:
        return jsonschema_rs.validator_for({**words, **leaf}).is_valid(MARK)
    except (ValueError, jsonschema_rs.ValidationError):
        return True  # judged at each call


def policy_recipes(
    policies: Iterable[Policy], schemas: dict[str, dict[str, Json]]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """(policy, tool) -> recipes of the policy's `@redact`. `schemas`: tool -> schema of its arguments.

    A policy for several tools needs each path in one of them at least. Raises `Terminal` with the policy's id.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for policy in policies:
        if ANNOTATION not in policy.annotations:
            continue
        where = f"policy `{policy.policy_id}`"
        if policy.effect != "permit":
            raise Terminal(
                f"{where} has @{ANNOTATION} but is no permit, only a permit can change what it permits"
            )
        paths = (policy.annotations[ANNOTATION] or "").replace(",", " ").split()
        tools = [name for name in sorted(schemas) if acts_on(policy, name)]
        for path in paths:
            missing: list[NoSuchPath] = []
            for tool in tools:
                try:
                    one = compile_recipes(schemas[tool], [path], where)
                except NoSuchPath as error:
                    missing.append(error)
                    continue
                found[policy.policy_id, tool] = tuple(
                    sorted({*found.get((policy.policy_id, tool), ()), *one})
                )
            if missing and len(missing) == len(tools):
                raise missing[0]
    return found


def acts_on(policy: Policy, tool: str) -> bool:
    """Whether a policy's action can be this tool."""
    action = policy.est["action"]
    assert isinstance(action, dict)
    if action["op"] == "All":
        return True
    entities = action.get("entities") or [action.get("entity")]
    return tool in [cast("dict[str, str]", e)["id"] for e in cast("list[Json]", entities)]
