"""Each check of `doctor` can say ok and can say what is wrong."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sluicegate.schemas.topics import TOPICS
from sluicegate.streams import cli
from sluicegate.streams import doctor as d
from sluicegate.streams import doctor_machine as here
from sluicegate.streams.embedded.jars import JARS_SHA256
from sluicegate.streams.roles import ROLES
from sluicegate.streams.settings import Settings
from typer.testing import CliRunner


def test_python_disk_and_clock_have_limits() -> None:
    assert [here.python(v).verdict for v in ((3, 10), (3, 11), (3, 14))] == ["fail", "ok", "ok"]
    verdicts = [here.disk(Path("x"), mb).verdict for mb in (1_023, 1_024, 10_239, 10_240)]
    assert verdicts == ["fail", "warn", "warn", "ok"]
    now = 1_795_000_000_000_000
    behind = (0, 1_000_001, 5_000_000, 5_000_001)
    assert [d.clock(now, now + us).verdict for us in behind] == ["ok", "warn", "warn", "fail"]
    assert d.clock(now, 0).found == "the ledger is empty"


def test_control_without_genesis_or_release() -> None:
    assert [(c.name, c.verdict) for c in d.governed(-1, "", 0, "")] == [("control", "fail")]
    assert [(c.name, c.verdict) for c in d.governed(0, "", 4, "")] == [("control", "ok"), ("release", "warn")]
    found = list(d.governed(3, "sha256:0123456789abcdef", 4, "example 1"))
    assert [c.verdict for c in found] == ["ok", "ok"]
    assert "example 1 sha256:0123456789ab" in found[1].found


def test_jars_are_counted(tmp_path: Path) -> None:
    assert here.jars(None).verdict == "fail"
    assert here.jars(tmp_path).found == f"{len(JARS_SHA256)} of {len(JARS_SHA256)} are not cached"
    for coordinates in JARS_SHA256:
        group, name, version = coordinates.split(":")
        jar = tmp_path.joinpath(*group.split("."), name, version, f"{name}-{version}.jar")
        jar.parent.mkdir(parents=True)
        jar.touch()
    assert here.jars(tmp_path).verdict == "ok"
    jar.unlink()
    assert here.jars(tmp_path).found.startswith("1 of ")


class Health(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps({"alive": False, "problem": "partition 2 stopped: input_lost"}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_roles_are_asked(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(c.verdict, c.found) for c in d.roles(tmp_path)] == [("warn", "no process here")] * len(ROLES)
    folder = tmp_path / "roles"
    folder.mkdir()
    file = folder / f"ledger-{os.getpid()}.json"
    file.write_text(json.dumps({"pid": os.getpid(), "port": port}))
    assert d.roles(tmp_path)[0].verdict == "ok"
    monkeypatch.setattr(Health, "status", 503)
    sick = d.roles(tmp_path)[0]
    assert (sick.verdict, "partition 2 stopped: input_lost" in sick.found) == ("fail", True)
    file.write_text(json.dumps({"pid": os.getpid(), "port": 1}))
    assert "does not answer" in d.roles(tmp_path)[0].found
    file.write_text(json.dumps({"pid": 2**22 + 1, "port": port}))  # above the largest pid
    assert "gone" in d.roles(tmp_path)[0].found
    file.write_text("{")
    assert d.roles(tmp_path)[0].verdict == "warn"


def test_nothing_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEGATE_HOME", str(tmp_path / "deep" / "er"))
    for name in ("SLUICEGATE_KAFKA", "SLUICEGATE_CLICKHOUSE"):
        monkeypatch.delenv(name, raising=False)
    ran = CliRunner().invoke(cli.app, ["doctor", "-o", "json"])
    checks = {row["check"]: row for row in json.loads(ran.output)}
    assert ran.exit_code == 1
    assert checks["kafka"]["verdict"] == checks["clickhouse"]["verdict"] == "fail"
    assert "sluicegate up" in checks["kafka"]["what to do"]
    assert checks["java"]["verdict"] == checks["python"]["verdict"] == "ok"
    assert not (tmp_path / "deep").exists()  # it changed nothing
    assert all(row["what to do"] for row in checks.values() if row["verdict"] != "ok")


def test_your_own_kafka_is_asked_whether_it_is_up(tmp_path: Path) -> None:
    found = {c.name: c for c in d.examine(Settings(home=tmp_path, kafka="127.0.0.1:1"))}
    assert found["kafka"].verdict == "fail"
    assert "java" not in found  # not needed


def test_a_new_cluster_lacks_topics_then_a_release(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(env="doctor", home=tmp_path, kafka=kafka, partitions=2)
    found = {c.name: c for c in d.examine(settings)}
    assert found["kafka"].verdict == "ok"
    assert (found["topics"].verdict, f"and {len(TOPICS) - 3} more" in found["topics"].found) == ("fail", True)
    for name, value in (("ENV", "doctor"), ("HOME", str(tmp_path)), ("KAFKA", kafka), ("PARTITIONS", "2")):
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    assert CliRunner().invoke(cli.app, ["topics", "create"]).exit_code == 0
    found = {c.name: c for c in d.examine(settings)}
    verdicts = {name: found[name].verdict for name in ("topics", "control", "release", "clock")}
    assert verdicts == {"topics": "ok", "control": "ok", "release": "warn", "clock": "ok"}
