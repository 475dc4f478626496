"""First contracts: a release to begin with, from what a tool says of itself or what agents asked for. Guesses are marked.

Only a person knows whether a call can be taken back, so the class is the worst one unless the source hints otherwise,
and a hint is a guess, too. What was guessed stands in `x-sluicegate.guessed`, and `release check` says so until somebody
looked. No policy is written: nobody may do anything yet.
Pure. Next: `releases/openapi.py`, `streams/mcp_tools.py` (sources), `policy/suggest.py` (first policies), `commands/release_init.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from sluicegate.processors.releases.schema import FILE_NAME, LANGUAGE_SERVER, release_schema
from sluicegate.processors.releases.shapes import MAX_LEVELS, Shape, shape_of
from sluicegate.schemas.errors import Terminal

Json = object

MAX_TOOLS = 2_000
"""Of one source: a catalogue beyond that is several releases."""
MAX_FIELDS = 500
"""Argument names told apart of one tool that was only observed."""
MAX_NAME_CHARS = 128

_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_KINDS: tuple[tuple[str, frozenset[str], tuple[str, ...]], ...] = (
    # kind of grounding, words of the argument's name, shapes it may have
    ("account", frozenset(("iban", "account", "recipient", "payee", "beneficiary", "bic", "wallet")), ("string",)),
    ("amount", frozenset(("amount", "price", "total", "sum", "cost", "fee")), ("long", "decimal")),
    ("links", frozenset(("url", "urls", "uri", "link", "links", "href", "website", "webhook")), ("string", "set")),
    ("exact", frozenset((
        "id", "ids", "email", "emails", "mail", "to", "cc", "bcc", "user", "username", "phone", "address", "path", "file",
        "filename", "channel", "host", "password", "key", "token", "recipients", "members",
    )), ("string", "long", "set")),
)  # fmt: skip


@dataclass(slots=True)
class Found:
    """One tool as its source describes it.

    Attributes:
        tool_class: what the source hints at; empty when it says nothing.
        executor: how it is reached; `guessed_executor` when that is a guess.
    """

    name: str
    description: str
    schema: dict[str, Json]
    executor: dict[str, Json]
    tool_class: str = ""
    guessed_executor: bool = False
    guessed_schema: bool = False
    notes: list[str] = field(default_factory=list)


def release_files(name: str, found: Iterable[Found], roles: Sequence[str] = ()) -> dict[str, str]:
    """The files of a release folder. Raises `Terminal` for two tools of one name and for too many."""
    files: dict[str, str] = {}
    for tool in found:
        path = f"contracts/{re.sub(r'[^A-Za-z0-9_.-]', '_', tool.name)}.json"
        if path in files:
            raise Terminal(f"tool `{tool.name}` stands twice, take one out or use --prefix")
        if not 0 < len(tool.name) <= MAX_NAME_CHARS:
            raise Terminal(f"tool name `{tool.name[:40]}` is not 1 to {MAX_NAME_CHARS} characters, rename it")
        files[path] = json.dumps(contract_of(tool), indent=2, ensure_ascii=False) + "\n"
        if len(files) > MAX_TOOLS:
            raise Terminal(f"there are more than {MAX_TOOLS} tools, make several releases of them")
    if not files:
        raise Terminal("no tool was found there, look at the source")
    lines = [
        LANGUAGE_SERVER,
        f"name: {json.dumps(name)}",
        'version: "1"',
        f"roles: {json.dumps(list(roles))}",
        "",
    ]
    head = "// Nobody may do anything yet: write permits, or begin with `sluicegate policy suggest`.\n"
    schema = json.dumps(release_schema(), indent=2) + "\n"
    own = {"release.yaml": "\n".join(lines), FILE_NAME: schema, "policies/first.cedar": head}
    return {**own, **dict(sorted(files.items()))}


def contract_of(tool: Found) -> dict[str, Json]:
    """A contract with its guesses named."""
    shape = shape_of(tool.schema)
    protected = guess_protected(shape)
    guessed = ["class"]
    if tool.guessed_executor:
        guessed.append("executor")
    if tool.guessed_schema:
        guessed.append("inputSchema")
    if protected:
        guessed.append("protected")
    governance: dict[str, Json] = {
        "version": "1",
        "class": tool.tool_class or "irreversible",
        "executor": tool.executor,
        "protected": protected,
        "measures": [name for name, kind in protected.items() if kind == "amount"],
        "guessed": guessed,
    }
    description = " ".join([tool.description.strip(), *tool.notes]).strip()
    return {
        "name": tool.name,
        "description": description,
        "inputSchema": tool.schema,
        "x-sluicegate": governance,
    }


def guess_protected(shape: Shape) -> dict[str, str]:
    """Arguments that say who, what or how much, by their names: argument -> kind of grounding."""
    found: dict[str, str] = {}
    for f in shape.fields:
        words = {w.lower() for w in _WORD.findall(f.name)}
        kind = next((k for k, names, shapes in _KINDS if words & names and f.shape.kind in shapes), "")
        if kind and not f.shape.values:  # a vocabulary is its own protection
            found[f.name] = kind
    return found


def from_mcp(tools: Sequence[Json], prefix: str, url: str) -> list[Found]:
    """Tools of an MCP `tools/list`. `url` is where they will be called, with `{name}` for the tool."""
    found = []
    for row in tools:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise Terminal("an entry of `tools` has no name, is this an MCP tools/list?")
        schema = row.get("inputSchema", row.get("input_schema"))
        annotations = row.get("annotations")
        hints: Mapping[str, Json] = annotations if isinstance(annotations, dict) else {}
        said = "read_only" if hints.get("readOnlyHint") is True else ""
        if not said and hints.get("idempotentHint") is True:
            said = "idempotent"
        executor: dict[str, Json] = {
            "kind": "http",
            "method": "POST",
            "url": url.replace("{name}", row["name"]),
        }
        found.append(
            Found(
                prefix + row["name"], str(row.get("description") or ""), _object(schema), executor, said,
                guessed_executor=True,
            )
        )  # fmt: skip
    return found


def _object(schema: Json) -> dict[str, Json]:
    """A tool's schema; a tool without one takes no arguments."""
    if not isinstance(schema, dict):
        return {"type": "object", "properties": {}}
    return {"type": "object", **cast("dict[str, Json]", modern(schema))}


