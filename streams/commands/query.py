"""`sluicegate query`: SQL on the environment's ClickHouse, read-only."""

from __future__ import annotations

from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.settings import Settings


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
            raise Terminal(f"clickhouse refused the query: {' '.join(str(error).split())[:400]}") from error
        rows = [[v.hex() if isinstance(v, bytes) else v for v in row] for row in result.result_rows]
        show(result.column_names, rows, output)
