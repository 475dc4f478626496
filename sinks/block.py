"""Rows -> the columns of `events`, a few at a time, while they are still in the processor's cache.

A column that has its default in every row is left out: ClickHouse fills it in. Never looks into a value.
Next: `native.py` (columns into bytes), `ranges.py` (which rows), `writer.py` (who sends them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from sluicegate.schemas import codec, records
from sluicegate.sinks import facts, native, tables
from sluicegate.sinks.calls import Calls, Seen
from sluicegate.sinks.rows import Row

TURN_ROWS = 256
"""x 40 values x about 60 bytes = 600 kB: half of a core's second cache."""

SEALED_IDS = tables.CONTENTS.names[2:-3]
"""The columns of `contents` that a header has, but for the log."""
TYPES = dict(zip(tables.EVENTS.names, tables.EVENTS.types, strict=True))
_FIELDS = ["src_partition" if n == "partition" else n for n in codec.field_names(records.Header)]
_ALWAYS = ("src_offset", *_FIELDS, "header_hash", "header", "facts")
"""Columns that every row brings a value for, in the order of `Row`."""
_CALL = ("call_tool", "previous_tool")
_DECIDED_AT = _ALWAYS.index("decided_at")
_IDS = [_FIELDS.index(name) for name in SEALED_IDS]

Sealed = tuple[tuple[Any, ...], bytes]
"""The values of `SEALED_IDS`, and the sealed content."""


class _Column:
    """A column that is not there until a row has something else than the default."""

    __slots__ = ("_default", "_kind", "_rows", "column")

    def __init__(self, kind: str, default: object) -> None:
        self._kind, self._default, self._rows = kind, default, 0
        self.column: native.Column | None = None

    def add(self, values: Sequence[Any]) -> None:
        if self.column is None:
            if is_default(values, self._default):
                self._rows += len(values)
                return
            self.column = native.column(self._kind)
            if self._rows:
                self.column.add([self._default] * self._rows)
        self.column.add(values)

    def skip(self, rows: int) -> None:
        """Rows that say nothing of it."""
        if self.column is None:
            self._rows += rows
        else:
            self.column.add([self._default] * rows)


class Block:
    """Rows of one range, in `seq` order.

    `see` says which calls they are about, some rows at a time.

    Attributes:
        sealed: what `contents` will be made of.
        calls: what was seen.
        decided_until: `decided_at` of the last row, 0 without rows.
    """

    def __init__(self, topic: str, see: Callable[[Sequence[Row]], Seen] | None = None) -> None:
        self._topic = topic.encode()
        self._columns = {name: _Column(kind, native.column(kind).zero) for name, kind in TYPES.items()}
        self._fresh: list[Row] = []
        self._see = see or Calls().see
        self.calls: Seen = [], []
        self._rows = 0
        self._hashes = sha256()
        self.sealed: list[Sealed] = []
        self.decided_until = 0

    def append(self, item: Row) -> None:
        """Add a row."""
        self._fresh.append(item)
        if len(self._fresh) == TURN_ROWS:
            self._turn()

    def finish(self) -> tuple[bytes, bytes]:
        """The block and the sha256 of its header hashes. Nothing is added after that."""
        self._turn()
        columns = {name: one.column for name, one in self._columns.items() if one.column is not None}
        return native.block(self._rows, columns, TYPES), self._hashes.digest()

    def _turn(self) -> None:
        if not self._fresh:
            return
        fields, offsets, hashes, headers, raw, kinds, values, sealed = zip(*self._fresh, strict=True)
        n, columns = len(offsets), self._columns
        always = (offsets, *zip(*fields, strict=True), hashes, headers, raw)
        for name, those in zip(_ALWAYS, always, strict=True):
            columns[name].add(those)
        columns["src_topic"].add([self._topic] * n)
        columns["facts_type"].add([facts.KINDS[kind].name for kind in kinds])
        said = _by_column(kinds, values, n)
        for name in facts.DEFAULTS:
            if name in said:
                columns[name].add(said[name])
            else:
                columns[name].skip(n)
        for name, found, kept in zip(_CALL, self._see(self._fresh), self.calls, strict=True):
            columns[name].add(found)
            kept += found
        self._hashes.update(b"".join(hashes))
        self.decided_until = always[_DECIDED_AT][-1]
        self.sealed += [
            (tuple([header[at] for at in _IDS]), content)
            for header, content in zip(fields, sealed, strict=True)
            if content is not None
        ]
        self._rows += n
        self._fresh.clear()


def _by_column(kinds: Sequence[int], values: Sequence[Sequence[Any]], rows: int) -> dict[str, list[Any]]:
    """The facts columns that any of the rows fills with something else than the default."""
    said: dict[str, list[Any]] = {}
    for kind in sorted(set(kinds)):
        places = [at for at, k in enumerate(kinds) if k == kind]
        mine = [values[at] for at in places]
        for name, those in zip(facts.KINDS[kind].columns, zip(*mine, strict=True), strict=True):
            default = facts.DEFAULTS[name]
            if is_default(those, default):
                continue
            column = said.get(name)
            if column is None:
                column = said[name] = [default] * rows
            for place, value in zip(places, those, strict=True):
                column[place] = value
    return said


def is_default(values: Sequence[Any], default: object) -> bool:
    """Whether every value is the default; the first one tells nearly always that not."""
    return values[0] == default and values.count(default) == len(values)
