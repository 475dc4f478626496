"""What a request to the embedded ClickHouse asks for, and what a reader may ask. Pure: no engine, no sockets.

Readers run with `readonly = 1`, which chDB enforces itself; this module adds what it does not enforce: the function
`file()` reads any file of this user, INTO OUTFILE writes one, KILL QUERY stops the sink. The text that is judged is
the engine's own rendering of the query, so comments, escapes and odd quoting are gone.
Next: `chdb_server.py`, which calls this.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

READER_LIMITS = {
    "max_execution_time": "60",  # seconds
    "max_memory_usage": str(1 << 30),  # bytes of one query
    "max_result_bytes": str(256 << 20),  # an answer is held in memory: 4 readers x 256 MB
    "result_overflow_mode": "throw",
}
HEAD_BYTES = 65_536  # an INSERT's statement stands within these; the rest is data

# Parameters of the HTTP interface that are no settings of the engine.
_TRANSPORT = frozenset(
    [
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "compress",
        "decompress",
        "wait_end_of_query",
        "client_protocol_version",
        "role",
        "buffer_size",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "enable_http_compression",
        "cancel_http_readonly_queries_on_client_close",
        "add_http_cors_header",
        "stacktrace",
        "close_session",
    ]
)
# Settings a reader may not bring: another language than the one judged here, and files and addresses to read from.
_NOT_FOR_READERS = (
    "dialect",
    "readonly",
    "format_schema",
    "format_template",
    "format_avro_schema_registry",
    "allow_ddl",
)
_READS = ("SELECT", "WITH", "(", "SHOW", "DESCRIBE", "EXISTS", "EXPLAIN", "USE")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`((?:[^`\\]|\\.)*)`|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_FILE = re.compile(r"(?<![A-Za-z0-9_])file(?![A-Za-z0-9_])", re.IGNORECASE)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*(?:SETTINGS\s[^()]*)?;?\s*$", re.IGNORECASE)
_INSERT = re.compile(
    rb"\s*(INSERT\s+INTO\s.+?)\sFORMAT\s+(\w+)[ \t]*(?:\r?\n|\s|$)", re.IGNORECASE | re.DOTALL
)
_NAMES = {
    36: "BAD_ARGUMENTS",
    164: "READONLY",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    396: "TOO_MANY_ROWS_OR_BYTES",
}
_NAMES |= {497: "ACCESS_DENIED", 516: "AUTHENTICATION_FAILED"}


class Refused(Exception):
    """A request this server refuses by itself, with ClickHouse's code for it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = _NAMES[code]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `sql` is everything after it too, where the data of an INSERT follows in the same body."""

    sql: bytes
    data: bytes | None
    database: str
    default_format: str
    settings: dict[str, str]
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT taken apart."""

    sql: str
    format: str
    data: bytes | memoryview


def quote(text: str) -> str:
    """A string literal; the engine turns it into a number where one is wanted."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(name: str) -> str:
    """A name that may stand in SQL as it is."""
    if not _IDENTIFIER.fullmatch(name):
        raise Refused(36, f"`{name}` cannot be a name here, use letters, digits, `_` and `-`")
    return name


def credentials(query: Mapping[str, str], headers: Mapping[str, str]) -> tuple[str, str]:
    """User and key, from the three places ClickHouse takes them from."""
    if "X-ClickHouse-User" in headers:
        return headers["X-ClickHouse-User"], headers.get("X-ClickHouse-Key", "")
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, key = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, key
    return query.get("user", ""), query.get("password", "")


def parse(query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Request:
    """The request, taken apart as ClickHouse does: `query` first, then the body."""
    sql = query.get("query", "").encode("utf-8", "surrogateescape")
    if not sql:
        sql, data = body, None
    elif re.match(rb"\s*INSERT\b", sql, re.IGNORECASE):
        data = body
    else:
        sql, data = (sql + b"\n" + body if body else sql), None
    return Request(
        sql,
        data,
        query.get("database") or headers.get("X-ClickHouse-Database", ""),
        query.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        {k: v for k, v in query.items() if k not in _TRANSPORT and not k.startswith("param_")},
        {k[6:]: v for k, v in query.items() if k.startswith("param_")},
    )


def split_insert(request: Request) -> Insert | None:
    """An INSERT with data, or None for anything else (INSERT … SELECT and … VALUES are statements as they are)."""
    head = (request.sql if request.data is not None else request.sql[:HEAD_BYTES]).rstrip(b"; \n")
    found = _INSERT.match(head if request.data is not None else request.sql[:HEAD_BYTES])
    if found is None:
        return None
    data = request.data if request.data is not None else memoryview(request.sql)[found.end() :]
    return Insert(found.group(1).decode(), found.group(2).decode(), data)


def trailing_format(sql: str) -> str | None:
    """The format a query names itself."""
    found = _FORMAT.search(sql[-500:])
    return found.group(1) if found else None


def has_result(sql: str) -> bool:
    """Whether a statement answers with rows, of which there may be none."""
    return (
        sql.lstrip("( \t\r\n")
        .upper()
        .startswith(("SELECT", "WITH", "SHOW", "DESC", "EXISTS", "EXPLAIN", "CHECK"))
    )


def reader_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """A reader's settings, within the limits."""
    for name in settings:
        if name != "readonly" and name.startswith(_NOT_FOR_READERS):
            raise Refused(164, f"the setting `{name}` is not for readers, leave it out")
    mine = {name: value for name, value in settings.items() if name != "readonly"}
    for name, limit in READER_LIMITS.items():
        given = mine.get(name, "")
        lower = limit.isdecimal() and given.isdecimal() and 0 < int(given) < int(limit)
        mine[name] = given if lower else limit
    return mine


def _bare(formatted: str) -> str:
    """Without the text of literals; a quoted name counts only when it is `file`."""

    def keep(found: re.Match[str]) -> str:
        name = found.group(1) or found.group(2) or ""
        return " file " if name.strip().lower() == "file" else "''"

    return _QUOTED.sub(keep, formatted.strip())


def check_reader(formatted: str, parameters: Mapping[str, str]) -> str | None:
    """Refuse what a reader may not do; the format the query names otherwise.

    `formatted` is the engine's own one-line rendering of one statement.
    """
    # INVARIANT: a reader reads tables. It neither writes, nor stops others, nor reaches files or addresses
    # (tests/contracts/test_clickhouse.py::test_whoever_is_not_the_sink_reads_tables_only).
    bare = _bare(formatted)
    first = bare.split(" ", 1)[0].upper()
    if not (first in _READS or first.startswith("(")):
        raise Refused(164, f"only the sink may write: `{first}` is not for readers, use SELECT")
    if re.search(r"\bINTO OUTFILE\b", bare):
        raise Refused(164, "INTO OUTFILE would write on the server, use `-o FILE` of your client")
    if _FILE.search(bare) or any(value.strip('`" ').lower() == "file" for value in parameters.values()):
        raise Refused(
            497, "`file` is not for readers: it reads any file of the server's user, rename the column"
        )
    return trailing_format(bare)
