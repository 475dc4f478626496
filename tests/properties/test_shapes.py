"""Shapes: what the typer makes of any value that fits a schema has the type that Cedar was told."""

from __future__ import annotations

import json
from typing import Any

import cedarpy
import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.conform import NotRepresentable, compile_typer
from sluicegate.processors.policy.cedar_schema import ToolTypes, schema_of
from sluicegate.processors.releases.shapes import MAX_LEVELS, Shape, shape_of

NAMES = st.sampled_from(["a", "b", "amount", "größe", "with space", "if", "__extn", "x.y"])
TEXTS = st.sampled_from(["x", "y", "", "5000"])
DEFS = {
    "name": {"type": "string"},
    "maybe": {"type": ["integer", "null"]},
    "tree": {
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}},
    },
}


def _object(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(properties: dict[str, Any], required: bool) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": sorted(properties) if required else [],
        }

    return st.builds(build, st.dictionaries(NAMES, parts, max_size=3), st.booleans())


LEAVES = st.one_of(
    st.sampled_from(["integer", "number", "string", "boolean", "object", "array"]).map(lambda t: {"type": t}),
    st.sampled_from(["integer", "number", "string"]).map(lambda t: {"type": [t, "null"]}),
    st.just({"type": ["integer", "string"]}),
    st.lists(TEXTS, min_size=1, max_size=2, unique=True).map(lambda v: {"enum": v}),
    st.lists(st.one_of(TEXTS, st.integers(0, 3), st.none()), min_size=1, max_size=3).map(
        lambda v: {"enum": v}
    ),
    st.sampled_from(
        [{"const": "x"}, {"const": None}, {"const": 1}, {"const": 1.5}, {"const": True}, {}, True]
    ),
    st.sampled_from(["name", "maybe", "tree"]).map(lambda n: {"$ref": f"#/$defs/{n}"}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        _object(inner),
        inner.map(lambda s: {"type": "array", "items": s}),
        inner.map(lambda s: {"type": "array", "prefixItems": [{"type": "integer"}], "items": s}),
        inner.map(lambda s: {"anyOf": [s, {"type": "null"}]}),
        st.tuples(inner, inner).map(lambda s: {"oneOf": list(s)}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([1.5, 2.0, -0.25]), TEXTS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)


def fitting(draw: st.DrawFn, schema: Any, root: Any, depth: int = 0) -> Any:
    """A value that has a good chance to fit the schema."""
    if not isinstance(schema, dict) or depth > 4:
        return draw(VALUES)
    if "$ref" in schema:
        return fitting(draw, DEFS.get(schema["$ref"].removeprefix("#/$defs/")), root, depth + 1)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return fitting(draw, draw(st.sampled_from(schema[word])), root, depth + 1)
    if "enum" in schema or "const" in schema:
        return draw(st.sampled_from(schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    kind = draw(st.sampled_from(kind)) if isinstance(kind, list) else kind
    if kind == "object" and "properties" in schema:
        names = [n for n in schema["properties"] if n in schema.get("required", []) or draw(st.booleans())]
        return {n: fitting(draw, schema["properties"][n], root, depth + 1) for n in names}
    if "prefixItems" in schema:
        return [draw(st.integers(0, 3)), fitting(draw, schema["items"], root, depth + 1)]
    if kind == "array" and "items" in schema:
        return [fitting(draw, schema["items"], root, depth + 1) for _ in range(draw(st.integers(0, 2)))]
    plain = {"integer": st.integers(-3, 3), "number": st.sampled_from([1, 2.5, 3.0]), "string": TEXTS}
    return draw(plain.get(kind, VALUES))  # type: ignore[arg-type]


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = {**draw(_object(SCHEMAS)), "$defs": DEFS}
    return schema, fitting(draw, schema, schema)


def context(args: Any) -> dict[str, Any]:
    """A context as authorize passes it, with these arguments."""
    session = {
        "calls": 1, "user_messages": 1, "origin": "channel", "integrity": "user", "confidentiality": "public",
        "labels": ["user"], "tools": [], "last": "", "counts": {"pay": 0}, "since": {"pay": -1}, "sums": {},
    }  # fmt: skip
    return {
        "args": args,
        "environment": "dev",
        "session": session,
        "grounding": {"worst": "user", "args": {}},
    }


def fits(shape: Shape, args: Any) -> str:
    """Empty when Cedar takes the arguments as being of the type it was told."""
    schema = schema_of([ToolTypes("pay", "irreversible", shape)])
    request = {
        "principal": {"type": "Agent", "id": "a"}, "action": {"type": "Action", "id": "pay"},
        "resource": {"type": "Tool", "id": "pay"}, "context": json.dumps(context(args)),
    }  # fmt: skip
    answer = cedarpy.is_authorized_batch([request], "permit(principal, action, resource);", "[]", schema)[0]
    return "" if answer.allowed else str(answer.diagnostics.errors)


@given(calls())
@settings(max_examples=400)
def test_what_the_typer_makes_has_the_type_that_cedar_was_told(call: tuple[dict[str, Any], Any]) -> None:
    schema, value = call
    if not jsonschema_rs.validator_for(schema).is_valid(value):
        return
    shape = shape_of(schema)
    try:
        typed = compile_typer(shape)(value)
    except NotRepresentable:
        return
    assert fits(shape, _told(shape, typed)) == "", (schema, value, typed)


def _told(shape: Shape, value: Any) -> Any:
    """The value without its untyped parts: Cedar is told only that they may be there, and no policy can read them."""
    if shape.kind == "record":
        kept = [f for f in shape.fields if f.name in value and f.shape.kind != "untyped"]
        return {f.name: _told(f.shape, value[f.name]) for f in kept}
    if shape.kind == "set" and shape.items is not None:
        return [] if shape.items.kind == "untyped" else [_told(shape.items, item) for item in value]
    return value


def test_the_check_itself_sees_a_wrong_type() -> None:
    shape = shape_of({"properties": {"n": {"type": "integer"}}})
    assert fits(shape, {"n": 1}) == ""
    assert fits(shape, {"n": "1"}) != ""


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": DEFS, "$ref": "#/$defs/tree"},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"$defs": {str(n): {"type": "object", "properties": {k: {"$ref": f"#/$defs/{n + 1}"} for k in "abcd"}} for n in range(60)}, "$ref": "#/$defs/0"},
        True, None, 7, {"properties": 7}, {"type": "object", "properties": {"a": 7}}, {"anyOf": 7}, {"type": 7},
        {"$ref": "http://elsewhere.invalid/schema"}, {"$ref": "#/a/~0"}, {"enum": 7}, {"type": []}, {"required": 7},
    ],
)  # fmt: skip
def test_no_schema_breaks_or_hangs_the_reader(schema: Any) -> None:
    assert shape_of(schema).kind in ("record", "untyped")


def test_nesting_ends() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_LEVELS + 5):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    shape, levels = shape_of(schema), 0
    while (inner := shape.field("a")) is not None:
        shape, levels = inner.shape, levels + 1
    assert (shape.kind, levels) == ("untyped", MAX_LEVELS)
