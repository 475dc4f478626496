"""Taking a call back on a real Kafka: shown, done once, and refused where it cannot be."""

from __future__ import annotations

import json

import pytest
from sluicegate.streams import control_log, releases, stack
from sluicegate.streams.cli import app
from typer.testing import CliRunner

from tests.driver import release_files
from tests.integration import gate as gates
from tests.integration.gate import Gate, intent

PATH = "contracts/desk.pay.json"


async def deploy(gate: Gate) -> None:
    contract = json.loads(release_files()[PATH])
    contract["x-sluicegate"]["compensate"] = {"tool": "desk.set", "arguments": {"value": "$.args.value"}}
    digest = await releases.publish(gate.settings, {**release_files(), PATH: json.dumps(contract)})
    about = {"digest": digest, "name": "with a way back", "version": "1"}
    events: list[tuple[str, dict[str, object]]] = [("release.published", about), ("release.deployed", {"digest": digest})]  # fmt: skip
    head = await control_log.append(gate.settings, gate.keys, events, who="a test", why="a test")
    await gate.service.control.wait_for(head)


def test_a_call_is_taken_back_once(
    kafka: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("rollback"))
    with gates.running(settings) as (loop, gate):
        loop.run(deploy(gate))
        agent = gate.everywhere()[0]
        loop.run(gate.open_session(agent))
        for name, value in {**stack.environment_of(settings), "SLUICEGATE_PARTITIONS": "2"}.items():
            monkeypatch.setenv(name, value)

        def run(*arguments: str, code: int = 0) -> str:
            done = CliRunner().invoke(app, ["rollback", "call", *arguments])
            assert done.exit_code == code, (done.output, done.exception)
            return done.stdout

        paid, refused, plain = (intent(t, {"value": v}, agent=agent) for t, v in (("desk.pay", "7"), ("desk.pay", "no"), ("desk.set", "1")))  # fmt: skip
        for one in (paid, refused, plain):
            loop.run(gate.ask(one))
        before = sum(gate.adapter.called.values())
        assert 'would call `desk.set` {"value": "7"}' in run(paid.intent_id, "--dry-run")
        assert "nothing happened" in run(refused.intent_id, code=1)
        assert "has no `compensate`" in run(plain.intent_id, code=1)
        assert sum(gate.adapter.called.values()) == before
        assert "taken back by" in run(paid.intent_id)
        assert "asked before" in run(paid.intent_id)
        assert sum(gate.adapter.called.values()) == before + 1
        loop.run(gate.intact())
