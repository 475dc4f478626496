"""The `sql` adapter: one statement of the contract with a call's arguments as named parameters, on an allowed database.

    {"kind": "sql", "database": "orders", "statement": "select id, total from orders where customer = :customer", "max_rows": 50}

Sqlite only, by the standard library. Read-only unless the contract says `write` *and* the operator opened the database for it;
one statement, one transaction, no attached files, no pragmas, no changes of the schema. A statement that is late is
interrupted and rolled back.
Never builds a statement: text of a call is only ever bound. Next: `adapter.py`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import orjson
from sluicegate.executors.adapter import ERROR_CHARS, Answer, Failed, Finished
from sluicegate.processors.artifacts import limit_of
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch

DATABASES = "SLUICEGATE_SQL_DATABASES"
"""`orders=/data/orders.db,notes=rw:/data/notes.db`: what contracts may name, read-only unless it says `rw:`."""
WRITABLE = "rw:"
THREADS = 4
"""Statements at a time in one process."""
MAX_ROWS, MAX_ROWS_LIMIT = 100, 10_000
"""Rows read, and rows changed, where the contract says nothing; and what it may say at most."""
MAX_VALUE_BYTES = 1_000_000
"""Longest text or blob sqlite may make of anything, so that a row cannot fill the memory."""
STEPS = 10_000
"""Instructions of sqlite's machine between two looks at the clock: about a millisecond."""

