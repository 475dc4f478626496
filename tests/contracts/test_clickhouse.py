"""The contract on the embedded ClickHouse (chDB behind HTTP) and on a server; and what only the embedded one promises."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.sinks import chdb_server, ddl, tables
from sluicegate.sinks.embedded import EmbeddedClickHouse, connect, database
from sluicegate.sinks.writer import Sink
from sluicegate.streams.settings import Settings

from tests.clickhouse_contract import ClickHouseContract, one_range
from tests.clickhouse_rollups import RollupContract
from tests.fake_clickhouse import FakePartition, FakeSource, Killed
from tests.ledger_records import Ledger, PlainOpener

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A real server."""
    if yours := os.environ.get("SLUICEGATE_TEST_CLICKHOUSE"):
        yield yours
        return
    done = subprocess.run(["docker", "info"], capture_output=True, check=False) if _which("docker") else None
    if done is None or done.returncode:
        pytest.skip("no docker is running, and SLUICEGATE_TEST_CLICKHOUSE names no server")
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    container = DockerContainer("clickhouse/clickhouse-server:25.8").with_exposed_ports(8123)
    container.with_env("CLICKHOUSE_USER", "test").with_env("CLICKHOUSE_PASSWORD", "test")
    container.with_env("CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "1").waiting_for(
        HttpWaitStrategy(8123, "/ping")
    )
    with container as running:
        yield f"http://test:test@{running.get_container_host_ip()}:{running.get_exposed_port(8123)}"


class TestEmbedded(ClickHouseContract, RollupContract):
    """chDB."""

    @pytest.fixture
    def sink(self, server: EmbeddedClickHouse) -> Any:
        return server.connect("sink")


class TestServer(ClickHouseContract, RollupContract):
    """A real server, in a container, or yours by `SLUICEGATE_TEST_CLICKHOUSE=http://user:password@host:8123`."""

    @pytest.fixture
    def sink(self, url: str) -> Any:
        return connect(url, "sink")


def _which(name: str) -> bool:
    return any((Path(folder) / name).exists() for folder in os.environ["PATH"].split(os.pathsep))


# Who may do what.


@pytest.fixture(scope="module")
def filled(server: EmbeddedClickHouse) -> str:
    sink = server.connect("sink")
    ddl.ensure_schema(sink, "filled")
    Sink(lambda: sink, "filled", PlainOpener()).write(one_range(Ledger().many(100)), True)
    return "filled"


OUTFILE = Path(tempfile.gettempdir()) / f"sluicegate-{uuid.uuid4().hex}"
FORBIDDEN = [
    ("INSERT INTO filled.releases (digest, path, body) VALUES ('a', 'b', 'c')", 164),
    ("INSERT INTO filled.releases SELECT 'a', 'b', 'c', now64(6)", 164),
    ("DROP TABLE filled.events", 164),
    ("TRUNCATE TABLE filled.events", 164),
    ("ALTER TABLE filled.events DELETE WHERE 1", 164),
    ("CREATE TABLE filled.mine (a Int8) ENGINE = Memory", 164),
    ("CREATE VIEW filled.mine AS SELECT file('/etc/passwd')", 164),
    ("KILL QUERY WHERE 1", 164),
    ("SYSTEM SHUTDOWN", 164),
    ("OPTIMIZE TABLE filled.events", 164),
    ("SET readonly = 0", 164),
    ("BACKUP TABLE filled.events TO File('/tmp/x')", 164),
    (f"SELECT 1 INTO OUTFILE '{OUTFILE}'", 164),
    ("SELECT 1 SETTINGS readonly = 0", 164),
    ("SELECT 1 SETTINGS max_memory_usage = 0", 164),
    ("SELECT * FROM file('/etc/passwd', LineAsString)", 497),
    ("SELECT * FROM url('http://127.0.0.1:1/', LineAsString)", 164),
    ("SELECT * FROM executable('id', TSV, 'a String')", 164),
    ("SELECT * FROM remote('127.0.0.1', system.one)", 164),
    ("SELECT file('/etc/passwd')", 497),
    ("SELECT FILE('/etc/passwd')", 497),
    ("SELECT /* x */ file /* y */ ('/etc/passwd') -- z", 497),
    ("SELECT `file`('/etc/passwd')", 497),
    ("SELECT `\\x66ile`('/etc/passwd')", 497),
    ("SELECT arrayMap(file, ['/etc/passwd'])", 497),
    ("SELECT * APPLY file FROM (SELECT '/etc/passwd')", 497),
    ("SELECT `it's`, file('/etc/passwd') AS `it's` FROM (SELECT 1 AS `it's`)", 497),
    ("SELECT 1; SELECT file('/etc/passwd')", 62),
    ("EXPLAIN SELECT file('/etc/passwd')", 497),
    ("SELECT count() FROM numbers(3) WHERE file('/etc/passwd') != ''", 497),
]


