"""Ledger records as structs, read by position: bytes -> the same record `codec.decode` gives, in a fifth of its time.

For what is read by the million: facts, in a recovery or a rebuild (`read_facts`), and the records of which every call is made
(`decode`). What the reader by position does not take is read by `codec.decode`, whose every refusal is on ledgers by now; a
property test holds the two together (tests/properties/test_struct_reader.py). Never guesses: damaged bytes are
`Unreadable`. Next: `positions.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from sluicegate.schemas import codec, records
from sluicegate.schemas.errors import Unreadable
from sluicegate.schemas.positions import array, from_bytes, lines, longs, varint

Reader = Callable[[bytes], object]
T = TypeVar("T")


def _value(avro_type: object, name: str) -> str:
    """The expression that makes a struct's value of what `positions.lines` left."""
    if isinstance(avro_type, dict) and avro_type["type"] == "array":
        if avro_type["items"] == "string":
            return f"[x.decode() for x in {name}] if {name} else []"
        return f"list({name})"
    if isinstance(avro_type, list):  # ["null", T]
        inner = _value(avro_type[1], name)
        return name if inner == name else f"None if {name} is None else {inner}"
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    return f"{name}.decode()" if kind == "string" else name


def _long(b: bytes, p: int) -> tuple[int, int]:
    """As `varint`, but one of 10 bytes is left to the Avro library: it may not fit 64 bits."""
    value, end = varint(b, p)
    if end - p > _LONG_BYTES:
        raise ValueError("a varint of 10 bytes")
    return value, end


_LONG_BYTES = 9


def compile_struct(schema: codec.Schema, long: Callable[[bytes, int], tuple[int, int]] = varint) -> Reader:
    """A function from a record's bytes, prefix included, to its struct."""
    fields = cast("list[dict[str, object]]", schema.parsed["fields"])
    fixed: dict[str, int] = {}
    body = f"p = {codec.PREFIX_BYTES}\n"
    body += "".join(lines(field["type"], f"f_{field['name']}", fixed) for field in fields)
    body += "if p != len(b): raise ValueError\n"
    # By position, which is faster; fields added since an old schema have defaults, and stand behind those it has.
    names = [str(f["name"]) for f in fields]
    ordered = names == list(codec.field_names(schema.cls)[: len(names)])
    given = ", ".join(
        ("" if ordered else f"{f['name']}=") + _value(f["type"], "f_" + str(f["name"])) for f in fields
    )
    source = "def read(b):\n    " + (body + f"return cls({given})").replace("\n", "\n    ") + "\n"
    scope: dict[str, object] = {
        "long": long,
        "from_bytes": from_bytes,
        "array": array,
        "longs": longs,
        "cls": schema.cls,
    }
    exec(source, scope)  # built from our own .avsc files only
    return cast(Reader, scope["read"])


_READERS = {
    schema.prefix: compile_struct(schema)
    for name, schema in (codec.OLD | codec.SCHEMAS).items()
    if name.split(".")[0].endswith("_facts")
}


def read_facts(data: bytes) -> object:
    """The facts in a ledger record. Raises `Unreadable`."""
    reader = _READERS.get(data[: codec.PREFIX_BYTES])
    if reader is None:
        return codec.decode(data)  # says what is wrong with it
    try:
        return reader(data)
    except (IndexError, ValueError) as error:
        raise Unreadable("malformed_record", "the facts are damaged") from error


_WHOLE = {
    codec.schema_of(cls).prefix: compile_struct(codec.schema_of(cls), _long)
    for cls in (records.Intent, records.Receipt, records.Dispatch, records.Reply)
}


def decode(data: bytes) -> object:
    """What `codec.decode` gives, in half its time for the records of which every call is made. Raises `Unreadable`."""
    reader = _WHOLE.get(data[: codec.PREFIX_BYTES])
    if reader is not None:
        try:
            return reader(data)
        except (IndexError, ValueError):
            pass
    # INVARIANT: what is refused, and with which words, does not depend on the reader by position
    # (tests/properties/test_struct_reader.py).
    return codec.decode(data)


def decode_as(cls: type[T], data: bytes) -> T:
    """`codec.decode_as`, as fast."""
    record = decode(data)
    return record if isinstance(record, cls) else codec.decode_as(cls, data)
