"""Avro records read by position: bytes -> the fields in schema order, for what passes by the ten thousand.

Functions compiled from the `.avsc` files, three times as fast as fastavro with its dicts; strings stay bytes. A property
test holds them to fastavro. Never guesses, but leaves UTF-8 to whoever reads the strings.
Next: `schemas/positions.py` (how a field is read), `rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sluicegate.schemas import codec
from sluicegate.schemas.positions import array, from_bytes, lines, longs, varint

SHARED_MAX = 4_096
"""Header ends remembered: x about 1.5 kB = 6 MB."""

Values = tuple[object, ...]
Reader = Callable[[bytes], Values]


def _fields(name: str) -> list[dict[str, object]]:
    schema = codec.SCHEMAS.get(name) or codec.OLD[name]
    return cast(list[dict[str, object]], schema.parsed["fields"])


def names_of(name: str) -> list[str]:
    """The fields of a schema, or of an old one as `name.fingerprint`."""
    return [cast(str, field["name"]) for field in _fields(name)]


def compile_reader(
    name: str, *, shared_from: str = "", returns: str = "", **helpers: Callable[[bytes], object]
) -> Reader:
    """A function from a record's bytes, prefix included, to its fields in schema order.

    Args:
        name: of the schema.
        shared_from: fields from this one on are read once for equal bytes, as an input's outcomes share them.
        returns: the source of another tuple to return; fields go by their names, `f_<name>`.
        helpers: functions which that source may call.
    """
    names, fixed = names_of(name), dict[str, int]()
    fields = _fields(name)
    reads = [lines(field["type"], f"f_{field['name']}", fixed) for field in fields]
    cut = names.index(shared_from) if shared_from else len(names)
    head, tail = ("".join(f"f_{n}, " for n in part) for part in (names[:cut], names[cut:]))
    end = "if p != len(b): raise ValueError\n"
    source = _function("tail", "p = 0\n" + "".join(reads[cut:]) + end + f"return ({tail})")
    start = f"p = {codec.PREFIX_BYTES}\n" + "".join(reads[:cut])
    if shared_from:
        start += "rest = b[p:]\nt = cache.get(rest)\nif t is None: t = remember(rest)\n"
    else:
        start += end
    source += _function("read", start + f"return ({returns or head + ('*t' if shared_from else '')})")
    cache: dict[bytes, Values] = {}

    def remember(rest: bytes) -> Values:
        if len(cache) >= SHARED_MAX:
            cache.clear()
        return cache.setdefault(rest, cast(Reader, scope["tail"])(rest))

    scope: dict[str, object] = {
        "long": varint,
        "from_bytes": from_bytes,
        "array": array,
        "longs": longs,
        "cache": cache,
        "remember": remember,
        **helpers,
    }
    exec(source, scope)  # built from our own .avsc files only
    return cast(Reader, scope["read"])


def _function(name: str, body: str) -> str:
    return f"def {name}(b):\n    " + body.replace("\n", "\n    ") + "\n"