@pytest.mark.parametrize(
    ("statement", "code"), FORBIDDEN, ids=[s.replace(OUTFILE.name, "x") for s, _ in FORBIDDEN]
)
def test_whoever_is_not_the_sink_reads_tables_only(
    server: EmbeddedClickHouse, filled: str, statement: str, code: int
) -> None:
    for arguments in ({"content": statement}, {"params": {"query": statement}}):
        answer = httpx.post(server.url, **arguments)  # type: ignore[arg-type]
        assert answer.status_code >= 400, answer.text
        assert answer.headers["X-ClickHouse-Exception-Code"] == str(code), answer.text
        assert "root:" not in answer.text
    assert not OUTFILE.exists()
    assert server.connect().query("SELECT count() FROM filled.events").result_rows == [(100,)]


@pytest.mark.parametrize(
    "parameters",
    [
        {"readonly": "0"},
        {"readonly": "2", "query": "SELECT file('/etc/passwd')"},
        {"dialect": "prql"},
        {"format_schema": "/etc/passwd"},
        {"user": "sluicegate_sink"},
        {"user": "sluicegate_sink", "password": "guess"},
        {"user": "default"},
        {"param_f": "file", "query": "SELECT arrayMap({f:Identifier}, ['/etc/passwd'])"},
    ],
    ids=str,
)
def test_no_parameter_makes_a_reader_a_writer(
    server: EmbeddedClickHouse, filled: str, parameters: dict[str, str]
) -> None:
    drop = {"query": "DROP TABLE filled.events", **parameters}
    for answer in (httpx.post(server.url, params=drop), httpx.get(server.url, params=drop)):
        assert answer.status_code >= 400
        assert "root:" not in answer.text
    assert server.connect().query("SELECT count() FROM filled.events").result_rows == [(100,)]


def test_the_key_opens_only_with_post(server: EmbeddedClickHouse, filled: str) -> None:
    who = {"X-ClickHouse-User": "sluicegate_sink", "X-ClickHouse-Key": server.key}
    statement = "CREATE TABLE IF NOT EXISTS filled.by_key (a Int8) ENGINE = Memory"
    assert httpx.get(server.url, params={"query": statement}, headers=who).status_code == 403
    assert httpx.post(server.url, params={"query": statement}, headers=who).status_code == 200
    wrong = httpx.post(server.url, content="SELECT 1", headers={**who, "X-ClickHouse-Key": "x"})
    assert (wrong.status_code, wrong.headers["X-ClickHouse-Exception-Code"]) == (403, "516")


def test_the_key_is_for_this_user_only(server: EmbeddedClickHouse) -> None:
    assert (server._directory / "sink.key").stat().st_mode & 0o777 == 0o600


def test_a_browser_page_under_another_name_is_refused(server: EmbeddedClickHouse) -> None:
    answer = httpx.get(server.url, params={"query": "SELECT 1"}, headers={"Host": "evil.example"})
    assert answer.status_code == 403


def test_a_reader_cannot_take_all_memory_or_time(server: EmbeddedClickHouse) -> None:
    answer = httpx.post(server.url, content="SELECT * FROM system.numbers", timeout=60)
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"
    answer = httpx.post(
        server.url,
        params={"max_execution_time": "1"},
        content="SELECT sum(sipHash64(number)) FROM system.numbers",
        timeout=60,
    )
    assert answer.headers["X-ClickHouse-Exception-Code"] == "159"
    answer = httpx.post(
        server.url, params={"max_memory_usage": "0"}, content="SELECT getSetting('max_memory_usage')"
    )
    assert answer.text.strip() == str(1 << 30)


# As a server.


