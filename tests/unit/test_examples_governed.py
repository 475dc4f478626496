"""The ladder's second step: three lines govern an agent of each framework, and both files of each pair run as they say."""

from __future__ import annotations

import difflib
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMEWORKS = ("langgraph", "openai_agents", "pydantic_ai")
MAX_CHANGED = 3
"""Lines of the governed file that the ungoverned one has not."""


def changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """(lines that went, lines that came)."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [x[2:] for x in lines if x.startswith("- ")], [x[2:] for x in lines if x.startswith("+ ")]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_three_lines_govern_it(framework: str) -> None:
    folder = EXAMPLES / f"02_{framework}"
    went, came = changed(
        (folder / "ungoverned.py").read_text("utf-8"), (folder / "governed.py").read_text("utf-8")
    )
    assert len(came) <= MAX_CHANGED and len(went) <= 1, came


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_both_files_run(
    framework: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICEGATE_LOCAL", str(EXAMPLES / "refunds"))

    def run(file: str, amount: int) -> str:
        monkeypatch.setattr(sys, "argv", [file, str(amount)])
        runpy.run_module(f"examples.02_{framework}.{file}", run_name="__main__")
        return capsys.readouterr().out

    assert "the till pays 5000" in run("ungoverned", 5000)
    assert "the till pays 12" in run("governed", 12)
    refused = run("governed", 5000)
    assert "not permitted" in refused and "till" not in refused


def test_changed_lines_are_counted() -> None:
    assert changed("a\nb\nc", "a\nB\nc\nd") == (["b"], ["B", "d"])
