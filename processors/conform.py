"""Conform: arguments become canonical JSON, fit the tool's schema, and get Cedar's types.

It stands before authorization, because Cedar skips a policy that errors: an erring `forbid` would permit
(tests/unit/test_authorize.py). So no policy ever sees an argument of another type than its contract says.
Pure. Next: `authorize.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

import jsonschema_rs
import orjson
import rfc8785
from sluicegate.processors.releases.shapes import RESERVED, Shape

Json = object
Typer = Callable[[Json], Json]

MAX_DEPTH = 64
"""Levels of nesting in arguments; the deepest recorded call has 4."""

MAX_SAFE_INTEGER = 2**53 - 1
"""RFC 8785 (I-JSON): larger integers have no canonical form."""

_DECIMAL_LIMIT = Decimal("922337203685477.5807")
"""Cedar's decimal: 64 bits with four digits after the point."""


@dataclass(frozen=True, slots=True)
class Conformed:
    """Arguments that fit."""

    canonical: bytes
    args: dict[str, Json]
    cedar: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Misfit:
    """Arguments that do not fit: a reason code and one sentence for the developer."""

    reason: str
    detail: str


class NotRepresentable(ValueError):
    """A number Cedar or RFC 8785 cannot hold; caught in `conform`."""


def conform(validator: jsonschema_rs.Validator, typer: Typer, raw: bytes) -> Conformed | Misfit:
    """Check and type the arguments of one call. Never raises."""
    parsed = parse(raw)
    if isinstance(parsed, Misfit):
        return parsed
    args, canonical = parsed
    if not validator.is_valid(args):
        error = next(iter(validator.iter_errors(args)))
        where = ".".join(str(p) for p in error.instance_path)
        return Misfit("schema_violation", f"`{where or 'arguments'}`: {error.message[:300]}")
    try:
        cedar = typer(args)
    except NotRepresentable as error:
        return Misfit("not_representable", str(error))
    return Conformed(canonical, args, cast("dict[str, Json]", cedar))


def parse(raw: bytes) -> tuple[dict[str, Json], bytes] | Misfit:
    """A JSON object and its canonical bytes (RFC 8785)."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
            return Misfit("arguments_too_deep", f"arguments are nested deeper than {MAX_DEPTH} levels")
        return Misfit("arguments_not_json", f"arguments are not JSON: {error.msg[:100]}")
    if type(value) is not dict:
        return Misfit("arguments_not_json", f"arguments must be a JSON object, got {type(value).__name__}")
    plain = _scan(value, 1)
    if plain < 0:
        return Misfit("arguments_too_deep", f"arguments are nested deeper than {MAX_DEPTH} levels")
    if plain == 0:
        # Without floats and with ASCII keys, sorted compact JSON is the canonical form, and it is 40 times faster.
        canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    else:
        try:
            canonical = rfc8785.dumps(cast(dict[str, rfc8785._impl._Value], value))
        except rfc8785.CanonicalizationError as error:
            return Misfit("not_representable", str(error)[:200])
    if canonical != raw and _has_duplicate_key(raw):
        return Misfit("duplicate_key", "arguments name a key twice")
    return cast("dict[str, Json]", value), canonical


def _scan(value: Json, depth: int) -> int:
    """0: sorted compact JSON is canonical; 1: needs the full RFC 8785 writer; -1: too deep."""
    needs = 0
    if depth > MAX_DEPTH and isinstance(value, dict | list):
        return -1
    if type(value) is dict:
        for key, item in value.items():
            if not key.isascii():
                needs = 1
            kind = type(item)
            if kind is str or kind is bool or item is None:
                continue
            found = _scan(item, depth + 1)
            if found < 0:
                return -1
            needs |= found
        return needs
    if type(value) is list:
        for item in value:
            found = _scan(item, depth + 1)
            if found < 0:
                return -1
            needs |= found
        return needs
    if type(value) is float:
        return 1
    if type(value) is int:
        return int(not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER)
    return 0


def _has_duplicate_key(raw: bytes) -> bool:
    found = False

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal found
        result = dict(items)
        found = found or len(result) != len(items)
        return result

    json.loads(raw, object_pairs_hook=pairs)
    return found


def cedar_decimal(value: Json) -> Json:
    """A JSON number as Cedar's decimal. Raises `NotRepresentable`."""
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(cast(int, value))
    exponent = cast(int, number.normalize().as_tuple().exponent)
    if exponent < -4 or abs(number) > _DECIMAL_LIMIT:
        raise NotRepresentable(f"`{value}` has more than 4 decimals or more than 15 digits")
    text = f"{number:f}"
    return {"__extn": {"fn": "decimal", "arg": text if "." in text else text + ".0"}}


def _long(value: Json) -> Json:
    number = int(cast(float, value))  # JSON Schema's integer accepts 5.0
    # Beyond this a policy and the tool could read the same text as two numbers.
    if not -MAX_SAFE_INTEGER <= number <= MAX_SAFE_INTEGER:
        raise NotRepresentable(f"`{value}` is beyond 2^53 - 1")
    return number


def _same(value: Json) -> Json:
    return value


def by_value(value: Json) -> Json:
    """Cedar's form of a value whose schema says nothing exact about it."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return _long(value)
    if isinstance(value, float):
        return cedar_decimal(value)
    if isinstance(value, list):
        return [by_value(v) for v in value if v is not None]
    if isinstance(value, dict):
        return {k: by_value(v) for k, v in value.items() if v is not None and not k.startswith(RESERVED)}
    return value


def compile_typer(shape: Shape) -> Typer:
    """A function from a JSON value that fits the shape's schema to Cedar's JSON form.

    Null and undeclared fields vanish.
    """
    # INVARIANT: what comes out has the type `policy/cedar_schema.py` told Cedar (tests/properties/test_shapes.py).
    if shape.kind == "long":
        return _long
    if shape.kind == "decimal":
        return cedar_decimal
    if shape.kind in ("string", "bool"):
        return _same
    if shape.kind == "set" and shape.items is not None:
        one = compile_typer(shape.items)
        return lambda value: [one(v) for v in cast("list[Json]", value) if v is not None]
    if shape.kind == "record":
        typers = {f.name: compile_typer(f.shape) for f in shape.fields}
        return lambda value: {
            k: t(v)
            for k, v in cast("dict[str, Json]", value).items()
            if v is not None and (t := typers.get(k))
        }
    return by_value
