"""The embedded ClickHouse: chDB as a process of its own behind ClickHouse's HTTP interface, on loopback.

    python -m sluicegate.sinks.chdb_server --data DIR --port 0 --port-file FILE

clickhouse-connect, Grafana and curl talk to it as to a server. Only the sink, who holds the key in `sink.key`, may
write; everybody else reads, under the limits of `sinks/chdb_rules.py`. Never listens beyond 127.0.0.1, has no users,
so several tenants need a real server, and has no sessions: every request is a connection of its own.
Next: `chdb_rules.py` (who may do what), `embedded.py` (starts this process and finds it).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import functools
import hmac
import json
import os
import re
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chdb
from aiohttp import web
from sluicegate.schemas.errors import Terminal
from sluicegate.sinks import chdb_rules as rules
from sluicegate.sinks.chdb_rules import Refused

HOST = "127.0.0.1"
SINK_USER = "sluicegate_sink"
BODY_MAX_BYTES = 128 * 1024 * 1024  # one range is at most 32 MB of records, about as much as Native
READERS = 4  # queries that run at once, each within rules.READER_LIMITS: 4 x 1 GB
WRITERS = 2  # apart from the readers, so that no analyst can hold up the ledger
WAITING_MAX = 64  # requests waiting for one of those; further ones are told to come back
STOP_LIMIT_S = 10  # then running queries are cut; what was acknowledged is on disk
_connect: Callable[[str], Any] = chdb.connect
CODE = re.compile(r"Code: (\d+)\.")
TOO_MANY, READONLY, AUTHENTICATION_FAILED, STD_EXCEPTION = 202, 164, 516, 1001
STATUS = {62: 400, 60: 404, 81: 404, READONLY: 403, 497: 403, AUTHENTICATION_FAILED: 403, TOO_MANY: 503}
CONTENT_TYPES = {"TabSeparated": "text/tab-separated-values", "CSV": "text/csv", "JSON": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said."""

    body: bytes
    summary: dict[str, str]
    format: str | None = None


class Engine:
    """One chDB data directory, owned by this process."""

    def __init__(self, data: Path) -> None:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (data.parent / f"{data.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Terminal(
                f"the data in `{data}` is in use by another process: stop that one first"
            ) from None
        self._path = str(data)
        self._keep = _connect(self._path)  # the engine lives as long as one connection does
        zone = self._keep.query("SELECT version(), timezone()", "JSONCompactEachRow").bytes()
        self.version, self.timezone = json.loads(zone)

    def close(self) -> None:
        """Flush and let go of the directory."""
        self._keep.close()
        self._lock.close()

    def run(self, request: rules.Request, may_write: bool) -> Answer:
        """Run one request on a connection of its own (1 ms): settings never leak from one client to another."""
        connection = _connect(self._path)
        try:
            if request.database:
                connection.query(f"USE `{rules.identifier(request.database)}`")
            if may_write:
                _set(connection, request.settings)
            else:
                # INVARIANT: whoever is not the sink runs with readonly = 1, set last so that nothing can lift it
                # (tests/contracts/test_clickhouse.py::test_no_parameter_makes_a_reader_a_writer).
                _set(connection, {**rules.reader_settings(request.settings), "readonly": "1"})
            if may_write and (insert := rules.split_insert(request)) is not None:
                return _insert(connection, insert)
            sql = request.sql.decode("utf-8", "surrogateescape")
            form: str | None = None
            if not may_write:
                formatted = connection.query(f"SELECT formatQuerySingleLine({rules.quote(sql)})", "TSVRaw")
                form = rules.check_reader(formatted.bytes().decode("utf-8", "replace"), request.parameters)
            form = form or rules.trailing_format(sql)
            started = time.perf_counter_ns()
            result = connection.query(sql, form or request.default_format, params=request.parameters or None)
            body = result.bytes() or b""
            summary = {
                "read_rows": str(result.rows_read()),
                "read_bytes": str(result.bytes_read()),
                "written_rows": "0",
                "written_bytes": "0",
                "elapsed_ns": str(time.perf_counter_ns() - started),
            }
            answers = form is not None or rules.has_result(sql)
            return Answer(body, summary, (form or request.default_format) if answers else None)
        finally:
            connection.close()


def _set(connection: Any, settings: Mapping[str, str]) -> None:
    if settings:
        pairs = (f"{rules.identifier(name)} = {rules.quote(value)}" for name, value in settings.items())
        connection.query("SET " + ", ".join(pairs))


def _insert(connection: Any, insert: rules.Insert) -> Answer:
    with connection.send_insert(insert.sql, insert.format) as stream:
        stream.append(insert.data)
        done = stream.finish()
    # chDB counts the rows it was sent: those of a repeated token too, as they were dropped later.
    summary = {
        "written_rows": str(done.rows_written),
        "written_bytes": str(done.bytes_written),
        "read_rows": "0",
    }
    return Answer(b"", {**summary, "elapsed_ns": str(int(done.elapsed * 1e9))})