def test_clickhouse_connect_reads(server: EmbeddedClickHouse, filled: str) -> None:
    client = server.connect(database=filled)
    assert client.query("SELECT count() FROM events").result_rows == [(100,)]
    found = client.query(
        "SELECT {a:Int32} + 1, {b:String}", parameters={"a": 4, "b": "o'x\n\t\\"}
    ).result_rows
    assert found == [(5, "o'x\n\t\\")]
    frame = client.query_df("SELECT seq, decided_at, tool FROM events ORDER BY seq LIMIT 3")
    assert list(frame["seq"]) == [0, 1, 2]
    assert client.command("SELECT count() FROM events") == 100
    assert client.raw_query("SELECT 1 AS x", fmt="JSONEachRow") == b'{"x":1}\n'
    assert client.ping()
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT * FROM nope")
    assert caught.value.code == 60


def test_clickhouse_connect_inserts_in_any_way(server: EmbeddedClickHouse, filled: str) -> None:
    client = server.connect("sink", filled)
    client.command("CREATE TABLE IF NOT EXISTS ways (a Int32, b String) ENGINE = MergeTree ORDER BY a")
    client.insert("ways", [[1, "x"], [2, "y\n;"]], column_names=["a", "b"])
    client.raw_insert("ways", ["a", "b"], b'{"a":3,"b":"z"}\n', fmt="JSONEachRow")
    client.raw_insert("ways", ["a", "b"], iter([b"4\tu\n", b"5\tv\n"]), fmt="TSV")
    client.command("INSERT INTO ways VALUES (6, 'FORMAT Native')")
    client.command("INSERT INTO ways SELECT 7, 'w'")
    client.command("INSERT INTO ways FORMAT CSV", data="8,q\n")
    answer = httpx.post(
        server.url,
        params={"query": "INSERT INTO filled.ways FORMAT JSONEachRow"},
        content=b'{"a":9,"b":"r"}',
        headers={"X-ClickHouse-User": "sluicegate_sink", "X-ClickHouse-Key": server.key},
    )
    assert answer.status_code == 200
    found = client.query("SELECT a, b FROM ways ORDER BY a").result_rows
    assert [a for a, _ in found] == list(range(1, 10))
    assert found[1] == (2, "y\n;")
    assert found[5] == (6, "FORMAT Native")
    with pytest.raises(DatabaseError):
        client.raw_insert("ways", ["a", "b"], b"broken", fmt="JSONEachRow")


def test_curl_reads(server: EmbeddedClickHouse, filled: str) -> None:
    query = "SELECT count() AS n FROM events FORMAT JSONEachRow"
    if _which("curl"):
        done = subprocess.run(
            ["curl", "-si", f"{server.url}/?database={filled}", "-d", query], capture_output=True, check=True
        )
        text = done.stdout.decode()
    else:
        answer = httpx.post(server.url, params={"database": filled}, content=query)
        text = f"{answer.headers}\n{answer.text}"
    assert '{"n":100}' in text.replace('"100"', "100")
    for header in ("X-ClickHouse-Format: JSONEachRow", "X-ClickHouse-Summary", "X-ClickHouse-Timezone"):
        assert header.lower() in text.lower()


