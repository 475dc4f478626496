"""What an executor object of the kind `http` cannot mean, found when the release is checked and not when a call is made.

Only what is wrong whatever the environment says: `${NAME}` is looked up where executors run, addresses are asked of their
egress list. Pure; never makes an address or a body. Next: `releases/contract_check.py` (who asks), `executors/http_template.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from sluicegate.processors.releases.findings import nearest

Json = object

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
BODIES = ("POST", "PUT", "PATCH")
ENCODINGS = ("json", "form")

KEYS = (
    "kind", "method", "url", "headers", "body", "encoding", "result", "retries", "job", "lookup", "completion",
    "max_result_bytes",
)  # fmt: skip
"""What is read of such an object; further keys are somebody's own, unless they look like one of these."""

_OPEN = ("patternProperties", "$ref", "allOf", "anyOf", "oneOf")
"""With one of these, more arguments may be meant than `properties` names."""
_ARGUMENT = re.compile(r"(?<!\$)\{([^{}]+)\}")


def http_faults(executor: Mapping[str, Json], schema: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(key, sentence). `schema`: of the call's arguments."""
    for key in executor:
        near = [] if key in KEYS else difflib.get_close_matches(key, KEYS, 1, 0.8)
        if near:
            yield key, f"nothing reads `{key[:60]}`, did you mean `{near[0]}`?"
    method = str(executor.get("method", "POST")).upper()
    if method not in METHODS:
        yield "method", f"`method` is one of {', '.join(METHODS)}, not `{method[:20]}`"
    elif method not in BODIES:
        for key in ("body", "encoding"):
            if key in executor:
                yield key, f"`{method}` carries no body, leave `{key}` out"
    if executor.get("encoding", "json") not in ENCODINGS:
        yield "encoding", f"`encoding` is one of {', '.join(ENCODINGS)}"
    elif executor.get("encoding") == "form" and not isinstance(executor.get("body", {}), dict):
        yield "body", "a form's `body` is an object of its fields"
    if any("${" in text for text in _texts(executor.get("body"))):
        yield "body", "`body` holds `${`: names and secrets stand in the url and in headers only"
    result = executor.get("result")
    if result is not None and not (isinstance(result, str) and result[:1] in ("", "/")):
        yield "result", "`result` is no JSON pointer, write for example `/data/0`"
    properties = schema.get("properties")
    if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
        return
    if any(key in schema for key in _OPEN):
        return
    known = [str(name) for name in properties]
    for key in ("url", "body"):
        texts = _texts(executor.get(key))
        for name in sorted({name for text in texts for name in _ARGUMENT.findall(text)}):
            if name not in known:
                said = f"`{key}` names `{{{name[:60]}}}`, but inputSchema has no `{name[:60]}`{nearest(name, known)}"
                yield key, said


def _texts(value: Json) -> Iterator[str]:
    """A text, or every text in an object or list."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list):
            todo += one
        elif isinstance(one, str):
            yield one
