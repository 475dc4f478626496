"""Erasure in ClickHouse: rows of `contents` of some subjects, and the parts on disk that held them.

A mutation writes parts anew without the rows; the old ones stay on disk for minutes, so ClickHouse is asked to look for them at once,
and this waits until they are gone.
A projector that had opened content before its key was destroyed may insert a moment later: it is asked again until
nothing comes. `events` has headers and facts only, and nothing is erased there. Blocking: give it a thread.
Next: `streams/erasures.py` (who calls this), `tables.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from clickhouse_connect.driver.exceptions import DatabaseError, Error
from sluicegate.schemas.errors import Retryable
from sluicegate.sinks import ddl
from sluicegate.sinks.ddl import REBUILD
from sluicegate.sinks.tables import CONTENTS, quote

QUIET_S = 2.0
"""So long nothing may come: a process lets go of a destroyed key within a second of using keys, and an insert takes less."""
LOOKS = 2
PARTS_LIMIT_S = 330.0
"""By itself ClickHouse looks for old parts every 30 s, and where it finds few only every 5 minutes (`max_cleanup_delay_period`)."""
WAKING = ("SYSTEM START CLEANUP", "SYSTEM START TTL MERGES")
"""What makes it look at once, and changes nothing else unless somebody stopped these: newer servers have a thread for it, older ones
look when they look for merges."""
POLL_S = 0.5
_TABLES = (CONTENTS.name, CONTENTS.name + REBUILD)


class Client(Protocol):
    """What is used of a clickhouse-connect client here."""

    def command(self, cmd: str) -> Any:
        """Run a statement."""
        ...

    def query(self, query: str) -> Any:
        """Run a SELECT; the answer has `result_rows`."""
        ...


def rows_of(client: Client, database: str, subjects: Sequence[str]) -> int:
    """Rows of these subjects."""
    return sum(_count(client, database, table, subjects) for table in _there(client, database))


def erase_rows(client: Client, database: str, subjects: Sequence[str], waits: Callable[[str], None]) -> int:
    """Delete them, rows that still arrive too, and wait until no part on disk has them; how many there were.

    `waits` is told what is waited for. Raises `Retryable` when ClickHouse stops answering, or keeps its old parts.
    """
    try:
        return _erase(client, ddl.check_database(database), subjects, waits)
    except (Error, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise Retryable(f"clickhouse did not erase all rows: {said}: run it again") from error


def _erase(client: Client, database: str, subjects: Sequence[str], waits: Callable[[str], None]) -> int:
    gone = quiet = 0
    tables = _there(client, database)
    waits("rows that are on their way to clickhouse")
    while quiet < LOOKS:
        found = {table: _count(client, database, table, subjects) for table in tables}
        for table in [t for t, n in found.items() if n]:
            name = f"`{database}`.`{table}`"
            client.command(f"ALTER TABLE {name} DELETE WHERE {_where(subjects)} SETTINGS mutations_sync = 2")
        gone += sum(found.values())
        quiet = 0 if any(found.values()) else quiet + 1
        time.sleep(QUIET_S / LOOKS)
    waits("clickhouse to remove the old parts")
    for table in tables:
        _drop_old_parts(client, database, table)
    return gone


def _drop_old_parts(client: Client, database: str, table: str) -> None:
    """Old parts are kept eight minutes, in case the disk lost a new one: for once they are not."""
    name = f"`{database}`.`{table}`"
    old = f"SELECT count() FROM system.parts WHERE database = {quote(database)} AND table = {quote(table)} AND NOT active"
    if not client.query(old).result_rows[0][0]:
        return
    client.command(f"ALTER TABLE {name} MODIFY SETTING old_parts_lifetime = 1")
    waking = list(WAKING)
    try:
        until = time.monotonic() + PARTS_LIMIT_S
        while client.query(old).result_rows[0][0]:
            _wake(client, name, waking)
            if time.monotonic() > until:
                raise Retryable(
                    f"the rows are erased, but clickhouse still keeps old parts of {name}: run it again"
                )
            time.sleep(POLL_S)
    finally:
        client.command(f"ALTER TABLE {name} RESET SETTING old_parts_lifetime")


def _wake(client: Client, name: str, waking: list[str]) -> None:
    """Have it look for old parts now. A statement that this user may not say, or this server does not know, is left out then."""
    for statement in list(waking):
        try:
            client.command(f"{statement} {name}")
        except DatabaseError:
            waking.remove(statement)  # it looks by itself, too: later


def _there(client: Client, database: str) -> list[str]:
    named = ", ".join(map(quote, _TABLES))
    rows = client.query(
        f"SELECT name FROM system.tables WHERE database = {quote(database)} AND name IN ({named}) ORDER BY name"
    ).result_rows
    return [str(name) for (name,) in rows]


def _count(client: Client, database: str, table: str, subjects: Sequence[str]) -> int:
    query = f"SELECT count() FROM `{ddl.check_database(database)}`.`{table}` WHERE {_where(subjects)}"
    return int(client.query(query).result_rows[0][0])


def _where(subjects: Sequence[str]) -> str:
    return f"subject IN ({', '.join(map(quote, subjects))})"
