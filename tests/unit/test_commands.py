"""`sluicegate --help`: every command has its place, says what it does, and stands on docs/commands.md.

`python -m tests.unit.test_commands` writes the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.core
import typer.main
from sluicegate.streams.cli import app
from sluicegate.streams.help_panels import PANELS, arrange

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
HEAD = """# Commands

What `sluicegate --help` lists, made from it (`python -m tests.unit.test_commands`). Each has `--help` with an example. Listings take
`-o table|json|jsonl|csv`, destructive ones `--dry-run`, and a command that finds something wrong ends with 1 (other codes: [operations.md](operations.md)).
`sluicegate --install-completion` completes them in your shell.
"""


def root() -> typer.core.TyperGroup:
    made = typer.main.get_command(app)
    assert isinstance(made, typer.core.TyperGroup)
    arrange(made)
    return made


def commands() -> Iterator[tuple[str, str, str]]:
    """Heading, whole name, help."""
    groups = root()
    for panel, names in PANELS.items():
        for name in names:
            found = groups.commands[name]
            if not isinstance(found, typer.core.TyperGroup):
                yield panel, name, found.help or ""
                continue
            if found.invoke_without_command:
                yield panel, name, found.help or ""
            for under, command in found.commands.items():
                yield panel, f"{name} {under}", command.help or ""


def page() -> str:
    text, last = HEAD, ""
    for panel, name, said in commands():
        if panel != last:
            text, last = f"{text}\n## {panel}\n\n| command | what it does |\n|---|---|\n", panel
        first = " ".join(said.split("\n\n")[0].split())
        text += f"| `{name}` | {first.replace('|', chr(92) + '|')} |\n"
    return text


def test_every_command_stands_once_under_a_heading() -> None:
    placed = [name for names in PANELS.values() for name in names]
    assert sorted(placed) == sorted(root().commands), "put it into streams/help_panels.py"


def test_every_command_says_what_it_does_with_an_example() -> None:
    silent = [name for _, name, said in commands() if "sluicegate " not in said]
    assert silent == []


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `python -m tests.unit.test_commands`"


def test_help_is_in_order_and_version_is_said() -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-m", "sluicegate.streams.cli", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120", "TERM": "dumb"},
    ).stdout  # fmt: skip
    headings = re.findall(r"╭─ (.+?) ─+╮", told)
    assert headings == ["Options", *PANELS]
    said = subprocess.run(
        [sys.executable, "-P", "-m", "sluicegate.streams.cli", "--version"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    assert re.fullmatch(r"sluicegate \d+\.\d+\.\d+, engine \d+\.\d+\.\d+\n", said)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