class Server:
    """The HTTP side: who is asking, how many at once, and ClickHouse's headers."""

    def __init__(self, engine: Engine, key: str) -> None:
        self._engine = engine
        self._key = key
        self._pools = {
            True: ThreadPoolExecutor(WRITERS, "writer"),
            False: ThreadPoolExecutor(READERS, "reader"),
        }
        self._waiting = 0
        self.app = web.Application(client_max_size=BODY_MAX_BYTES)
        self.app.router.add_get("/ping", self._ping)
        self.app.router.add_route("*", "/", self._handle)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _handle(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id") or str(uuid.uuid4())
        headers = {
            "X-ClickHouse-Server-Display-Name": "sluicegate-embedded",
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        try:
            # A page in somebody's browser may reach this port under a name of its own (DNS rebinding).
            if (request.url.host or "") not in ("127.0.0.1", "localhost"):
                raise Refused(
                    AUTHENTICATION_FAILED, f"the host `{request.host}` is not this server, use 127.0.0.1"
                )
            is_sink = self._is_sink(request)
            parsed = rules.parse(request.query, request.headers, await _body(request))
            answer = await self._run(parsed, is_sink and request.method == "POST")
        except web.HTTPRequestEntityTooLarge:
            return self._failed(
                headers, Refused(396, f"the request is over {BODY_MAX_BYTES} bytes, send it in parts")
            )
        except Exception as error:  # whatever the engine raised is the client's answer
            return self._failed(headers, error)
        if answer.format is not None:
            headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = json.dumps(answer.summary, separators=(",", ":"))
        kind = CONTENT_TYPES.get(answer.format or "TabSeparated", "application/octet-stream")
        return web.Response(body=answer.body, headers={**headers, "Content-Type": f"{kind}; charset=UTF-8"})

    def _is_sink(self, request: web.Request) -> bool:
        user, key = rules.credentials(request.query, request.headers)
        if user != SINK_USER:
            return False
        if hmac.compare_digest(key.encode(), self._key.encode()):
            return True
        raise Refused(AUTHENTICATION_FAILED, f"`{SINK_USER}` needs the key in sink.key; read without a user")

    async def _run(self, request: rules.Request, may_write: bool) -> Answer:
        if self._waiting >= WAITING_MAX:
            raise Refused(TOO_MANY, f"over {WAITING_MAX} requests are waiting, come back in a second")
        self._waiting += 1
        try:
            work = functools.partial(self._engine.run, request, may_write)
            return await asyncio.get_running_loop().run_in_executor(self._pools[may_write], work)
        finally:
            self._waiting -= 1

    def _failed(self, headers: dict[str, str], error: Exception) -> web.Response:
        text = str(error)
        if isinstance(error, Refused):
            code, text = error.code, f"Code: {error.code}. DB::Exception: {error} ({error.name})"
        else:
            found = CODE.search(text)
            code = int(found.group(1)) if found else STD_EXCEPTION
            text = text[found.start() :] if found else f"Code: {code}. DB::Exception: {text} (STD_EXCEPTION)"
        headers["X-ClickHouse-Exception-Code"] = str(code)
        body = f"{text} (version {self._engine.version} (embedded))\n"
        return web.Response(text=body, status=STATUS.get(code, 500), headers=headers)

    def stop(self) -> None:
        """No new work; queued work is dropped."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


async def _body(request: web.Request) -> bytes:
    encoding = request.headers.get("Content-Encoding", "")
    if encoding not in ("", "identity", "gzip", "deflate"):  # those two aiohttp undoes by itself
        raise Refused(36, f"the encoding `{encoding}` is not supported, connect with compress=False")
    return await request.read()


def sink_key(path: Path) -> str:
    """The sink's key; made on the first start, readable by this user only."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text(encoding="utf-8")


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM, SIGINT or, with `--die-with-parent`, the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.die_with_parent:
        # Not prctl(PR_SET_PDEATHSIG): that fires when the *thread* that started us ends. A pipe ends with the process.
        loop.add_reader(0, lambda: None if os.read(0, 4_096) else stop.set())
    engine = Engine(options.data)
    server = Server(engine, sink_key(options.data.parent / "sink.key"))
    runner = web.AppRunner(server.app, access_log=None, shutdown_timeout=STOP_LIMIT_S)
    await runner.setup()
    site = web.TCPSite(runner, HOST, options.port)
    await site.start()
    port = runner.addresses[0][1]
    if options.port_file:
        partial = options.port_file.with_suffix(".part")
        partial.write_text(str(port), encoding="utf-8")
        partial.replace(options.port_file)
    print(f"chDB {engine.version} at http://{HOST}:{port}", flush=True)
    await stop.wait()
    server.stop()
    await runner.cleanup()
    engine.close()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="sluicegate.sinks.chdb_server", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=lambda text: Path(text).absolute(), required=True, help="data directory"
    )
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    parser.add_argument(
        "--port-file", type=lambda text: Path(text).absolute(), help="where the port is written"
    )
    parser.add_argument("--die-with-parent", action="store_true", help="end when standard input ends")
    try:
        asyncio.run(serve(parser.parse_args(arguments)))
    except (Terminal, OSError) as error:
        sys.exit(f"chdb_server: {error}")
    # A query that outlived the limit would keep the process: its thread cannot be stopped.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
