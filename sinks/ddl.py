"""How the tables and views of one environment's ClickHouse database come to be, and are rebuilt.

`ensure_schema` may be run by any number of processes at any time. Of a table that exists it changes nothing but to add columns.
Next: `tables.py` (what the columns mean), `views.sql`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from typing import Any, Protocol

from sluicegate.processors import lifecycle
from sluicegate.schemas.errors import Terminal
from sluicegate.sinks import tables
from sluicegate.sinks.rollup import COUNTS, SUMS

_DATABASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Client(Protocol):
    """What is used of a clickhouse-connect client here."""

    def command(self, cmd: str) -> Any:
        """Run a statement."""
        ...


def _statuses() -> dict[str, str]:
    """The lists of statuses the views are made of, as SQL."""

    def listed(statuses: Iterable[str]) -> str:
        return ", ".join(tables.quote(status) for status in statuses)

    terminal = (*lifecycle.DECIDED_TERMINAL, *lifecycle.EXECUTED_TERMINAL)
    return {
        "decided": listed(lifecycle.DECIDED_TERMINAL),
        "executed": listed(lifecycle.EXECUTED_TERMINAL),
        "open": listed(lifecycle.OPEN),
        "terminal": listed(terminal),
        "steps": listed((*lifecycle.PASSING, *lifecycle.OPEN, *terminal)),
        "session_counts": ", ".join(
            f"sum(s.{name}) AS {name}" for name in (*dict(COUNTS), "user_messages", *dict(SUMS))
        ),
    }


def views(database: str) -> list[str]:
    """The statements that make the views, or bring them up to date."""
    text = resources.files("sluicegate.sinks").joinpath("views.sql").read_text("utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    for name, value in {"database": database, **_statuses()}.items():
        text = text.replace(f"{{{name}}}", value)
    statements = [statement.strip() for statement in text.split(";\n") if statement.strip()]
    return [made for statement in statements for made in _twins(statement)]


def names() -> list[str]:
    """Every table and view."""
    found = (re.search(r"VIEW `\w+`\.`(\w+)`", view) for view in views("x"))
    return [*(table.name for table in tables.TABLES), *(one[1] for one in found if one is not None)]


def _twins(statement: str) -> list[str]:
    """A view, and where it has parts for it its twin `NAME_since(since)`, which reads only what came since a time."""
    whole = re.sub(r"/\*since\*/.*?/\*end\*/", "", statement)
    if whole == statement:
        return [statement]
    since = re.sub(r"/\*whole\*/.*?/\*end\*/", "", statement)
    named = re.sub(r"`\.`(\w+)`", r"`.`\1_since`", since, count=1)
    return [re.sub(r"/\*\w+\*/", "", made) for made in (whole, named)]


def check_database(database: str) -> str:
    """The name, when it can be one."""
    if not _DATABASE.fullmatch(database):
        raise Terminal(f"`{database}` cannot be a database, use letters, digits, `_` and `-`")
    return database


def ensure_schema(client: Client, database: str) -> None:
    """Create what is missing: database, tables, columns that an earlier version did not have, views. Nothing else changes."""
    client.command(f"CREATE DATABASE IF NOT EXISTS `{check_database(database)}`")
    for table in tables.TABLES:
        client.command(table.ddl(database))
        place = f"database = {tables.quote(database)} AND table = {tables.quote(table.name)}"
        known = client.command(
            f"SELECT arrayStringConcat(groupArray(name), ' ') FROM system.columns WHERE {place}"
        )
        if added := table.added(database, str(known).split()):
            client.command(added)
    for view in views(database):
        client.command(view)


# A rebuild never inserts into the live tables: ClickHouse still knows the tokens of rows that were deleted, and would
# swallow them without a word. It fills tables of its own, whose windows are empty, and then they change places.

REBUILD = "_rebuild"


def begin_rebuild(client: Client, database: str) -> None:
    """Empty tables beside the live ones, for a sink with `suffix=REBUILD`."""
    for table in (*tables.LEDGER_TABLES, *tables.ROLLUPS):
        client.command(f"DROP TABLE IF EXISTS `{check_database(database)}`.`{table.name}{REBUILD}` SYNC")
        client.command(table.ddl(database, REBUILD))


def finish_rebuild(client: Client, database: str) -> None:
    """Put the rebuilt tables in the place of the live ones, which are dropped. Stop the sink first."""
    for table in (*tables.LEDGER_TABLES, *tables.ROLLUPS):
        live, new = f"`{check_database(database)}`.`{table.name}`", f"`{database}`.`{table.name}{REBUILD}`"
        client.command(f"EXCHANGE TABLES {live} AND {new}")
        client.command(f"DROP TABLE {new} SYNC")