def modern(schema: Json, level: int = 0) -> Json:
    """A schema with the bounds of older drafts, and of OpenAPI 3.0, said as JSON Schema 2020-12 says them."""
    if level > MAX_LEVELS:
        return {}
    if isinstance(schema, list):
        return [modern(s, level + 1) for s in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: modern(value, level + 1) for key, value in schema.items()}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and bound in found:
            found[exclusive] = found.pop(bound)
    return found


# -- from what was observed ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Inferred:
    """What the values of one place had in common."""

    count: int = 0
    kinds: set[str] = field(default_factory=set)
    fields: dict[str, Inferred] = field(default_factory=dict)
    items: Inferred | None = None

    def add(self, value: Json) -> None:
        """Count one value."""
        self.count += 1
        kind = _kind(value)
        self.kinds.add(kind)
        if kind == "object":
            for name, part in cast("Mapping[str, Json]", value).items():
                if name in self.fields or len(self.fields) < MAX_FIELDS:
                    self.fields.setdefault(name, Inferred()).add(part)
        if kind == "array":
            self.items = self.items or Inferred()
            for item in cast("list[Json]", value):
                self.items.add(item)

    def schema(self) -> dict[str, Json]:
        """A JSON Schema that every value fits."""
        kinds = set(self.kinds)
        if "number" in kinds:
            kinds.discard("integer")
        real = sorted(kinds - {"null"})
        found: dict[str, Json] = {}
        if len(real) == 1:
            found["type"] = [real[0], "null"] if "null" in kinds else real[0]
        if real == ["object"]:
            found["properties"] = {name: self.fields[name].schema() for name in sorted(self.fields)}
            found["required"] = [n for n in sorted(self.fields) if self.fields[n].count == self.count]
        if real == ["array"] and self.items is not None and self.items.count:
            found["items"] = self.items.schema()
        return found


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    for python, name in (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    ):
        if isinstance(value, python):
            return name
    return "object"


def from_observed(calls: Mapping[str, Inferred], url: str) -> list[Found]:
    """Tools that agents asked for: their arguments are all that is known."""
    found = []
    for name in sorted(calls):
        seen = calls[name]
        executor: dict[str, Json] = {"kind": "http", "method": "POST", "url": url.replace("{name}", name)}
        said = f"Seen in {seen.count} call(s); arguments are those that were used."
        found.append(Found(name, said, seen.schema(), executor, guessed_executor=True, guessed_schema=True))
    return found
