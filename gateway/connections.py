"""Connections: how many there may be, how long the head of a request may take, and how long an answer may wait to be read.

aiohttp closes a connection that waits for a request for `KEEP_ALIVE_S`, however many bytes of a head came meanwhile; what it has no
bound for is how many there are, a first head that comes byte by byte for so long (slow loris), and a client that asks and then reads
nothing: its handler waits in a write for ever, and keeps its place. This stands between the socket and aiohttp's protocol, and only
listens: bytes go on as they came.
Never reads a request. Next: `server.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable
from typing import cast

MAX_CONNECTIONS = 8_000
"""In one process: 5,000 event streams, 2,000 requests, and as many that wait for their next one; about 10 kB each, 80 MB."""
SPARE_FILES = 256
"""Of the process's open files, for everything else than connections."""
HEAD_LIMIT_S = 10.0
"""For the whole head of a connection's first request."""
WRITE_LIMIT_S = 30.0
"""For a client to take what waits for it: 64 kB in this process, beyond what the system holds for it."""
_END = b"\r\n\r\n"


class Connections:
    """Those of one process that are open."""

    def __init__(
        self, most: int = MAX_CONNECTIONS, head_limit_s: float = HEAD_LIMIT_S, write_limit_s: float = WRITE_LIMIT_S
    ) -> None:  # fmt: skip
        self.most, self.head_limit_s, self.write_limit_s = most, head_limit_s, write_limit_s
        self.open = 0
        self.turned_away = 0
        self.too_slow = 0
        self.unread = 0

    def watched(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """A factory of protocols like `make`, each bounded."""
        return lambda: Watched(self, make())


class Watched(asyncio.Protocol):
    """One connection: hands everything on to `inner`."""

    def __init__(self, all_of_them: Connections, inner: asyncio.Protocol) -> None:
        self._all, self._inner = all_of_them, inner
        self._let_in = False
        self._connection: asyncio.Transport | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, if there is room."""
        connection = cast(asyncio.Transport, transport)
        if self._all.open >= self._all.most:
            self._all.turned_away += 1
            connection.abort()
            return
        self._all.open += 1
        self._let_in, self._connection = True, connection
        loop = asyncio.get_running_loop()
        self._waiting = loop.call_later(self._all.head_limit_s, self._too_slow, connection)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if not self._let_in:
            return
        if self._waiting is not None:
            # INVARIANT: a head that comes byte by byte has an end (tests/unit/test_gateway_connections.py).
            if _END in self._tail + data:
                self._waiting.cancel()
                self._waiting = None
            self._tail = (self._tail + data)[-len(_END) :]
        self._inner.data_received(data)

    def _too_slow(self, connection: asyncio.Transport) -> None:
        self._all.too_slow += 1
        connection.abort()

    def eof_received(self) -> bool | None:
        """The client says no more."""
        return self._inner.eof_received() if self._let_in else None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if not self._let_in:
            return
        self._all.open -= 1
        for timer in (self._waiting, self._unread):
            if timer is not None:
                timer.cancel()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        # INVARIANT: a client that reads nothing has an end (tests/unit/test_gateway_connections.py).
        loop = asyncio.get_running_loop()
        self._unread = loop.call_later(self._all.write_limit_s, self._reads_nothing)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self._inner.resume_writing()

    def _reads_nothing(self) -> None:
        assert self._connection is not None
        self._all.unread += 1
        self._connection.abort()


def room() -> int:
    """How many connections this process may hold; takes as many open files as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_FILES
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return max(1, min(MAX_CONNECTIONS, soft - SPARE_FILES))
