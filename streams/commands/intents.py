"""`sluicegate intents`: the newest intents and where they stand, from ClickHouse."""

from __future__ import annotations

from typing import Annotated

import typer
from sluicegate.processors import lifecycle
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.cli_words import one_of
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.settings import Settings

COLUMNS = (
    "intent_id",
    "agent_id",
    "tool",
    "state",
    "last_stage",
    "last_reason",
    "attempts",
    "decided_at",
    "last_at",
)
_QUERY = """
SELECT intent_id, agent_id, tool, state, last_stage, last_reason, attempts,
    formatDateTime(first_decided_at, '%Y-%m-%d %H:%i:%S'), formatDateTime(last_decided_at, '%Y-%m-%d %H:%i:%S')
FROM `{database}`.intents
WHERE kind != '' AND tool != ''
    AND ({{agent:String}} = '' OR agent_id = {{agent:String}})
    AND ({{status:String}} = '' OR state = {{status:String}} OR life = {{status:String}})
ORDER BY last_decided_at DESC, intent_id LIMIT {{limit:UInt32}}
"""
STATES = (*lifecycle.OPEN, *lifecycle.DECIDED_TERMINAL, *lifecycle.EXECUTED_TERMINAL)
LIVES = ("open", "decided", "executed")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def intents(
        agent: Annotated[str, typer.Option("--agent", help="only this agent's")] = "",
        status: Annotated[str, typer.Option("--status", help="a state, or open, decided, executed")] = "",
        limit: Annotated[
            int, typer.Option("--limit", "-n", min=1, max=100_000, help="the newest so many")
        ] = 50,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """List intents, newest first, e.g. `sluicegate intents --status in_doubt`.

        ClickHouse trails the ledger by about a second; `sluicegate status` shows by how much.
        """
        from clickhouse_connect.driver.exceptions import Error
        from sluicegate.sinks.embedded import connect, database

        if status:
            one_of("status", status, (*LIVES, *STATES))
        settings = Settings.from_env()
        client = connect(settings)
        parameters = {"agent": agent, "status": status, "limit": limit}
        try:
            rows = client.query(_QUERY.format(database=database(settings)), parameters).result_rows
        except Error as error:
            said = " ".join(str(error).split())[:200]
            raise Terminal(f"clickhouse cannot list intents: {said}: check that a projector runs (`sluicegate status`)") from error  # fmt: skip
        show(COLUMNS, [list(row) for row in rows], output)
