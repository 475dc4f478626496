"""An MCP server built with the official SDK, which also fails on purpose.

    python mcp_server.py stdio|PORT [JOURNAL_FILE] [VARIANT]

Every call of `note` is a line in the journal. A VARIANT describes `note` in other words. Stands alone: it runs in a process
of its own, without Sluicegate.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer


def server(journal: Path, variant: str) -> MCPServer:
    """The server."""
    app = MCPServer("desk")

    @app.tool(description=f"Keeps a note. {variant}".strip())
    def note(text: str, ctx: Context) -> dict[str, str]:
        meta = ctx.request_context.meta or {}
        with journal.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"text": text, "key": dict(meta).get("ai.sluicegate/idempotency-key")}) + "\n"
            )
        return {"kept": text}

    @app.tool(structured_output=False)
    def say(text: str) -> str:
        return text

    @app.tool()
    def fail() -> str:
        raise ValueError("it did not work")

    @app.tool()
    async def sleep() -> str:
        await asyncio.sleep(60)
        return "slept"

    @app.tool()
    def huge() -> str:
        return "x" * 2_000_000

    @app.tool()
    def die() -> str:
        os._exit(1)

    @app.tool()
    def key() -> str:
        return os.environ.get("DESK_KEY", "") + os.environ.get("SLUICEGATE_KAFKA", "")

    return app


if __name__ == "__main__":
    where, place, variant = [*sys.argv[1:], "", ""][:3]
    made = server(Path(place), variant)
    if where == "stdio":
        made.run("stdio")
    else:
        made.run("streamable-http", port=int(where))
