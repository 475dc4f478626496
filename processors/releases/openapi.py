"""Tools of an OpenAPI 3 document: one for each operation, with an `http` executor that calls it.

Parameters of path and query and the properties of a JSON body become one flat set of arguments; where the body is no
object it is left out, and said. Headers and cookies are no arguments: an agent must not choose them.
Pure; fetches no reference outside of the document. Next: `releases/first_contracts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import cast

from sluicegate.processors.releases.first_contracts import Found, modern
from sluicegate.processors.releases.shapes import MAX_LEVELS
from sluicegate.schemas.errors import Terminal

Json = object
Document = Mapping[str, Json]

METHODS = ("get", "post", "put", "patch", "delete")

_COMPONENT = "#/components/schemas/"


def from_openapi(document: Json, prefix: str, url: str = "") -> list[Found]:
    """Every operation as a tool. `url` replaces the document's first server. Raises `Terminal` when it is no OpenAPI 3."""
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3"):
        raise Terminal("this is no OpenAPI 3 document, it needs `openapi: 3.x` at its top")
    servers = document.get("servers")
    first = (
        servers[0].get("url", "")
        if isinstance(servers, list) and servers and isinstance(servers[0], dict)
        else ""
    )
    base = (url or str(first)).rstrip("/")
    if not base.startswith(("http://", "https://", "${")):
        base = "${TOOLS_URL}" + base
    found = []
    for path, item in _mapping(document.get("paths")).items():
        for method in METHODS:
            operation = _mapping(item).get(method)
            if isinstance(operation, dict):
                found.append(_tool(document, prefix, base, path, method, _mapping(item), operation))
    return found


def _tool(
    document: Document, prefix: str, base: str, path: str, method: str, item: Document, operation: Document
) -> Found:
    name = str(operation.get("operationId") or re.sub(r"[^A-Za-z0-9]+", "_", f"{method}_{path}").strip("_"))
    properties: dict[str, Json] = {}
    required: list[str] = []
    notes: list[str] = []
    for parameter in _parameters(document, item, operation):
        place, argument = parameter.get("in"), str(parameter.get("name"))
        if place not in ("path", "query"):
            notes.append(f"({place} parameter `{argument}` is not passed.)")
            continue
        schema = dict(_mapping(parameter.get("schema")))
        if parameter.get("description"):
            schema.setdefault("description", parameter["description"])
        properties[argument] = modern(_plain(schema))
        if parameter.get("required") or place == "path":
            required.append(argument)
    _body(document, operation, properties, required, notes)
    schema = {
        "type": "object", "properties": properties, "required": sorted(set(required)), "additionalProperties": False,
    }  # fmt: skip
    definitions = _definitions(document, schema)
    if definitions:
        schema["$defs"] = definitions
    executor: dict[str, Json] = {"kind": "http", "method": method.upper(), "url": base + path}
    said = str(operation.get("summary") or operation.get("description") or "")
    return Found(prefix + name, said, schema, executor, "read_only" if method == "get" else "", notes=notes)


def _parameters(document: Document, item: Document, operation: Document) -> Iterator[Document]:
    """Parameters of the path, then of the operation, which override them."""
    found: dict[tuple[Json, Json], Document] = {}
    for rows in (item.get("parameters"), operation.get("parameters")):
        for row in rows if isinstance(rows, list) else []:
            parameter = _resolved(document, row)
            found[parameter.get("in"), parameter.get("name")] = parameter
    yield from found.values()


def _body(
    document: Document,
    operation: Document,
    properties: dict[str, Json],
    required: list[str],
    notes: list[str],
) -> None:
    content = _mapping(_resolved(document, operation.get("requestBody")).get("content"))
    schema = _mapping(_mapping(content.get("application/json")).get("schema"))
    if not content:
        return
    body = _resolved(document, schema)
    if not isinstance(body.get("properties"), dict):
        notes.append("(Its body is no JSON object with properties: it is not passed.)")
        return
    for name, part in cast("dict[str, Json]", body["properties"]).items():
        if name in properties:
            notes.append(f"(`{name}` stands in the address and in the body.)")
        properties.setdefault(name, modern(_plain(part)))
    must = body.get("required")
    required += [str(n) for n in must if n in properties] if isinstance(must, list) else []


def _resolved(document: Document, value: Json) -> Document:
    """A reference within the document followed; an empty mapping when it leads nowhere."""
    for _ in range(MAX_LEVELS):
        reference = _mapping(value).get("$ref")
        if not isinstance(reference, str):
            return _mapping(value)
        found: Json = document
        for part in reference.removeprefix("#/").split("/"):
            found = _mapping(found).get(part.replace("~1", "/").replace("~0", "~"))
        value = found
    return {}


def _plain(schema: Json, level: int = 0) -> Json:
    """JSON Schema of OpenAPI's: `nullable`, `example` and references into the components."""
    if level > MAX_LEVELS:
        return {}
    if isinstance(schema, list):
        return [_plain(s, level + 1) for s in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Json] = {}
    for key, value in schema.items():
        if key in ("nullable", "example", "discriminator", "xml", "externalDocs"):
            continue
        if key == "$ref" and isinstance(value, str):
            found[key] = value.replace(_COMPONENT, "#/$defs/")
        elif key in ("enum", "default", "const", "required"):
            found[key] = value
        elif key == "properties" and isinstance(value, dict):
            found[key] = {name: _plain(part, level + 1) for name, part in value.items()}
        else:
            found[key] = _plain(value, level + 1)
    if schema.get("nullable") is True:
        if isinstance(found.get("type"), str):
            found["type"] = [found["type"], "null"]
            if isinstance(found.get("enum"), list) and None not in cast("list[Json]", found["enum"]):
                found["enum"] = [*cast("list[Json]", found["enum"]), None]
        elif "$ref" in found:
            return {"anyOf": [found, {"type": "null"}]}
    return found


def _definitions(document: Document, schema: Json) -> dict[str, Json]:
    """The components that a schema refers to, with those they refer to."""
    components = _mapping(_mapping(document.get("components")).get("schemas"))
    found: dict[str, Json] = {}
    todo: list[Json] = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            reference = node.get("$ref")
            name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
            if name and name in components and name not in found:
                found[name] = modern(_plain(components[name]))
                todo.append(found[name])
            todo += node.values()
    return {name: found[name] for name in sorted(found)}


def _mapping(value: Json) -> Document:
    return cast(Document, value) if isinstance(value, dict) else {}