_READS = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)
_WRITES = _READS | {
    sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_TRANSACTION,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Database:
    """One allowed file."""

    path: Path
    writable: bool


@dataclass(slots=True)
class _Run:
    """One statement on its way. `ended` stops it from another thread."""

    database: Database
    statement: str
    parameters: dict[str, str | int | float | None]
    write: bool
    max_rows: int
    until: float
    most: int
    ended: threading.Event = field(default_factory=threading.Event)

    def over(self) -> bool:
        return self.ended.is_set() or time.monotonic() >= self.until


class SqlAdapter:
    """Runs statements in threads of its own."""

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._databases = dict(databases)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sql")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> SqlAdapter:
        """Read `SLUICEGATE_SQL_DATABASES`. Raises `Terminal` for what is no `name=/absolute/path`."""
        found = {}
        for part in filter(None, (p.strip() for p in environ.get(DATABASES, "").split(","))):
            name, _, place = part.partition("=")
            writable, path = place.startswith(WRITABLE), Path(place.removeprefix(WRITABLE))
            if not name or not path.is_absolute():
                raise Terminal(
                    f"`{part[:100]}` in {DATABASES} is not name=/absolute/path or name=rw:/absolute/path"
                )
            found[name] = Database(path, writable)
        return cls(found)

    async def close(self) -> None:
        """Let go of the threads; a running statement ends with its call."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, dispatch: Dispatch, timeout_s: float) -> Answer:
        """Run one statement."""
        run = self._prepare(dispatch, time.monotonic() + timeout_s)
        if isinstance(run, Failed):
            return run
        work = self._threads.submit(_answer, run)
        running = asyncio.wrap_future(work)
        try:
            await asyncio.wait({running}, timeout=timeout_s)
            if not running.done() and work.cancel():
                return Failed("timeout", "no thread for statements was free in time", sent=False)
            return await running
        finally:
            run.ended.set()  # also when this call was cut: the thread rolls back

    def _prepare(self, dispatch: Dispatch, until: float) -> _Run | Failed:
        raw = orjson.loads(dispatch.executor)
        name, statement, write = raw.get("database"), raw.get("statement"), raw.get("write", False)
        rows = raw.get("max_rows", MAX_ROWS)
        database = self._databases.get(name) if isinstance(name, str) else None
        if database is None:
            said = f"`{str(name)[:60]}` is not an allowed database, add it to {DATABASES} where the executors run"
            return Failed("egress_denied", said, sent=False)
        if not isinstance(statement, str) or not isinstance(write, bool):
            return Failed(
                "crashed", "the contract has no `statement`, or a `write` that is not true or false", False
            )
        if not isinstance(rows, int) or isinstance(rows, bool) or not 0 < rows <= MAX_ROWS_LIMIT:
            return Failed("crashed", f"`max_rows` of the contract is not from 1 to {MAX_ROWS_LIMIT}", False)
        # INVARIANT: nothing is written unless contract, class and operator say so
        # (tests/unit/test_sql_adapter.py::test_nothing_is_written_unless_all_say_so).
        if write and not (database.writable and dispatch.tool_class != "read_only"):
            said = f"`{name}` is not open for writing to this contract, write `{name}={WRITABLE}/path` and another class"
            return Failed("egress_denied", said, sent=False)
        arguments = cast("dict[str, object]", orjson.loads(dispatch.arguments))
        for key, value in arguments.items():
            if not isinstance(value, str | int | float | None):
                return Failed(
                    "crashed", f"argument `{key[:60]}` is no plain value, a statement takes no lists", False
                )
        bound = cast("dict[str, str | int | float | None]", arguments)
        return _Run(database, statement, bound, write, rows, until, limit_of(dispatch.executor))


def _answer(run: _Run) -> Answer:
    """In a thread: open, run, close. Whatever goes wrong before the commit was rolled back, so nothing happened."""
    if run.over():
        return Failed("timeout", "no thread for statements was free in time", sent=False)
    try:
        with closing(_open(run)) as connection:
            return _execute(connection, run)
    except sqlite3.Error as error:
        text = str(error)[:ERROR_CHARS]
        if run.over():
            return Failed("timeout", "the statement did not end in time and was rolled back", sent=False)
        if isinstance(error, sqlite3.OperationalError) and "unable to open" in text:
            return Failed("unreachable", "the database cannot be opened", sent=False)
        return Failed("refused_by_tool", f"sqlite: {text}", sent=False)
    except (sqlite3.Warning, OverflowError, UnicodeEncodeError) as error:
        return Failed("crashed", f"the statement takes no such call ({type(error).__name__})", sent=False)


def _open(run: _Run) -> sqlite3.Connection:
    uri = f"{run.database.path.as_uri()}?mode={'rw' if run.write else 'ro'}"
    left_s = max(0.0, run.until - time.monotonic())
    connection = sqlite3.connect(uri, uri=True, timeout=left_s, isolation_level=None, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.set_progress_handler(run.over, STEPS)
    return connection


def _execute(connection: sqlite3.Connection, run: _Run) -> Answer:
    if run.write:
        connection.execute("begin immediate")
    allowed = (_WRITES - {sqlite3.SQLITE_TRANSACTION}) if run.write else _READS
    connection.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
    )
    cursor = connection.execute(run.statement, run.parameters)
    columns = [column[0] for column in cursor.description or ()]
    rows: list[bytes] = []
    truncated, size = False, 0
    for row in cursor:
        if len(rows) == run.max_rows:
            truncated = True
            break
        try:
            rows.append(orjson.dumps(dict(zip(columns, row, strict=True))))
        except (orjson.JSONEncodeError, TypeError):
            return Failed(
                "malformed_result", "a column holds bytes, read it as text: hex(column)", sent=not run.write
            )
        size += len(rows[-1]) + 1
        if size > run.most:
            return Failed("result_too_large", f"the rows have more than {run.most} bytes", sent=not run.write)
    if len(set(columns)) != len(columns):
        return Failed(
            "malformed_result", "two columns have one name, name them with `as`", sent=not run.write
        )
    return _finish(connection, run, rows, truncated)


def _finish(connection: sqlite3.Connection, run: _Run, rows: list[bytes], truncated: bool) -> Answer:
    changed = b""
    if run.write:
        count = connection.total_changes
        if truncated or count > run.max_rows:
            said = f"the statement changes more than {run.max_rows} rows and was rolled back"
            return Failed("refused_by_tool", said, sent=False)
        connection.set_authorizer(None)
        if run.over():
            return Failed("timeout", "the statement did not end in time and was rolled back", sent=False)
        connection.execute("commit")
        changed = b',"changed":%d' % count
    result = b'{"rows":[%s],"truncated":%s%s}' % (
        b",".join(rows),
        b"true" if truncated else b"false",
        changed,
    )
    if len(result) > run.most:
        return Failed("result_too_large", f"the result has more than {run.most} bytes")
    return Finished(result)
