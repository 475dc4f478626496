"""Avro fields read by position: the Python statements that read one field, for readers compiled from `.avsc` files.

What passes by the million (a recovery, a rebuild, the sink) is read by such functions; the rest by the Avro library.
Property tests hold both readers that are made of this to fastavro. Never guesses: damaged bytes raise `ValueError` or
`IndexError`. Next: `struct_reader.py` (records as structs), `sinks/avro.py` (records as tuples).
"""

from __future__ import annotations

from typing import cast

# `b` is the record, `p` the position in it; each field leaves its value in `f_<name>`.


from_bytes = int.from_bytes
"""For the scope of compiled readers."""


def varint(b: bytes, p: int) -> tuple[int, int]:
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


def array(b: bytes, p: int, size: int) -> tuple[list[bytes], int]:
    """An array of strings (`size` 0) or of fixed bytes, and where it ends."""
    items: list[bytes] = []
    while True:
        count, p = (b[p], p + 1) if b[p] < 0x80 else varint(b, p)
        if count == 0:
            return items, p
        if count & 1:  # a negative count: the block's length in bytes follows
            count += 1
            _, p = varint(b, p)
        if count >> 1 > len(b):
            raise ValueError("an array longer than its record")
        if size:
            items += [b[q : q + size] for q in range(p, p + (count >> 1) * size, size)]
            p += (count >> 1) * size
            continue
        for _ in range(count >> 1):
            n, p = (b[p], p + 1) if b[p] < 0x80 else varint(b, p)
            if n & 1:
                raise ValueError("a negative length")
            q = p + (n >> 1)
            items.append(b[p:q])
            p = q


def longs(b: bytes, p: int) -> tuple[list[int], int]:
    """An array of int or long, and where it ends."""
    items: list[int] = []
    while True:
        count, p = varint(b, p)
        if count == 0:
            return items, p
        if count & 1:
            count += 1
            _, p = varint(b, p)
        if count >> 1 > len(b):
            raise ValueError("an array longer than its record")
        for _ in range(count >> 1):
            n, p = varint(b, p)
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
        else:
            x = from_bytes(b[p:p + 8], "little")
            if x & 0x8080808080808080 == 0x0080808080808080:  # a time, as in `varint`
                x &= 0x7F7F7F7F7F7F7F7F
                x = x & 0x007F007F007F007F | (x & 0x7F007F007F007F00) >> 1
                x = x & 0x00003FFF00003FFF | (x & 0x3FFF00003FFF0000) >> 2
                n = x & 0x0FFFFFFF | (x & 0x0FFFFFFF00000000) >> 4
                p += 8
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


def lines(avro_type: object, f: str, fixed: dict[str, int]) -> str:
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
        return lines(kind, f, fixed)
    if isinstance(avro_type, list):  # only ["null", T] is used
        inner = lines(avro_type[1], f, fixed).replace("\n", "\n    ").rstrip(" ")
        return f"n = b[p]\np += 1\nif n == 0: {f} = None\nelif n == 2:\n    {inner}else: raise ValueError\n"
    if avro_type in ("string", "bytes"):
        return _BYTES.format(f=f)
    if avro_type in ("int", "long"):
        return _VARINT + f"{f} = (n >> 1) ^ -(n & 1)\n"
    if avro_type == "boolean":
        return f"{f} = b[p] != 0\np += 1\n"
    size = fixed[cast(str, avro_type).rsplit(".", 1)[-1]]
    return f"{f} = b[p:p + {size}]\np += {size}\n"
