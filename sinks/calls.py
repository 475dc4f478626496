"""Which tool each outcome is about: only an intent's first outcome names it, and analysts ask for it on every one.

The sink reads a partition in order, so it remembers: the tool of every call that may still get an outcome, and the last
tool of every session. After a restart it asks ClickHouse (`Sink.calls`). What was forgotten, because of the bounds
below, has an empty tool; nothing else depends on it. Pure. Next: `block.py` (who asks), `ranges.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sluicegate.processors import lifecycle
from sluicegate.schemas import codec, records
from sluicegate.sinks import facts
from sluicegate.sinks.rows import Row

ENDED_MAX = 50_000
"""Calls remembered after their end, for what is attached to them: two generations x about 300 bytes = 30 MB a partition."""
OPEN_MAX = 200_000
"""Calls without an end: about 300 bytes each, 60 MB a partition. The oldest are forgotten first."""
SESSIONS_MAX = 100_000
"""Sessions whose last tool is remembered: two generations x about 250 bytes = 50 MB a partition."""

Seen = tuple[list[bytes], list[bytes]]
"""Of each row the tool of its intent; and on an intent's first outcome, the tool of the call before it in the session."""

_FIELDS = codec.field_names(records.Header)
_INTENT, _AGENT, _SESSION, _STATUS = (
    _FIELDS.index(name) for name in ("intent_id", "agent_id", "session_id", "status")
)
_TOOL = {
    number: kind.columns.index("tool")
    for number, kind in enumerate(facts.KINDS)
    if kind.name == b"intent_facts"
}
"""Kinds of facts that begin a call, and where they name its tool."""
_ENDS = frozenset(status.encode() for status in lifecycle.TERMINAL)

Key = tuple[bytes, bytes]


class Calls:
    """What is remembered of one partition. `see` wants every row, in order; some at a time."""

    def __init__(
        self, open_: Iterable[tuple[Key, bytes]] = (), last: Iterable[tuple[Key, bytes]] = ()
    ) -> None:
        """Go on after a restart: the calls without an end, and the last tool of sessions."""
        self._open: dict[Key, bytes] = dict(open_)
        self._ended: dict[Key, bytes] = {}
        self._before: dict[Key, bytes] = {}
        self._last: dict[Key, bytes] = dict(last)
        self._older: dict[Key, bytes] = {}
        self._intent = self._tool = b""

    def see(self, rows: Sequence[Row]) -> Seen:
        """The calls that rows are about."""
        tools, before = list[bytes](), [b""] * len(rows)
        last_intent, last_tool = self._intent, self._tool
        for row in rows:
            fields: tuple[Any, ...] = row[0]
            intent = fields[_INTENT]
            at = _TOOL.get(row[5])
            # Outcomes of one input follow each other and share the object (`avro.py`): so it is for three rows of four.
            if at is None and intent is last_intent and fields[_STATUS] not in _ENDS:
                tools.append(last_tool)
                continue
            if not intent:
                tools.append(b"")
                continue
            key = fields[_AGENT], intent
            if at is None:
                tool = self._open.get(key)
                if tool is None:
                    tool = self._ended.get(key) or self._before.get(key) or b""
                elif fields[_STATUS] in _ENDS:
                    self._end(key, tool)
            else:
                values: Any = row[6]
                tool = values[at]
                before[len(tools)] = self._follow((fields[_AGENT], fields[_SESSION]), tool)
                if fields[_STATUS] in _ENDS:
                    self._end(key, tool)
                else:
                    self._open[key] = tool
                    if len(self._open) > OPEN_MAX:
                        del self._open[next(iter(self._open))]
            last_intent, last_tool = intent, tool
            tools.append(tool)
        self._intent, self._tool = last_intent, last_tool
        return tools, before

    def _end(self, key: Key, tool: bytes) -> None:
        self._open.pop(key, None)
        self._ended[key] = tool
        if len(self._ended) > ENDED_MAX:
            self._before, self._ended = self._ended, {}

    def _follow(self, session: Key, tool: bytes) -> bytes:
        """The tool before this one in the session."""
        before = self._last.get(session) or self._older.get(session) or b""
        self._last[session] = tool
        if len(self._last) > SESSIONS_MAX:
            self._older, self._last = self._last, {}
        return before
