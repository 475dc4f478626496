"""Two versions of a contract, in words: class, endpoint, schema, cache, and everything else it says.

    `amount` became required        `currency` is new, optional        `to` may have 34 characters, was 64

Pure; never says whether a change is good. Next: `releases/diff.py` (who asks).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import cast

from sluicegate.processors.releases.release import CompiledTool

Json = object
Row = tuple[str, str]
"""(part, sentence): part is `tool`, `schema`, `endpoint`, `class` or `cache`."""

_APART = ("class", "executor", "cache", "version")
MAX_DEPTH = 16
"""Nested schemas that are told apart; deeper they differ as a whole."""
_BOUNDS = {
    "minimum": "must be at least", "maximum": "must be at most", "exclusiveMinimum": "must be above",
    "exclusiveMaximum": "must be below", "minLength": "must have at least so many characters:",
    "maxLength": "must have at most so many characters:", "minItems": "must have at least so many items:",
    "maxItems": "must have at most so many items:", "pattern": "must fit the pattern", "format": "has the format",
    "multipleOf": "must be a multiple of", "const": "must be", "default": "is without a word",
}  # fmt: skip


def shown(value: Json) -> str:
    """A value in a sentence."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    )
    return f"`{text if len(text) <= 120 else text[:117] + '...'}`"


def values(old: Json, new: Json, at: str) -> Iterator[str]:
    """Every difference of two values, at its path: `a.b` was 1, is 2."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=str):
            path = f"{at}.{key}" if at else str(key)
            if key not in new:
                yield f"`{path}` is gone, was {shown(old[key])}"
            elif key not in old:
                yield f"`{path}` is new: {shown(new[key])}"
            else:
                yield from values(old[key], new[key], path)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from values(one, other, f"{at}[{index}]")
    elif old != new:
        yield f"`{at}` was {shown(old)}, is {shown(new)}"


def contract_rows(old: CompiledTool, new: CompiledTool) -> list[Row]:
    """What changed in a contract."""
    one, other = old.contract, new.contract
    rows: list[Row] = []
    if old.tool_class != new.tool_class:
        rows.append(("class", f"its class was `{old.tool_class}`, is `{new.tool_class}`"))
    if old.version != new.version:
        rows.append(("tool", f"its version was {shown(old.version)}, is {shown(new.version)}"))
    rows += [("endpoint", s) for s in values(one.governance.executor.model_dump(), other.governance.executor.model_dump(), "executor")]  # fmt: skip
    rows += [("schema", s) for s in schema(one.input_schema, other.input_schema, "argument")]
    rows += [("schema", s) for s in _results(one.output_schema, other.output_schema)]
    rows += [("cache", s) for s in _cache(old, new)]
    before, after = (c.governance.model_dump(by_alias=True) for c in (one, other))
    for key in sorted(before.keys() - set(_APART)):
        rows += [("tool", s) for s in values(before[key], after[key], key)]
    if one.description != other.description:
        rows.append(("tool", f"its description was {shown(one.description)}, is {shown(other.description)}"))
    return rows


def _cache(old: CompiledTool, new: CompiledTool) -> Iterator[str]:
    if old.cache == new.cache:
        return
    before, after = (
        "calls it anew each time"
        if c is None
        else f"answers the same call for {c.ttl_s} s within `{c.scope}`"
        for c in (old.cache, new.cache)
    )
    yield f"the cache {after}, before it {before}"


def _results(old: Mapping[str, Json] | None, new: Mapping[str, Json] | None) -> Iterator[str]:
    if (old is None) != (new is None):
        yield (
            "results are checked against a schema now" if old is None else "results are not checked any more"
        )
    elif old is not None and new is not None:
        yield from schema(old, new, "field of the result")


def schema(
    old: Mapping[str, Json], new: Mapping[str, Json], what: str, at: str = "", depth: int = 0
) -> Iterator[str]:
    """What two JSON Schemas of an object say otherwise."""
    before, after = (cast("dict[str, dict[str, Json]]", s.get("properties") or {}) for s in (old, new))
    had, has = (set(cast("list[str]", s.get("required") or [])) for s in (old, new))
    for name in sorted(before.keys() | after.keys()):
        path = f"{at}.{name}" if at else name
        if name not in before:
            yield f"{what} `{path}` is new, {'required' if name in has else 'optional'}"
        elif name not in after:
            yield f"{what} `{path}` is gone"
        else:
            if (name in had) != (name in has):
                yield f"{what} `{path}` became {'required' if name in has else 'optional'}"
            yield from _value(before[name], after[name], what, path, depth)
    yield from _rest(old, new, what, at, ("properties", "required"))


def _value(old: Json, new: Json, what: str, at: str, depth: int) -> Iterator[str]:
    """One property, or the items of a list."""
    if not isinstance(old, dict) or not isinstance(new, dict) or depth >= MAX_DEPTH:
        if old != new:
            yield f"{what} `{at}` was {shown(old)}, is {shown(new)}"
        return
    if old.get("type") != new.get("type"):
        yield f"{what} `{at}` was of type {shown(old.get('type', 'any'))}, is {shown(new.get('type', 'any'))}"
    yield from _choices(old.get("enum"), new.get("enum"), what, at)
    for key, words in _BOUNDS.items():
        if old.get(key) != new.get(key):
            now = f"{words} {shown(new[key])}" if key in new else f"is free of `{key}`"
            yield f"{what} `{at}` {now}, was {shown(old[key]) if key in old else 'free'}"
    if "properties" in old or "properties" in new:
        yield from schema(old, new, what, at, depth + 1)
    else:
        yield from _rest(old, new, what, at)
    if "items" in old and "items" in new:
        yield from _value(old["items"], new["items"], what, f"{at}[]", depth + 1)


def _choices(old: Json, new: Json, what: str, at: str) -> Iterator[str]:
    if old == new:
        return
    before, after = (value if isinstance(value, list) else [] for value in (old, new))
    if gone := [v for v in before if v not in after]:
        yield (
            f"{what} `{at}` may not be {', '.join(map(shown, gone))} any more"
            if after
            else f"{what} `{at}` may be anything"
        )
    if more := [v for v in after if v not in before]:
        yield (
            f"{what} `{at}` may be {', '.join(map(shown, more))} too"
            if before
            else f"{what} `{at}` may only be {', '.join(map(shown, more))}"
        )


def _rest(
    old: Mapping[str, Json], new: Mapping[str, Json], what: str, at: str, seen: tuple[str, ...] = ()
) -> Iterator[str]:
    """Keywords that nothing above has words for."""
    known = {*seen, *_BOUNDS, "enum", "properties", "required"} | ({"type"} if at else set())
    if "items" in old and "items" in new:
        known.add("items")
    where = f"{what} `{at}`" if at else f"the schema of every {what}"
    for key in sorted((old.keys() | new.keys()) - known):
        if old.get(key) != new.get(key):
            yield f"{where}: `{key}` was {shown(old.get(key))}, is {shown(new.get(key))}"
