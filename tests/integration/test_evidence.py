"""`sluicegate evidence` on a real Kafka: a driver's ledger and signed heads are published, read and judged by the bundle's own file."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from sluicegate.processors.transparency.checkpoints import CONTROL
from sluicegate.schemas import codec
from sluicegate.streams.cli import app
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import topic as checkpoint_topic
from typer.testing import CliRunner

from tests import bundles
from tests.driver import AGENT, Driver
from tests.integration.test_ledger_tools import _connect, driver, publish, run, settings

__all__ = ["driver", "settings"]


def test_evidence_from_kafka_is_checked_alone(
    settings: Settings, driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command reads it, the bundle's own verify.py judges it in a process that cannot import Sluicegate."""
    bundles.key_added(driver)
    run(lambda: publish(settings, driver))
    at = driver.now // 10**6 + 86_400
    log_id = driver.control.log_id
    heads = [(p, bundles.head(driver, p, n, at)) for p, n in ((CONTROL, len(driver.control_records)), (0, 40), (0, len(driver.records)))]  # fmt: skip

    async def show() -> None:
        producer = await _connect(settings)
        for partition, head in heads:
            value = codec.encode(checkpoint_topic.record_of(log_id, partition, head))
            await producer.send_and_wait(f"{settings.env}.checkpoints", value)
        await producer.stop()

    run(show)
    policy, bundle, kept = tmp_path / "policy.txt", tmp_path / "bundle.zip", tmp_path / "kept.txt"
    policy.write_text(bundles.POLICY)
    kept.write_text(str(heads[1][1].note))
    for name, value in (("ENV", settings.env), ("HOME", str(settings.home)), ("KAFKA", settings.kafka or "")):
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    asked = ["evidence", "--from", "2026-11-18", "--to", "2026-11-19", "--policy", str(policy)]

    def made(*more: str) -> str:
        done = CliRunner().invoke(app, [*asked, "-o", str(bundle), *more])
        return done.stdout if done.exit_code == 0 else str(done.exception)

    assert "is not registered" in made("--agent", "nobody")
    assert "has no events from" in made("--agent", AGENT, "--from", "2026-01-01", "--to", "2026-01-02")
    assert "--to has to be later" in made("--agent", AGENT, "--to", "2026-11-01")
    assert "no key store" in made("--agent", AGENT, "--disclose", "secret") and not bundle.exists()
    assert made("--agent", AGENT, "--kept", str(kept)).startswith("VALID: ")
    assert "is not overwritten" in made("--agent", AGENT)
    script = tmp_path / "alone" / "verify.py"
    script.parent.mkdir()
    with zipfile.ZipFile(bundle) as archive:
        script.write_bytes(archive.read("verify.py"))
        page = archive.read("summary.html").decode()
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(bundle), "--kept", str(kept), "--json"],
        capture_output=True, text=True, check=False, cwd=script.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["verdict"] == "VALID" and said["counts"]["events"] > 300
    assert said["heads"]["0"]["size"] == len(driver.records) and said["heads"]["0"]["witnesses"] == ["ops"]
