"""What the example's chart uses of Helm's templates, rendered: values, `quote`, `range` over a list or a map, `if eq`.

Anything else in a template is an error, so the chart stays as small as this. What it renders is held against what `helm template` made
(tests/golden/chart.yaml); where `helm` is in the path, the test asks it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

TAG = re.compile(r"(\s*)\{\{(-?) (.*?) \}\}")
RANGE = re.compile(r"range (?:(\$\w+), )?(\$\w+) := (\S+)")
IF_EQ = re.compile(r'if eq (\S+) "(\w+)"')

Node = tuple[str, Any]


def render(chart: Path, values: Mapping[str, Any], release: str, namespace: str) -> list[dict[str, Any]]:
    """The chart's documents."""
    found = []
    for template in sorted((chart / "templates").glob("*.yaml")):
        root = {"$": {"Values": values, "Release": {"Name": release, "Namespace": namespace}}}
        text = "".join(_filled(_tree(iter(_pieces(template.read_text("utf-8"))))[0], root))
        found += [document for document in yaml.safe_load_all(text) if document]
    return found


def _pieces(text: str) -> Iterator[Node]:
    at = 0
    for tag in TAG.finditer(text):
        yield "text", text[at : tag.start()] + ("" if tag[2] else tag[1])
        yield "tag", tag[3]
        at = tag.end()
    yield "text", text[at:]


def _tree(pieces: Iterator[Node]) -> tuple[list[Node], bool]:
    nodes: list[Node] = []
    for kind, body in pieces:
        if kind == "tag" and body == "end":
            return nodes, True
        if kind == "tag" and body.startswith(("range ", "if ")):
            inner, closed = _tree(pieces)
            assert closed, f"`{body}` has no end"
            nodes.append((body, inner))
        else:
            nodes.append((kind, body))
    return nodes, False


def _filled(nodes: list[Node], scope: Mapping[str, Any]) -> Iterator[str]:
    for kind, body in nodes:
        if kind == "text":
            yield body
        elif kind == "tag":
            name, _, filtered = body.partition(" | ")
            value = _look(name, scope)
            assert filtered in ("", "quote"), body
            yield json.dumps(str(value)) if filtered else str(value)
        elif looped := RANGE.fullmatch(kind):
            over = _look(looped[3], scope)
            pairs = sorted(over.items()) if isinstance(over, Mapping) else enumerate(over)
            for key, value in pairs:
                yield from _filled(
                    body, {**scope, **({looped[1]: key} if looped[1] else {}), looped[2]: value}
                )
        else:
            asked = IF_EQ.fullmatch(kind)
            assert asked, kind
            if _look(asked[1], scope) == asked[2]:
                yield from _filled(body, scope)


def _look(name: str, scope: Mapping[str, Any]) -> Any:
    head, *path = name.split(".")
    value = scope[head or "$"]
    for step in path:
        value = value[step]
    return value
