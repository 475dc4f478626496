"""The bytes of a header, put together again by ClickHouse from the columns of `events`: Avro in SQL.

So that a changed column shows against the exact bytes beside it without a row leaving ClickHouse. Made from the header's own
schema; a contract test holds it to what the ledger writes. Pure: runs nothing. Next: `streams/verify/rows.py` (who asks).
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from sluicegate.schemas import codec, records

_COLUMNS = {"partition": "src_partition"}
"""Fields of the header whose column has another name."""
_TIMES = ("decided_at",)
VARINT_BYTES = 9
"""Of a long up to 2^62: later than any time, more than any offset."""


def _varint() -> str:
    """Of a non-negative number `z`."""

    def byte(i: int, last: int) -> str:
        low = f"bitAnd(bitShiftRight(z, {7 * i}), 127)"
        return low if i == last else f"bitOr({low}, 128)"

    made = [f"char({', '.join(byte(i, last) for i in range(last + 1))})" for last in range(VARINT_BYTES)]
    rows = [f"z < {1 << 7 * (last + 1)}, {one}" for last, one in enumerate(made[:-1])]
    return f"multiIf({', '.join(rows)}, {made[-1]})"


WITH = f"""\
z -> {_varint()} AS varint,
n -> varint(toUInt64(if(n < 0, -2 * n - 1, 2 * n))) AS long,
t -> concat(varint(toUInt64(2 * length(t))), t) AS text,
(c, items) -> if(c = 0, unhex('00'), concat(long(c), items, unhex('00'))) AS list"""
"""What `header_sql` is made of, for the `WITH` of the query that it stands in."""


def _field(kind: Any, column: str, name: str) -> str:
    if isinstance(kind, list):  # only ["null", fixed] is used
        return f"if(isNull({column}), unhex('00'), concat(unhex('02'), assumeNotNull({column})))"
    if isinstance(kind, dict) and kind["type"] == "array":
        item = (
            "text(toString(x))" if kind["items"] == "string" else "concat(x, '')"
        )  # a String: of a FixedString zeros at its end would go
        return f"list(toInt64(length({column})), arrayStringConcat(arrayMap(x -> {item}, {column})))"
    base = kind["type"] if isinstance(kind, dict) else kind
    if base == "string":
        return f"text(toString({column}))"
    if base in ("int", "long"):
        return f"long(toInt64({f'toUnixTimestamp64Micro({column})' if name in _TIMES else column}))"
    return column


def header_sql() -> str:
    """An expression over a row of `events` that gives the bytes of its header."""
    text = resources.files("sluicegate.schemas").joinpath("avro", "header.avsc").read_text("utf-8")
    prefix = codec.schema_of(records.Header).prefix.hex()
    parts = [
        _field(f["type"], _COLUMNS.get(f["name"], f["name"]), f["name"]) for f in json.loads(text)["fields"]
    ]
    return f"concat(unhex('{prefix}'), {', '.join(parts)})"
