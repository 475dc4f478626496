"""The shape of a JSON Schema: which type each part of a value gets in Cedar. Read once, used twice.

`conform.py` makes the function that types an argument from a shape, `policy/cedar_schema.py` the type that policies are
checked against. Both read the same shape, so a policy that checks cannot meet a value of another type
(tests/properties/test_shapes.py). A part whose schema says nothing exact is `untyped`: policies may ask whether it
is there, and nothing else. Pure; total: any JSON value is a schema here, the worst of them untyped.
Next: `conform.py`, `policy/cedar_schema.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

Json = object
Kind = Literal["long", "decimal", "string", "bool", "set", "record", "untyped"]

MAX_LEVELS = 64
"""Levels of nesting, as in arguments; below, a shape is untyped."""
MAX_NODES = 20_000
"""Parts of one schema. References that share parts grow by powers; the largest recorded contract has 40."""

RESERVED = "__"
"""Cedar's JSON reads `__entity` and `__extn` as escapes, so no argument whose name begins so reaches it."""

_KINDS: dict[object, Kind] = {
    "integer": "long",
    "number": "decimal",
    "string": "string",
    "boolean": "bool",
    "array": "set",
    "object": "record",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One argument of a record. It is `required` when a value that fits always has it, and never as null."""

    name: str
    shape: Shape
    required: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """One part of a schema. `values` are the texts that an `enum` or `const` allows; empty when any may come."""

    kind: Kind
    fields: tuple[Field, ...] = ()
    items: Shape | None = None
    nullable: bool = False
    values: tuple[str, ...] = ()

    def field(self, name: str) -> Field | None:
        """The field of that name."""
        return next((f for f in self.fields if f.name == name), None)


UNTYPED = Shape("untyped", nullable=True)


def shape_of(schema: Json) -> Shape:
    """The shape of a tool's arguments: a record of what the schema declares, or untyped."""
    reader = _Reader(schema)
    shape = reader.read(schema, 1, ())
    if shape.kind == "record":
        return shape
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
        return reader.record(schema, 1, ())  # arguments are an object, whether the schema says so or not
    return UNTYPED


class _Reader:
    """One reading of one schema."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._nodes = 0

    def read(self, schema: Json, level: int, above: tuple[str, ...]) -> Shape:
        """`above` are the references being followed: one that leads to itself is untyped."""
        self._nodes += 1
        if not isinstance(schema, dict) or level > MAX_LEVELS or self._nodes > MAX_NODES:
            return UNTYPED
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in above:
                return UNTYPED
            return self.read(self._target(reference), level + 1, (*above, reference))
        for word in ("anyOf", "oneOf"):
            branches = schema.get(word)
            if isinstance(branches, list):
                real = [b for b in branches if not (isinstance(b, dict) and b.get("type") == "null")]
                if len(real) != 1:
                    return UNTYPED
                shape = self.read(real[0], level + 1, above)
                return replace(shape, nullable=True) if len(real) < len(branches) else shape
        return self._plain(schema, level, above)

    def _plain(self, schema: dict[str, Json], level: int, above: tuple[str, ...]) -> Shape:
        allowed = _allowed(schema)
        nullable = False
        kind = schema.get("type")
        if isinstance(kind, list):
            real = [k for k in kind if k != "null"]
            nullable = len(real) < len(kind)
            kind = real[0] if len(real) == 1 else ""
        elif kind is None and allowed:
            kind, nullable = _type_of(allowed)
        cedar = _KINDS.get(kind) if isinstance(kind, str) else None
        if cedar == "set":
            exact = isinstance(schema.get("items"), dict) and "prefixItems" not in schema
            items = self.read(schema["items"], level + 1, above) if exact else UNTYPED
            return Shape("set", items=items, nullable=nullable)
        if cedar == "record":
            return replace(self.record(schema, level, above), nullable=nullable)
        if cedar is None:
            return UNTYPED
        texts = tuple(v for v in allowed if isinstance(v, str)) if cedar == "string" else ()
        return Shape(cedar, nullable=nullable, values=texts)

    def record(self, schema: dict[str, Json], level: int, above: tuple[str, ...]) -> Shape:
        """A record of the declared properties; without any, nothing exact is known of it."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return UNTYPED
        required = schema.get("required")
        must = set(required) if isinstance(required, list) else set()
        fields = []
        for name, part in properties.items():
            if not name.startswith(RESERVED):
                shape = self.read(part, level + 1, above)
                fields.append(Field(name, shape, name in must and not shape.nullable))
        return Shape("record", tuple(fields))

    def _target(self, reference: str) -> Json:
        """What a JSON pointer within the document leads to; None when it leads nowhere."""
        if reference == "#":
            return self._root
        if not reference.startswith("#/"):
            return None
        found: Json = self._root
        for part in reference[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
            else:
                found = cast("dict[str, Json]", found).get(name) if isinstance(found, dict) else None
        return found


def _allowed(schema: dict[str, Json]) -> list[Json]:
    values = schema.get("enum")
    if isinstance(values, list):
        return values
    return [schema["const"]] if "const" in schema else []


def _type_of(values: list[Json]) -> tuple[str, bool]:
    """The one JSON type that all of these values have, and whether null is among them."""
    real = [v for v in values if v is not None]
    nullable = len(real) < len(values)
    for python, name in ((str, "string"), (bool, "boolean"), (int, "integer")):
        if real and all(type(v) is python for v in real):
            return name, nullable
    return "", nullable
