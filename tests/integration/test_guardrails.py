"""Guardrail plug-ins through a real broker and a real executor: one that refuses, hangs, crashes, is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import yaml
from sluicegate.executors.guardrail import GuardrailAdapter
from sluicegate.schemas.records import Reply
from sluicegate.streams.cli import app
from typer.testing import CliRunner

from tests.driver import AGENT, release_files
from tests.integration.gate import Gate, Loop, intent, new_settings, running

HERE = "tests.unit.guardrail_plugins"
PLUGINS = {"careful": f"{HERE}:refuses_all", "hangs": f"{HERE}:hangs", "crashes": f"{HERE}:crashes"}


def rule(value: str, plugin: str, on_failure: str = "refuse", timeout_ms: int = 25_000) -> dict[str, object]:
    return {
        "id": f"rule-{value}", "on": "call", "tools": ["desk.*"], "plugin": plugin, "timeout_ms": timeout_ms,
        "on_failure": on_failure, "when": f"has(args.value) && args.value == '{value}'",
    }  # fmt: skip


RULES = [
    rule("refuse", "careful"),
    rule("hang", "hangs", timeout_ms=2_000),
    rule("crash", "crashes"),
    rule("crash-pass", "crashes", on_failure="pass"),
    rule("missing", "nobody-installed-it"),
]


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = new_settings(kafka, tmp_path_factory.mktemp("home"))
    files = dict(release_files())
    files["release.yaml"] += yaml.safe_dump({"guardrails": RULES, "derail": {"same_call": 3}})
    plugins = GuardrailAdapter(PLUGINS, environ=os.environ)
    people = [("people.registered", {"people": [{"person_id": "ana", "name": "Ana", "roles": []}]})]
    with running(settings, files=files, adapters={"guardrail": plugins}, control=people) as (loop, made):
        loop.run(made.open_session())
        yield loop, made


WAITED = ["routed", "permitted", "validated", "waiting"]


@pytest.mark.parametrize(
    ("value", "status", "reason", "life"),
    [
        (
            "nothing",
            "released",
            "",
            ["routed", "permitted", "validated", "dispatched", "claimed", "released"],
        ),
        ("refuse", "refused", "guardrail", [*WAITED, "refused"]),
        ("hang", "refused", "guardrail_failed", [*WAITED, "refused"]),
        ("crash", "refused", "guardrail_failed", [*WAITED, "refused"]),
        ("crash-pass", "released", "", [*WAITED, "validated", "dispatched", "claimed", "released"]),
        ("missing", "refused", "guardrail_failed", [*WAITED, "refused"]),
    ],
)
def test_plug_ins(shared: tuple[Loop, Gate], value: str, status: str, reason: str, life: list[str]) -> None:
    loop, gate = shared
    asked = intent("desk.pay", {"value": value})

    async def scenario() -> Reply:
        return await gate.ask(asked)

    calls = gate.adapter.called.total()
    reply = loop.run(scenario())
    assert (reply.status, reply.reason) == (status, reason)
    assert gate.life(asked.intent_id) == life
    # INVARIANT: a refused call never reached the tool.
    assert gate.adapter.called.total() == calls + (status == "released")


def test_a_halted_session_is_resumed_from_the_command_line(
    shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, gate = shared
    loop.run(gate.open_session(session="circles"))
    for name, value in (
        ("KAFKA", gate.settings.kafka),
        ("ENV", gate.settings.env),
        ("HOME", str(gate.settings.home)),
    ):
        monkeypatch.setenv(f"SLUICEGATE_{name}", str(value))

    def call() -> tuple[str, str]:
        reply = loop.run(gate.ask(intent("desk.read", {"value": "again"}, session="circles")))
        return reply.status, reply.reason

    def listed(*more: str) -> list[dict[str, object]]:
        done = CliRunner().invoke(app, ["sessions", "list", *more, "-o", "json"])
        assert done.exit_code == 0, done.output
        return list(json.loads(done.output))

    def resume(person: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["sessions", "resume", "circles", "--agent", AGENT, "--as", person])
        return done.exit_code, done.output

    assert [call() for _ in range(4)] == [
        ("released", ""), ("released", ""), ("refused", "loop"), ("refused", "halted"),
    ]  # fmt: skip
    (row,) = listed("--halted")
    assert (row["session_id"], row["agent_id"], row["halted"], row["calls"]) == ("circles", AGENT, "loop", 2)
    assert {r["session_id"] for r in listed()} > {"circles"}
    assert listed("--halted", "--agent", "somebody-else") == []
    code, said = resume("nobody")
    assert (code, said.startswith("not resumed: unknown_person.")) == (1, True)
    assert call() == ("refused", "halted")
    code, said = resume("ana")
    assert (code, said.startswith("resumed session `circles`")) == (0, True)
    assert call() == ("released", "")
    assert resume("ana")[0] == 1
    assert listed("--halted") == []


def test_the_ledger_is_intact(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared
    loop.run(gate.intact())
