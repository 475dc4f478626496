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
from tests.integration import test_walkthroughs as walk

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
        for command, lines in walk.steps("operations"):
            said = walk.run(command.replace("@RUN", f"@{RUN}"), 0)
            gone = walk.missing([line.replace("@RUN", f"@{RUN}") for line in lines], "", said)
            assert not gone, f"$ {command}\nsaid\n{said}\nand not\n" + "\n".join(gone)
        guest = f"slack-0003@{RUN}:4"
        found = json.loads(run(guest, "--cascade", "--partial", "-o", "json", code=1))
        done = {row["intent_id"]: row["undo_tool"] for row in found["calls"] if row["stands"] == "done"}
        assert done == {f"slack-0003@{RUN}:8": "slack.remove_user_from_slack"}
        assert {row["intent_id"] for row in found["cannot"]} == {
            f"slack-0003@{RUN}:9",
            f"slack-0003@{RUN}:10",
        }
