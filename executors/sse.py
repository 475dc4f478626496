"""Server-sent events: bytes as they come in, the data of whole events out.

Of the WHATWG format only what chat completions use: `data:` lines, joined where an event has several; comments, names and ids
are passed over. Never more than `MAX_EVENT_BYTES` are held. Next: `model_chunks.py` (what the data means).
"""

from __future__ import annotations

MAX_EVENT_BYTES = 256 * 1024
"""One event: a tool call of 64 kB in one piece, of which JSON may write each byte as `\\u00xx`, fits with room to spare."""


class TooLong(Exception):
    """An event that never ends."""


class Events:
    """One response's body."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, more: bytes) -> list[bytes]:
        """The events that are whole now. Raises `TooLong`."""
        if self._after_cr and more:
            more = more.removeprefix(b"\n")  # a line's end was cut in the middle
            self._after_cr = False
        self._after_cr = self._after_cr or more.endswith(b"\r")
        buffer = self._rest + more
        lines = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        found: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                value = line[5:].removeprefix(b" ")
                self._data.append(value)
                self._size += len(value)
            if self._size > MAX_EVENT_BYTES:
                raise TooLong
        if len(self._rest) > MAX_EVENT_BYTES:
            raise TooLong
        return found
