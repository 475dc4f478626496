"""The commands that docs/operations.md shows on the demo's traffic: two recorded sessions, and taken back what they did."""

from __future__ import annotations

import asyncio
import json

import pytest
from sluicegate.streams import demo, stack
from sluicegate.streams.cli import app
from sluicegate.streams.fleet import Fleet
from typer.testing import CliRunner

from tests.crash.harness import PARTITIONS, world

RUN = "r"
SESSIONS = {f"airline-0036@{RUN}", f"slack-0003@{RUN}"}


def test_the_cascades_of_the_docs(
    kafka: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = demo.examples()
    home = tmp_path_factory.mktemp("rollback-demo")
    scripts = [script for script in demo.scripts(examples, RUN) if script.session_id in SESSIONS]

    async def play() -> None:
        async with Fleet(made.settings, PARTITIONS) as fleet:
            await fleet.play(scripts, lambda _: None)

    def run(*arguments: str, code: int) -> str:
        done = CliRunner().invoke(app, ["rollback", "call", *arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    with world(kafka, "", home, examples / "release", {"ledger": 1, "executor": 1}, each=1) as made:
        asyncio.run(play())
        for name, value in {
            **stack.environment_of(made.settings),
            "SLUICEGATE_PARTITIONS": str(PARTITIONS),
        }.items():
            monkeypatch.setenv(name, value)
        said = run(f"airline-0036@{RUN}:25", "--cascade", code=0)
        before, after = said.split("after: ")
        assert before.count("took it back already") == 2, (
            "the traveller changed his mind twice, and his agent cancelled two"
        )
        assert before.count("to do: airline.cancel_reservation") == after.count(", read back") == 1
        assert "1 taken back, nothing is left" in after
        guest = f"slack-0003@{RUN}:4"
        assert "nothing was done" in run(guest, "--cascade", code=1)
        found = json.loads(run(guest, "--cascade", "--partial", "-o", "json", code=1))
        done = {row["intent_id"]: row["undo_tool"] for row in found["calls"] if row["stands"] == "done"}
        assert done == {f"slack-0003@{RUN}:8": "slack.remove_user_from_slack"}
        assert {row["intent_id"] for row in found["cannot"]} == {
            f"slack-0003@{RUN}:9",
            f"slack-0003@{RUN}:10",
        }
