"""A tool that acts once a request and journals it by key; faults come by address (`faults.py`).

    python -m tests.servers.tool_server PORT [JOURNAL_FILE]

`ToolProcess` is that command as a process that ends with whoever started it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from tests.servers.faults import FaultyServer, Journal

ROOT = Path(__file__).parents[2]
DIE_WITH_PARENT = "TOOL_SERVER_DIE_WITH_PARENT"
READY_LIMIT_S = 30.0
KEPT = 100
"""Bodies and headers a process keeps; 300 bytes each. Only a test in the same process looks at them."""


def tool_server(journal: Journal | None = None) -> FaultyServer:
    """Answers with its arguments and how often it acted under this key."""
    server: FaultyServer

    async def answer(request: web.Request, body: object) -> object:
        key = request.headers.get("Idempotency-Key", "")
        return {"did": body, "effects": server.journal.effects[key]}

    server = FaultyServer(answer, journal=journal)
    return server


class ToolProcess:
    """The server in a process of its own. `module`: another one of these servers; `name`: what contracts call its address."""

    def __init__(self, module: str = __name__, name: str = "TOOLS_URL") -> None:
        self._name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(self.port)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, DIE_WITH_PARENT: "1"}, start_new_session=True,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        """What executors must know: the placeholder in contracts, and that this address may be called."""
        return {f"SLUICEGATE_TOOL_{self._name}": self.url, "SLUICEGATE_EGRESS": f"127.0.0.1:{self.port}"}

    def wait_ready(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + READY_LIMIT_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/journal", timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the tool server did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _end_with_parent() -> None:
    while os.read(0, 1024):  # ends when the other end of the pipe is closed, by whatever death
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def serve(server_of: Callable[[Journal], FaultyServer]) -> None:
    """Serve until SIGTERM, at the port and with the journal that the command line names."""
    if os.environ.get(DIE_WITH_PARENT):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    journal = Journal(
        path=place, bodies=deque(maxlen=KEPT), headers=deque(maxlen=KEPT), paths=deque(maxlen=KEPT)
    )
    web.run_app(server_of(journal).app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    serve(tool_server)
