"""Columns in ClickHouse's Native format, a few rows at a time: what an insert sends.

A column takes values while they are still in the processor's cache and keeps bytes; ten thousand values at once take
twice as long, as does clickhouse-connect's encoder, which imports pandas besides. This one knows only the types of
`tables.py`. Contract tests read its blocks back from a server, property tests from clickhouse-connect.
Never checks a value: a wrong one is an exception. Next: `block.py` (rows into columns), `writer.py` (who sends them).
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Protocol

Values = Sequence[Any]

LOW_CARDINALITY_VERSION = (1).to_bytes(8, "little")
"""Keys travel with the column."""
_NEW_KEYS = 1 << 9 | 1 << 10
"""Flags beside the index type: additional keys, and a dictionary of their own."""
_INTEGERS = {"UInt16": "H", "UInt32": "I", "UInt64": "Q", "Int64": "q", "DateTime64(6, 'UTC')": "q"}
_WRAPPED = re.compile(r"(Nullable|LowCardinality|Array)\((.*)\)")


def varint(number: int) -> bytes:
    """A length."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_LENGTHS = [varint(n) for n in range(1_024)]


def strings(values: Values) -> bytes:
    """Each with its length before it."""
    pieces: list[bytes] = [b""] * (2 * len(values))
    try:
        pieces[::2] = map(_LENGTHS.__getitem__, map(len, values))
    except IndexError:
        pieces[::2] = map(varint, map(len, values))
    pieces[1::2] = values
    return b"".join(pieces)


def _uint64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _integers(code: str, values: Values) -> bytes:
    packed = array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


class Column(Protocol):
    """One column of a block."""

    prefix: bytes
    """What comes before the data."""
    zero: object
    """What ClickHouse fills in for a value that is left out."""

    def add(self, values: Values) -> None:
        """Take the next rows' values. Strings are bytes, times microseconds, arrays any sequence."""

    def data(self) -> bytes:
        """Of all rows."""


class _Plain:
    """Values whose bytes follow each other."""

    prefix = b""

    def __init__(self, kind: str) -> None:
        self._code = _INTEGERS.get(kind, "")
        self._text = kind == "String"
        self.zero: object = 0 if self._code else b""
        if kind.startswith("FixedString("):
            self.zero = bytes(int(kind[12:-1]))
        elif kind == "Bool":
            self._code, self.zero = "B", False
        elif not self._code and not self._text:
            raise ValueError(
                f"the native encoder does not know the type `{kind}`, teach it in sinks/native.py"
            )
        self._pieces: list[bytes] = []

    def add(self, values: Values) -> None:
        if self._code:
            self._pieces.append(_integers(self._code, values))
        else:
            self._pieces.append(strings(values) if self._text else b"".join(values))

    def data(self) -> bytes:
        return b"".join(self._pieces)


class _LowCardinality:
    """Strings as numbers of a dictionary that comes first."""

    prefix = LOW_CARDINALITY_VERSION
    zero: object = b""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._index: list[int] = []

    def add(self, values: Values) -> None:
        numbers = self._numbers
        try:
            self._index += list(map(numbers.__getitem__, values))
        except KeyError:
            for value in values:
                numbers.setdefault(value, len(numbers))
            self._index += map(numbers.__getitem__, values)

    def data(self) -> bytes:
        if not self._index:
            return b""
        n = len(self._numbers)
        code = "B" if n <= 1 << 8 else "H" if n <= 1 << 16 else "I"
        head = _uint64(_NEW_KEYS | "BHI".index(code)) + _uint64(n) + strings(list(self._numbers))
        return head + _uint64(len(self._index)) + _integers(code, self._index)


class _Nullable:
    """A byte a row says whether there is a value."""

    zero: object = None

    def __init__(self, inner: Column) -> None:
        self.prefix, self._inner = inner.prefix, inner
        self._nulls: list[bytes] = []

    def add(self, values: Values) -> None:
        if values.count(None) == 0:
            self._nulls.append(bytes(len(values)))
            self._inner.add(values)
            return
        self._nulls.append(bytes([value is None for value in values]))
        self._inner.add([self._inner.zero if value is None else value for value in values])

    def data(self) -> bytes:
        return b"".join(self._nulls) + self._inner.data()


class _Array:
    """Where each row's values end, then all of them."""

    zero: object = ()

    def __init__(self, inner: Column) -> None:
        self.prefix, self._inner = inner.prefix, inner
        self._ends: list[int] = []

    def add(self, values: Values) -> None:
        self._ends += list(accumulate(map(len, values), initial=self._ends[-1] if self._ends else 0))[1:]
        self._inner.add(list(chain.from_iterable(values)))

    def data(self) -> bytes:
        return _integers("Q", self._ends) + self._inner.data()


def column(kind: str) -> Column:
    """An empty column of a type. Raises `ValueError` for a type it does not know."""
    found = _WRAPPED.fullmatch(kind)
    if found is None:
        return _Plain(kind)
    if found[1] == "LowCardinality" and found[2] == "String":
        return _LowCardinality()
    return (_Nullable if found[1] == "Nullable" else _Array)(column(found[2]))


def block(rows: int, columns: Mapping[str, Column], types: Mapping[str, str]) -> bytes:
    """One block of so many rows."""
    pieces = [varint(len(columns)), varint(rows)]
    for name, one in columns.items():
        pieces += (strings([name.encode(), types[name].encode()]), one.prefix, one.data())
    return b"".join(pieces)


def block_of(values: Mapping[str, Values], types: Mapping[str, str]) -> bytes:
    """The block of columns that are all at hand, of one length each."""
    columns = {name: column(types[name]) for name in values}
    rows = {len(those) for those in values.values()}
    if len(rows) != 1:
        raise ValueError(f"columns of {sorted(rows)} values make no block")
    for name, those in values.items():
        columns[name].add(those)
    return block(rows.pop(), columns, types)