def test_a_request_that_is_too_large_is_refused(
    server: EmbeddedClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = httpx.post(
        server.url, content=b"SELECT '" + b"x" * chdb_server.BODY_MAX_BYTES + b"'", timeout=60
    )
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"
    assert server.connect().command("SELECT 1") == 1


# As a process.


def test_one_process_owns_a_directory(server: EmbeddedClickHouse) -> None:
    second = EmbeddedClickHouse(server._directory.parent)
    assert second.start() == server.url
    assert second.pid == server.pid
    command = [
        sys.executable,
        "-m",
        "sluicegate.sinks.chdb_server",
        "--data",
        str(server._directory / "data"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 1
    assert "in use by another process" in done.stderr


def test_stop_keeps_the_data_and_the_port(tmp_path: Path) -> None:
    server = EmbeddedClickHouse(tmp_path)
    before = server.start()
    sink = server.connect("sink")
    ddl.ensure_schema(sink, "dev")
    Sink(lambda: sink, "dev", None).write(one_range(Ledger().many(8)), True)
    key = server.key
    server.stop()
    assert not server.running
    try:
        assert server.start() == before
        assert server.key == key
        assert server.connect(database="dev").command("SELECT count() FROM events") == 8
    finally:
        server.stop()
    with pytest.raises(Retryable, match="does not answer"):
        server.connect()


def test_a_port_somebody_took_is_given_up(tmp_path: Path) -> None:
    server = EmbeddedClickHouse(tmp_path)
    before = server.start()
    server.stop()
    with socket.create_server(("127.0.0.1", int(before.rpartition(":")[2]))):
        try:
            assert server.start() != before
            assert server.connect().command("SELECT 1") == 1
        finally:
            server.stop()


def test_it_ends_with_whoever_started_it_even_by_sigkill(tmp_path: Path) -> None:
    code = (
        "import sys, time, threading, pathlib; from sluicegate.sinks.embedded import EmbeddedClickHouse\n"
        "def run():\n    print(EmbeddedClickHouse(pathlib.Path(sys.argv[1])).start(), flush=True)\n"
        # Started by a thread that ends: the server must not end with that.
        "t = threading.Thread(target=run); t.start(); t.join(); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().decode().strip()
        server = EmbeddedClickHouse(tmp_path)
        assert server.url == url
        assert httpx.get(f"{url}/ping").text == "Ok.\n"
        process = psutil.Process(server.pid)
        parent.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
    assert not server.running


def test_settings_name_the_database_and_the_server(server: EmbeddedClickHouse, filled: str) -> None:
    home = server._directory.parent
    assert database(Settings(env="staging", home=home)) == "staging"
    assert database(Settings(env="staging", home=home, clickhouse="http://h:1/other")) == "other"
    assert (
        connect(Settings(env="dev", home=home), "reader", filled).command("SELECT count() FROM events") == 100
    )
    assert connect(Settings(env="dev", home=home, clickhouse=server.url)).command("SELECT 1") == 1
    with pytest.raises(Retryable, match=r"127\.0\.0\.1:1"):
        connect("http://somebody:secret@127.0.0.1:1")
    with pytest.raises(Terminal, match="sluicegate up"):
        connect(Settings(env="dev", home=home / "nowhere"))


# The sink on it, killed.


@pytest.mark.parametrize("table", [t.name for t in tables.LEDGER_TABLES])
def test_clickhouse_killed_around_an_insert(tmp_path: Path, table: str) -> None:
    """SIGKILL of the server right after an insert was answered, and of the sink with it; then both again."""
    from sluicegate.sinks import clickhouse, ranges

    server = EmbeddedClickHouse(tmp_path)
    server.start()
    ledger = Ledger()
    written = [*ledger.many(300), ledger.raw(b"garbage"), *ledger.many(300)]
    kafka = FakePartition(written)

    class Killing:
        """Kills the server after the first insert into the table."""

        def __init__(self) -> None:
            self._client = server.connect("sink")
            self.query = self._client.query
            self.command = self._client.command

        def raw_insert(self, into: str, **more: Any) -> None:
            self._client.raw_insert(into, **more)
            if into.endswith(f"`{table}`"):
                server.kill()
                raise Killed

    async def life(make: Any) -> None:
        sink = Sink(make, "dev", PlainOpener())
        projection = clickhouse.Projection(
            FakeSource(kafka, 97), sink, clickhouse.Counters(), asyncio.Semaphore(2)
        )
        task = asyncio.create_task(projection.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while projection.lag:
                    if projection._writing is not None and projection._writing.done():
                        projection._writing.result()
                    await asyncio.sleep(0.002)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    try:
        ddl.ensure_schema(server.connect("sink"), "dev")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranges, "RANGE_ROWS", 100)
            with pytest.raises(Killed):
                asyncio.run(life(Killing))
            server.start()
            asyncio.run(life(lambda: server.connect("sink")))
        client = server.connect(database="dev")
        assert client.query("SELECT count(), uniqExact(seq) FROM events").result_rows == [(600, 600)]
        assert client.query("SELECT sum(n), sum(rejects), sum(contents) FROM ingest_batches").result_rows == [
            (600, 1, 150)
        ]
        assert client.query("SELECT count(), uniqExact(seq) FROM contents").result_rows == [(150, 150)]
        assert client.query("SELECT min(same_hash), min(found = expected) FROM ingest_audit").result_rows == [
            (1, 1)
        ]
    finally:
        server.stop()


def test_it_is_quick_to_come_back(tmp_path: Path) -> None:
    server = EmbeddedClickHouse(tmp_path)
    server.start()
    try:
        server.kill()
        started = time.monotonic()
        server.start()
        assert time.monotonic() - started < LIMIT_S
    finally:
        server.stop()
