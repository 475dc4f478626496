"""A tool that acts once a request and journals it by key; faults come by address (`faults.py`).

python -m tests.servers.tool_server PORT [JOURNAL_FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web

from tests.servers.faults import FaultyServer, Journal


def tool_server(journal: Journal | None = None) -> FaultyServer:
    """Answers with its arguments and how often it acted under this key."""
    server: FaultyServer

    async def answer(request: web.Request, body: object) -> object:
        key = request.headers.get("Idempotency-Key", "")
        return {"did": body, "effects": server.journal.effects[key]}

    server = FaultyServer(answer, journal=journal)
    return server


if __name__ == "__main__":
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    web.run_app(tool_server(Journal(path=place)).app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
