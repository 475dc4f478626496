"""Ports for servers of tests that have to know theirs before they listen.

Not those that the system gives to connections: between the choice and the listening, a connection of any process would take it.
Never holds a port. Where a server can say which one it got, let it listen on 0.
"""

from __future__ import annotations

import random
import socket

FROM, TO = 12_000, 32_000
"""Below what Linux and macOS give to connections (`ip_local_port_range`), above what well-known services use."""
_random = random.SystemRandom()


def unused(count: int) -> list[int]:
    """So many different ports of loopback that nobody listens on."""
    found: list[int] = []
    while len(found) < count:
        port = _random.randrange(FROM, TO)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
