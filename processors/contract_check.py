"""Contracts against themselves: what `x-sluicegate` names must be in the schema it speaks of.

Also finds the line of a key in a JSON or YAML text. Pure; never says whether a call fits (`conform.py` does).
Next: `release.py` (who asks), `findings.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import yaml
from sluicegate.processors.findings import Finding, nearest
from sluicegate.processors.shapes import Shape

Json = object

GOVERNANCE = "x-sluicegate"
_TEMPLATE = re.compile(r"\{([^{}]*)\}")


def line_of(text: str, path: Sequence[str]) -> int:
    """The line where a key stands, or the nearest key above it; 0 when the text cannot be read."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # JSON is YAML, but for tabs
    except yaml.YAMLError:
        return 0
    line = 0
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line


def check_contract(path: str, text: str, governance: Mapping[str, Json], arguments: Shape) -> list[Finding]:
    """What `x-sluicegate` says about arguments that the schema does not have."""
    if arguments.kind != "record":
        return []
    found = []
    for key, argument in _named(governance):
        if missing := missing_part(arguments, argument):
            part, names = missing
            said = f"`{key}` names `{argument}`, but inputSchema has no `{part}`{nearest(part, names)}"
            found.append(Finding(path, line_of(text, [GOVERNANCE, key]), "unknown-field", "error", said))
    return found


def _named(governance: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(key of `x-sluicegate`, argument path it names)."""
    for key in ("protected", "constants", "measures"):
        for name in cast("list[str]", governance.get(key) or []):
            yield key, name
    for name in _TEMPLATE.findall(str(governance.get("asset") or "")):
        yield "asset", name


def missing_part(arguments: Shape, argument: str) -> tuple[str, list[str]] | None:
    """The first part of an argument's path that the schema lacks, with the names there are; None when all is there.

    Paths are `name`, `a.b`, `a[*].b`, with or without `$.` before. Below an untyped part anything may be.
    """
    shape = arguments
    for part in argument.removeprefix("$").removeprefix(".").replace("[*]", ".[*]").split("."):
        if shape.kind == "untyped" or not part:
            return None
        if part == "[*]":
            if shape.kind != "set" or shape.items is None:
                return part, []
            shape = shape.items
            continue
        if shape.kind == "set" and shape.items is not None:  # `a.b` where `a` is a list: every item's `b`
            shape = shape.items
        field = shape.field(part)
        if field is None:
            return part, [f.name for f in shape.fields]
        shape = field.shape
    return None
