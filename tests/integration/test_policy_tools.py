"""An agent from observing to enforcing, on a real Kafka: suggest, check, backtest, deploy; first contracts off the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operations import operator
from typer.testing import CliRunner

from tests.driver import release_files
from tests.integration.gate import Gate, Loop, intent, new_settings, running

NEW = "new-clerk"
SESSION = "s-new"
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def gate(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = new_settings(kafka, tmp_path_factory.mktemp("gate"), partitions=1)
    with running(settings) as pair:
        yield pair


@pytest.fixture
def command(gate: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the gate's environment: exit code, and what it printed. Then the gate has read control."""
    loop, made = gate
    for name, value in {**stack.environment_of(made.settings), "SLUICEGATE_PARTITIONS": "1"}.items():
        monkeypatch.setenv(name, value)

    async def caught_up() -> None:
        head = (await control_log.read(made.settings)).control.head
        await made.service.control.wait_for(head)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        loop.run(caught_up())
        return done.exit_code, done.stdout

    return run


def folder(tmp_path: Path, name: str, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_text(text)
    return tmp_path / name


def test_an_agent_goes_from_observing_to_enforcing(
    gate: tuple[Loop, Gate], command: Command, tmp_path: Path
) -> None:
    loop, made = gate
    files = release_files()
    files["release.yaml"] = files["release.yaml"].replace("roles:\n", "roles:\n  - newcomers\n")
    assert command("people", "register", operator(), "--role", "operator")[0] == 0
    assert command("agents", "register", NEW, "--role", "newcomers")[0] == 0
    loop.run(made.open_session(NEW, SESSION))

    def ask(tool: str, value: str) -> str:
        reply = loop.run(made.ask(intent(tool, {"value": value}, agent=NEW, session=SESSION)))
        return f"{reply.status} {reply.reason}".strip()

    # desk.never is permitted to nobody: observed, it runs all the same and is recorded.
    assert ask("desk.never", "a") == "refused no_permit"
    assert command("mode", "set", "agent", NEW, "observe", "--why", "first week")[0] == 0
    assert {ask("desk.never", "card_1"), *(ask("desk.never", f"card_{n}") for n in range(2, 7))} == {
        "released"
    }

    policies = command("policy", "suggest", "--min-calls", "2")[1]
    assert 'permit (principal in Role::"newcomers", action == Action::"desk.never", resource)' in policies
    assert 'context.args has value && context.args.value like "card_*"' in policies
    assert command("policy", "suggest", "--min-calls", "2", "--agent", NEW)[1] == policies
    with pytest.raises(Terminal, match="nothing was observed"):
        command("policy", "suggest", "--agent", "somebody-else")
    candidate = folder(tmp_path, "candidate", files)
    code, said = command("policy", "suggest", "--release", str(candidate), "--out", str(candidate))
    assert code == 0 and "wrote 1 file(s)" in said
    assert command("release", "check", str(candidate))[0] == 0

    diff = ("replay", "--mode", "diff", "--release", str(candidate), "-o", "json")
    code, said = command(*diff)
    found = json.loads(said)
    assert (code, found["changed"], found["erased"]) == (0, 0, 0)
    assert found["policies_only"] == 6  # what was only observed would be permitted by policy

    none = folder(
        tmp_path,
        "none",
        {
            **files,
            "policies/no.cedar": '@id("no") forbid (principal, action == Action::"desk.never", resource);',
        },
    )
    written = tmp_path / "diff.xml"
    code, said = command(
        "replay", "--mode", "diff", "--release", str(none), "--junit", str(written), "-o", "json"
    )
    found = json.loads(said)
    assert (code, found["changed"]) == (1, 1)  # what nobody permitted is now forbidden: another reason
    assert found["groups"][0]["now"]["policies"] == ["no"] and "desk.never" in written.read_text()
    assert command("replay", "--mode", "diff", "--release", str(none), "--expect-changes")[0] == 0
    assert command("replay", "--mode", "check")[0] == 0

    assert command("deploy", str(candidate), "--now", "--why", "observed for a week")[0] == 0
    assert command("mode", "set", "agent", NEW, "enforce")[0] == 0
    assert ask("desk.never", "card_9") == "released"
    assert ask("desk.never", "iban_1") == "refused no_permit"


def test_first_contracts_off_the_ledger(gate: tuple[Loop, Gate], command: Command, tmp_path: Path) -> None:
    """A shadowed agent asks for tools that no contract names; they are refused, and known."""
    loop, made = gate
    for n in range(3):
        asked = intent("shadow.pay", {"iban": f"DE{n}", "amount": n + 0.5}, session="session-1")
        loop.run(made.open_session(session=f"shadow-{n}"))
        asked.session_id = f"shadow-{n}"
        assert loop.run(made.ask(asked)).reason == "unknown_tool"
    code, said = command("release", "init", str(tmp_path / "first"), "--from-ledger", "--prefix", "shadow.")
    assert code == 0 and "1 contracts" in said
    contract = json.loads((tmp_path / "first" / "contracts" / "shadow.pay.json").read_text())
    assert contract["inputSchema"]["properties"] == {"amount": {"type": "number"}, "iban": {"type": "string"}}
    assert contract["x-sluicegate"]["protected"] == {"amount": "amount", "iban": "account"}
    assert command("release", "check", str(tmp_path / "first"))[0] == 0
