"""Contracts against themselves: what `x-sluicegate` names must be in the schema it speaks of.

Also finds the line of a key in a JSON or YAML text. Pure; never says whether a call fits (`conform.py` does).
Next: `releases/release.py` (who asks), `releases/findings.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import yaml
from sluicegate.processors.releases.findings import Finding, nearest
from sluicegate.processors.releases.http_check import http_faults
from sluicegate.processors.releases.shapes import Shape
from sluicegate.schemas.kinds import MODEL, REPEATABLE, STREAM_MODES

Json = object

GOVERNANCE = "x-sluicegate"
MAX_RETRIES = 5
"""Requests more inside one attempt; the ledger's own attempts come on top."""
_PIN = re.compile(r"sha256:[0-9a-f]{64}")
_REFERENCE = re.compile(r"env:[A-Za-z_]|file:/|\$\{secret:[a-z][a-z0-9_-]{0,31}:[^{}]+\}$")
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


def check_executor(
    path: str, text: str, executor: Mapping[str, Json], tool_class: str, schema: Mapping[str, Json]
) -> list[Finding]:
    """What an executor object says that it cannot mean."""
    faults = [*_executor_faults(executor, tool_class, path)]
    if executor.get("kind") == "http":
        faults += http_faults(executor, schema)
    return [
        Finding(path, line_of(text, [GOVERNANCE, "executor", key]), "executor", "error", said)
        for key, said in faults
    ]


def _executor_faults(executor: Mapping[str, Json], tool_class: str, path: str) -> Iterator[tuple[str, str]]:
    """(key, sentence)."""
    if executor.get("kind") == "prompt" and path:
        yield "kind", "`prompt` is no kind of a contract: a policy that names `prompt.read` is all it takes"
    retries = executor.get("retries", 0)
    if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MAX_RETRIES:
        yield "retries", f"`retries` is a number from 0 to {MAX_RETRIES}"
    elif retries and tool_class not in REPEATABLE:
        yield "retries", f"`retries` never repeats a call of class `{tool_class}`, leave it out"
    if executor.get("kind") == "mcp":
        if not isinstance(executor.get("tool"), str) or not executor["tool"]:
            yield "tool", "an MCP tool needs `tool`, its name at the server"
        if not _PIN.fullmatch(str(executor.get("pinned"))):
            yield "pinned", "`pinned` is the hash of the server's descriptor, `sha256:` and 64 hex digits"
        if ("url" in executor) == ("command" in executor):
            yield "url", "an MCP tool needs either `url` or `command`"
    if executor.get("kind") == "sql":
        for key in ("database", "statement"):
            if not isinstance(executor.get(key), str) or not executor[key]:
                yield key, f"a database tool needs `{key}`"
        if executor.get("write", False) not in (True, False) or (
            executor.get("write") and tool_class == "read_only"
        ):
            yield "write", "`write` is true or false, and false for the class `read_only`"
    if executor.get("kind") == MODEL:
        for key in ("url", "model"):
            if not isinstance(executor.get(key), str) or not executor[key]:
                yield key, f"a model needs `{key}`"
        yield from _stream_faults(executor)
        secret = executor.get("api_key", "")
        if not isinstance(secret, str) or (secret and not _REFERENCE.match(secret)):
            # The value is not quoted: it may be the key itself, on its way into a release.
            yield (
                "api_key",
                "`api_key` is no reference to a secret, write `env:NAME`, `file:/absolute/path` or `${secret:KIND:...}`",
            )


def _stream_faults(executor: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(key, sentence) about how a model's answer is streamed."""
    if executor.get("stream", STREAM_MODES[0]) not in STREAM_MODES:
        yield "stream", f"`stream` is one of {', '.join(STREAM_MODES)}"
    for key in ("first_token_ms", "idle_ms"):
        value = executor.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield key, f"`{key}` is a number of milliseconds"
    if not isinstance(executor.get("stream_usage", True), bool):
        yield "stream_usage", "`stream_usage` is true or false"


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
