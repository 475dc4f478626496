"""`sluicegate init`: the project is made, its agent runs, its tests and its release's pass, and CI names commands that exist."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.cli import app
from sluicegate.streams.new_project import FRAMEWORKS, PLACES, project_files
from typer.testing import CliRunner


def done(*arguments: str) -> str:
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.output


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_new_project_runs(framework: str, tmp_path: Path) -> None:
    folder = tmp_path / "my-desk"
    said = done("init", str(folder), "--framework", framework)
    done("release", "check", str(folder / "release"))
    assert "4 passed, 0 failed" in done("release", "test", str(folder / "release"))
    enter, try_it, test_it = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    # What it says comes next is run as it stands there, by a shell that has no environment activated.
    env = {**os.environ, "PATH": os.defpath}
    ran = subprocess.run(
        f"{enter} && {try_it}", shell=True, env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and ran.stdout.startswith("no: "), ran.stderr
    assert "`refund-small` fails on `amount <= 100`, got 5000" in ran.stdout + ran.stderr
    tested = subprocess.run(
        f"{enter} && {test_it} -q", shell=True, env=env, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout


def test_the_next_step_names_the_python_that_has_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    assert f" {sys.executable} agent.py" in done("init", str(tmp_path / "a"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert " python agent.py" in done("init", str(tmp_path / "b"))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_its_requirements_say_where_the_package_is_from(framework: str) -> None:
    *comments, package, _ = project_files("my-desk", framework)["requirements.txt"].splitlines()
    assert all(line.startswith("# ") for line in comments)
    assert any(
        f"{package} @ git+https://" in line for line in comments
    )  # what CI needs where no index has it


def test_its_ci_runs_what_there_is(tmp_path: Path) -> None:
    files = project_files("my-desk", "none")
    steps = yaml.safe_load(files[".github/workflows/ci.yml"])["jobs"]["test"]["steps"]
    commands = [line.split() for step in steps for line in step.get("run", "").splitlines()]
    ours = [c[1:3] for c in commands if c[:1] == ["sluicegate"]]
    assert ours == [["release", "check"], ["release", "test"]]
    for words in ours:
        done(*words, "--help")
    assert "PROJECT" not in "".join(files.values()) and "name: my-desk" in files["release/release.yaml"]


def test_every_template_has_its_place() -> None:
    there = {p.name for p in (resources.files("sluicegate.streams") / "project").iterdir()}
    assert there == PLACES.keys() | {agent for agent, _ in FRAMEWORKS.values()}


def test_what_is_there_is_left_and_what_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("mine")
    answer = CliRunner().invoke(app, ["init", str(tmp_path), "--name", "x"])
    assert answer.exit_code != 0 and (tmp_path / "agent.py").read_text() == "mine"
    assert "would write" in done("init", str(tmp_path / "y"), "--dry-run") and not (tmp_path / "y").exists()
    with pytest.raises(Terminal, match="--name"):
        project_files("No Name", "none")
    with pytest.raises(Terminal, match="choose one of"):
        project_files("x", "other")
