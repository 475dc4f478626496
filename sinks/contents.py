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


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _hex(value: bytes) -> str:
    return value.hex()


def _json(value: bytes) -> object:
    """As it is when it is JSON, else in hex."""
    try:
        orjson.loads(value)
    except ValueError:
        return value.hex()
    return orjson.Fragment(value)


def _plain(value: object) -> object:
    return value


def _kind(name: str, avro_type: object) -> Callable[[Any], object]:
    if isinstance(avro_type, list):  # only ["null", T] is used
        inner = _kind(name, avro_type[1])
        return lambda value: None if value is None else inner(value)
    if avro_type == "string":
        return _text
    if avro_type == "bytes":
        return _json if name in ("arguments", "result") else _hex
    if isinstance(avro_type, dict) and avro_type["type"] == "array":
        return lambda values: [_text(value) for value in values]
    if isinstance(avro_type, dict) and avro_type["type"] == "fixed":
        return _hex
    return _plain


def _fields(name: str) -> tuple[tuple[str, Callable[[Any], object]], ...]:
    fields = cast(list[dict[str, object]], codec.SCHEMAS[name].parsed["fields"])
    return tuple((cast(str, f["name"]), _kind(cast(str, f["name"]), f["type"])) for f in fields)


# What an input can be; the first outcome of an input carries its bytes.
_READERS = {
    codec.SCHEMAS[name].prefix: (name, avro.compile_reader(name), _fields(name))
    for name in ("intent", "message", "review", "receipt")
}
_ENVELOPE = codec.SCHEMAS["envelope"].prefix
_read_envelope = avro.compile_reader("envelope")
_PAYLOAD, _KID = (codec.field_names(codec.SCHEMAS["envelope"].cls).index(name) for name in ("payload", "kid"))


def readable(plain: bytes) -> tuple[str, bytes]:
    """Which record it is, or nothing for a text, and the content in words."""
    signed: dict[str, object] = {}
    try:
        if plain[:_PREFIX] == _ENVELOPE:
            envelope = _read_envelope(plain)
            signed = {"signed_by": _text(cast(bytes, envelope[_KID]))}
            plain = cast(bytes, envelope[_PAYLOAD])
        found = _READERS.get(plain[:_PREFIX])
        if found is not None:
            name, read, fields = found
            values = {field: kind(value) for (field, kind), value in zip(fields, read(plain), strict=True)}
            return name, orjson.dumps({**values, **signed})
        plain.decode()
    except (IndexError, ValueError):
        return "", plain.hex().encode()
    return "", plain
