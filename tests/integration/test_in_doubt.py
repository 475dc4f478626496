"""Calls in doubt on a real Kafka: listed from the ledger, settled by a person's command, told to the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sluicegate.executors.adapter import Answer, Failed
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.records import Dispatch
from sluicegate.streams import stack
from sluicegate.streams.cli import app
from typer.testing import CliRunner

from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, intent

PERSON = ("people.registered", {"people": [{"person_id": "ana", "name": "Ana", "roles": []}]})


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("in-doubt"))
    with gates.running(settings, control=[PERSON]) as pair:
        loop, gate = pair
        for agent in gate.everywhere():
            loop.run(gate.open_session(agent))
        yield pair


async def _silent(_: Dispatch) -> Answer:
    return Failed("timeout", "nobody heard the answer")


def test_listed_settled_and_told(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, gate = shared
    for name, value in {**stack.environment_of(gate.settings), "SLUICEGATE_PARTITIONS": "2"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["in-doubt", *arguments])
        if isinstance(done.exception, Exception):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    gate.adapter._behave = _silent
    lost = {agent: intent("desk.pay", agent=agent) for agent in gate.everywhere()}
    for one in lost.values():
        assert loop.run(gate.ask(one)).status == "in_doubt"
    rows = {row["intent_id"]: row for row in json.loads(run("list", "-o", "json"))}
    assert set(rows) == {one.intent_id for one in lost.values()}, "of every partition"
    for row in rows.values():
        assert gate.adapter.called[row["idempotency_key"]] == 1, "the key the tool was sent"
    (agent, first), *_ = lost.items()
    mine = ["--agent", agent, "--as", "ana"]
    assert "would resolve" in run("resolve", first.intent_id, "happened", *mine, "--dry-run")
    assert "not_in_doubt" in run("resolve", "nobody-asked", "happened", *mine, code=1)
    assert "unknown_person" in run(
        "resolve", first.intent_id, "happened", "--agent", agent, "--as", "bob", code=1
    )
    for wrong in (["perhaps"], ["happened", "--result", "{"], ["did-not-happen", "--result", "{}"]):
        with pytest.raises(Terminal):
            run("resolve", first.intent_id, *wrong, *mine)
    before = len(gate.replies)
    run(
        "resolve",
        first.intent_id,
        "happened",
        *mine,
        "--result",
        '{"paid": true}',
        "--why",
        "on the statement",
    )
    _, told = loop.run(gate.answer(first.intent_id, before))
    assert (told.status, told.reason, told.result) == ("resolved", "happened", b'{"paid": true}')
    assert [row["intent_id"] for row in json.loads(run("list", "--agent", agent, "-o", "json"))] == []
    for other, one in lost.items():
        if other != agent:
            before = len(gate.replies)
            run("resolve", one.intent_id, "did-not-happen", "--agent", other, "--as", "ana")
            loop.run(gate.answer(one.intent_id, before))
    assert json.loads(run("list", "-o", "json")) == []
    assert sum(gate.adapter.called.values()) == len(lost), "nothing was called again"
    loop.run(gate.intact())
