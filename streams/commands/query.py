"""`sluicegate query`: SQL on the environment's ClickHouse, read-only."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.cli_words import near_names
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.settings import Settings

SAID_CHARS = 400


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def query(
        sql: Annotated[str, typer.Argument(help="one select")], output: OutputOption = Format.TABLE
    ) -> None:
        """Ask ClickHouse, e.g. `sluicegate query "select state, count() from intents group by state"`.

        All tables and views, and tested questions to start from: docs/analysts.md. Columns: `sluicegate query "describe table events"`.
        """
        from clickhouse_connect.driver.exceptions import ClickHouseError
        from sluicegate.sinks.embedded import connect, database

        settings = Settings.from_env()
        client = connect(settings, "reader", database(settings))
        try:
            result = client.query(sql)
        except ClickHouseError as error:
            raise Terminal(f"clickhouse refused the query: {in_words(str(error))}") from error
        rows = [[v.hex() if isinstance(v, bytes) else v for v in row] for row in result.result_rows]
        show(result.column_names, rows, output)


def in_words(error: str) -> str:
    """What the server said, without the driver's frame and the server's version; for an unknown table what it may have meant."""
    from sluicegate.sinks import ddl

    text = " ".join(error.split())
    _, _, said = text.rpartition("DB::Exception: ")
    said = re.sub(r" \(version .*| \(for url .*", "", said).replace(" FORMAT Native", "")[:SAID_CHARS]
    unknown = re.search(r"Unknown table expression identifier '([^']+)'|Table (\S+) does not exist", said)
    if unknown is None:
        return said
    word = (unknown[1] or unknown[2]).rpartition(".")[2].strip("`'")
    near = near_names(word, ddl.names())
    hint = (
        f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else "docs/analysts.md has all"
    )
    return f'there is no table or view `{word[:80]}`: {hint} (`sluicegate query "show tables"`)'
