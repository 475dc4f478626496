"""Avro records read by position: bytes -> the fields in schema order, for what passes by the ten thousand.

Functions compiled from the `.avsc` files, three times as fast as fastavro with its dicts; strings stay bytes. A property
test holds them to fastavro. Never guesses, but leaves UTF-8 to whoever reads the strings. Next: `rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sluicegate.schemas import codec

SHARED_MAX = 4_096
"""Header ends remembered: x about 1.5 kB = 6 MB."""

Values = tuple[object, ...]
Reader = Callable[[bytes], Values]

# `b` is the record, `p` the position in it; each field leaves its value in `f_<name>`.


def _long(b: bytes, p: int) -> tuple[int, int]:
    """The varint at `p`, still zig-zag, and where it ends."""
    # A time in microseconds has 8 bytes: their 7 bits each are pushed together by halves, in half a loop's time.
    x = int.from_bytes(b[p : p + 8], "little")
    if x & 0x8080808080808080 == 0x0080808080808080:
        x &= 0x7F7F7F7F7F7F7F7F
        x = x & 0x007F007F007F007F | (x & 0x7F007F007F007F00) >> 1
        x = x & 0x00003FFF00003FFF | (x & 0x3FFF00003FFF0000) >> 2
        return x & 0x0FFFFFFF | (x & 0x0FFFFFFF00000000) >> 4, p + 8
    value = shift = 0
    while True:
        byte = b[p]
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, p
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")


def _array(b: bytes, p: int, size: int) -> tuple[list[bytes], int]:
    """An array of strings (`size` 0) or of fixed bytes, and where it ends."""
    items: list[bytes] = []
    while True:
        count, p = _long(b, p)
        if count == 0:
            return items, p
        if count & 1:  # a negative count: the block's length in bytes follows
            count += 1
            _, p = _long(b, p)
        if count >> 1 > len(b):
            raise ValueError("an array longer than its record")
        for _ in range(count >> 1):
            n, p = (size << 1, p) if size else _long(b, p)
            if n & 1:
                raise ValueError("a negative length")
            items.append(b[p : p + (n >> 1)])
            p += n >> 1


def _longs(b: bytes, p: int) -> tuple[list[int], int]:
    """An array of int or long, and where it ends."""
    items: list[int] = []
    while True:
        count, p = _long(b, p)
        if count == 0:
            return items, p
        if count & 1:
            count += 1
            _, p = _long(b, p)
        if count >> 1 > len(b):
            raise ValueError("an array longer than its record")
        for _ in range(count >> 1):
            n, p = _long(b, p)
            items.append((n >> 1) ^ -(n & 1))


_VARINT = """n = b[p]
if n < 128: p += 1
else:
    m = b[p + 1]
    if m < 128:
        n += (m << 7) - 128
        p += 2
    else:
        o = b[p + 2]
        if o < 128:
            n += (m << 7) + (o << 14) - 16_512
            p += 3
        else: n, p = long(b, p)
"""
# Nearly every array has no item or one, and an item's length one byte.
_ARRAY = """if b[p] == 0:
    {f} = ()
    p += 1
else:
    n = {n}
    q = p + {start} + (n >> 1)
    if b[p] == 2 and n < 128 and not n & 1 and b[q:q + 1] == b"\\0":
        {f} = (b[p + {start}:q],)
        p = q + 1
    else: {f}, p = array(b, p, {size})
"""
_BYTES = _VARINT + "if n & 1: raise ValueError\nq = p + (n >> 1)\n{f} = b[p:q]\np = q\n"


def _lines(avro_type: object, f: str, fixed: dict[str, int]) -> str:
    """The statements that read one field."""
    if isinstance(avro_type, dict):
        kind = avro_type["type"]
        if kind == "array":
            items = avro_type["items"]
            if items in ("int", "long"):
                return f"if b[p] == 0:\n    {f} = ()\n    p += 1\nelse: {f}, p = longs(b, p)\n"
            size = fixed.get(items.rsplit(".", 1)[-1], 0)
            return _ARRAY.format(f=f, size=size, start=1 if size else 2, n=2 * size if size else "b[p + 1]")
        if kind == "fixed":
            fixed[avro_type["name"].rsplit(".", 1)[-1]] = avro_type["size"]
            return f"{f} = b[p:p + {avro_type['size']}]\np += {avro_type['size']}\n"
        return _lines(kind, f, fixed)
    if isinstance(avro_type, list):  # only ["null", T] is used
        inner = _lines(avro_type[1], f, fixed).replace("\n", "\n    ").rstrip(" ")
        return f"n = b[p]\np += 1\nif n == 0: {f} = None\nelif n == 2:\n    {inner}else: raise ValueError\n"
    if avro_type in ("string", "bytes"):
        return _BYTES.format(f=f)
    if avro_type in ("int", "long"):
        return _VARINT + f"{f} = (n >> 1) ^ -(n & 1)\n"
    if avro_type == "boolean":
        return f"{f} = b[p] != 0\np += 1\n"
    size = fixed[cast(str, avro_type).rsplit(".", 1)[-1]]
    return f"{f} = b[p:p + {size}]\np += {size}\n"


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
    reads = [_lines(field["type"], f"f_{field['name']}", fixed) for field in fields]
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
        "long": _long,
        "array": _array,
        "longs": _longs,
        "cache": cache,
        "remember": remember,
        **helpers,
    }
    exec(source, scope)  # built from our own .avsc files only
    return cast(Reader, scope["read"])


def _function(name: str, body: str) -> str:
    return f"def {name}(b):\n    " + body.replace("\n", "\n    ") + "\n"
