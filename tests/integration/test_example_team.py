"""Example 03 on the embedded stack: the same walk as in memory, a person's word by the command line, five answers in SQL."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from sluicegate.streams.settings import Settings

from tests.unit.test_examples_team import judge

example = importlib.import_module("examples.03_team.__main__")


def test_the_team_on_the_stack(kafka: str, tmp_path: Path) -> None:
    settings = replace(Settings.from_env({"SLUICEGATE_HOME": str(tmp_path)}), kafka=kafka, env="team")
    walk, answers = example.run(settings, lambda _: None)
    judge(walk)
    calls, refusals, people, asked, whole = answers.values()
    assert ("payer-1", "send_money", "released", "") in calls
    assert ("payer-1", "send_money", "authorize", "no_permit", 1) in refusals
    assert ("reader-1", "send_money", "authorize", "no_permit", 1) in refusals
    assert people == [("send_money", "approved", "ana", 1)]
    assert asked == [("payer-1", 4), ("reader-1", 2)]
    assert whole == [(1,)]
