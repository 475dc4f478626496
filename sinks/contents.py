"""Decrypted content as text an analyst can read: records of inputs become JSON, texts stay what they are.

An intent's arguments and a tool's result stand in it as the JSON they are. The exact bytes stay in Kafka. Total: what
cannot be read is given in hex. Next: `writer.py` (who calls this), `avro.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import orjson
from sluicegate.schemas import codec
from sluicegate.sinks import avro

_PREFIX = codec.PREFIX_BYTES


def _json(value: bytes) -> object:
    """As it is when it is JSON, else in hex."""
    try:
        orjson.loads(value)
    except ValueError:
        return value.hex()
    return orjson.Fragment(value)


_TYPES = {str: "string", int: "number", float: "number", bool: "boolean", list: "array", dict: "object"}
SHAPE_NAMES = 30
"""Arguments a shape names; of more, the first ones and how many there are."""
SHAPE_CHARS = 300


SHAPES_MAX = 4_096
"""Shapes remembered by names and types: about 500 bytes each, 2 MB."""
_shapes: dict[tuple[object, ...], bytes] = {}


def shape_of(given: object) -> bytes:
    """Names and types of arguments, never a value: two calls of one shape differ in values only."""
    if type(given) is not dict:
        return b"not an object"
    key = (*given, *map(type, given.values()))
    known = _shapes.get(key)
    if known is not None:
        return known
    named = sorted(f"{name}:{_TYPES.get(type(value), 'null')}" for name, value in given.items())
    more = [f"+{len(named) - SHAPE_NAMES}"] if len(named) > SHAPE_NAMES else []
    shape = ",".join(named[:SHAPE_NAMES] + more)[:SHAPE_CHARS].encode("utf-8", "replace")
    if len(key) <= 2 * SHAPE_NAMES:
        if len(_shapes) >= SHAPES_MAX:
            _shapes.clear()
        _shapes[key] = shape
    return shape


def _intent(arguments: bytes, said: dict[str, object]) -> tuple[dict[str, object], bytes]:
    """An intent with its arguments as the JSON they are, and their shape."""
    try:
        shape = shape_of(orjson.loads(arguments))
        said["arguments"] = orjson.Fragment(arguments)
    except ValueError:
        shape, said["arguments"] = b"not json", arguments.hex()
    return said, shape


def _source(name: str, avro_type: object) -> str:
    """The source of what a field becomes."""
    field = f"f_{name}"
    if isinstance(avro_type, list):  # only ["null", T] is used
        return f"None if {field} is None else {_source(name, avro_type[1])}"
    if avro_type == "string":
        return f"{field}.decode('utf-8', 'replace')"
    if avro_type == "bytes":
        return f"json({field})" if name in ("arguments", "result") else f"{field}.hex()"
    if isinstance(avro_type, dict) and avro_type["type"] == "array":
        return f"[item.decode('utf-8', 'replace') for item in {field}]"
    if isinstance(avro_type, dict) and avro_type["type"] == "fixed":
        return f"{field}.hex()"
    return field


def _reader(name: str) -> Callable[[bytes], tuple[dict[str, object], bytes]]:
    fields = cast(list[dict[str, Any]], codec.SCHEMAS[name].parsed["fields"])
    names = [f for f in fields if (name, f["name"]) != ("intent", "arguments")]
    values = ", ".join(f"{f['name']!r}: {_source(f['name'], f['type'])}" for f in names)
    source = f"intent(f_arguments, {{{values}}})" if name == "intent" else f'{{{values}}}, b""'
    read = avro.compile_reader(
        name, returns=source, json=_json, intent=cast("Callable[[bytes], object]", _intent)
    )
    return cast(Callable[[bytes], tuple[dict[str, object], bytes]], read)


# What an input can be; the first outcome of an input carries its bytes.
_READERS = {
    codec.SCHEMAS[name].prefix: (name.encode(), _reader(name))
    for name in ("intent", "message", "review", "resolution", "receipt", "score", "transfer")
}
_ENVELOPE = codec.SCHEMAS["envelope"].prefix
_read_envelope = avro.compile_reader("envelope")
_PAYLOAD, _KID = (codec.field_names(codec.SCHEMAS["envelope"].cls).index(name) for name in ("payload", "kid"))


def readable(plain: bytes) -> tuple[bytes, bytes, bytes]:
    """Which record it is, or nothing for a text; the content in words; of an intent, the shape of its arguments."""
    signed: dict[str, object] = {}
    try:
        if plain[:_PREFIX] == _ENVELOPE:
            envelope = _read_envelope(plain)
            signed = {"signed_by": cast(bytes, envelope[_KID]).decode("utf-8", "replace")}
            plain = cast(bytes, envelope[_PAYLOAD])
        found = _READERS.get(plain[:_PREFIX])
        if found is not None:
            name, read = found
            said, shape = read(plain)
            return name, orjson.dumps(said | signed if signed else said), shape
        plain.decode()
    except (IndexError, ValueError):
        return b"", plain.hex().encode(), b""
    return b"", plain, b""
