"""The ladder of examples as far as it needs no broker: 01 runs, three lines govern an agent of each framework in 02, 04 is CI."""

from __future__ import annotations

import difflib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text("utf-8")
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
    framework: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
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
    [why] = [line for line in caplog.messages if line.startswith("refund: refused")]
    assert "`refund-small` fails on `amount <= 100`, got 5000" in why
    if framework == "langgraph":  # what the README says that it says
        shown = [line[2:] for line in README.splitlines() if line.startswith("# ")]
        assert any(line.endswith(" …") and why.startswith(line.removesuffix("…").strip()) for line in shown)
        assert any(line.startswith(refused.strip()) for line in shown)


def test_changed_lines_are_counted() -> None:
    assert changed("a\nb\nc", "a\nB\nc\nd") == (["b"], ["B", "d"])


def test_01_local_says_what_a_policy_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert len((EXAMPLES / "01_local" / "local.py").read_text("utf-8").splitlines()) <= 10
    runpy.run_module("examples.01_local.local", run_name="__main__")
    small, held, refused = capsys.readouterr().out.splitlines()
    assert small.startswith("12 permitted") and held.startswith("500 held") and "got 5000" in refused


def test_04_release_in_ci() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        [EXAMPLES / "04_release" / "ci.sh"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("4 passed, 0 failed") == 2
    assert 'refund {"order": "8", "amount": 80}: permit -> hold' in ran.stdout
    assert "6 calls, 2 decided otherwise" in ran.stdout


def test_a_governed_langgraph_agent_takes_five_commands_at_most() -> None:
    """From `git clone` to an agent that refuses a call, as the README has it: the fourth, which is run above."""
    block = re.search(r"<!-- five commands -->\n```sh\n(.*?)```", README, re.S)
    assert block is not None
    commands = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    assert commands[0].startswith("git clone") and 0 < len(commands) <= 5
    assert all("&&" not in c.split("#")[0] and ";" not in c.split("#")[0] for c in commands)
    assert "SLUICEGATE_LOCAL=examples/refunds" in commands[3] and "02_langgraph.governed 5000" in commands[3]
    targets = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{c.split()[1]}:", targets, re.M) for c in commands if c.startswith("make"))
