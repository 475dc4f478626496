"""`sluicegate --help`: every command has its place, says what it does, and stands on docs/commands.md; and a command imports its own
modules only.

`python -m tests.unit.test_commands` writes the page and `streams/command_table.py`.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.core
import typer.main
from sluicegate.streams import command_root, command_table, commands
from sluicegate.streams.cli import app
from sluicegate.streams.help_panels import PANELS, placed
from typer._click import Command
from typer.testing import CliRunner

TABLE = Path(__file__).parents[2] / "streams" / "command_table.py"
PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
HEAD = """# Commands

What `sluicegate --help` lists, made from it (`python -m tests.unit.test_commands`). Each has `--help` with an example. Listings take
`-o table|json|jsonl|csv`, destructive ones `--dry-run`, and a command that finds something wrong ends with 1 (other codes: [operations.md](operations.md)).
`sluicegate --install-completion` completes them in your shell.
"""


@functools.cache
def registered() -> dict[str, tuple[tuple[str, ...], Command]]:
    """Every command that a module registers, with its modules: the one that registers it, then those that add to its group."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    # All of them first: some add to the group of another.
    loaded = {name: importlib.import_module(f"{commands.__name__}.{name}") for name in names}
    found: dict[str, tuple[tuple[str, ...], Command]] = {}
    for name, module in loaded.items():
        if not hasattr(module, "register"):
            continue
        made = typer.Typer(rich_markup_mode="rich")
        module.register(made)
        for word, command in typer.main.get_group(made).commands.items():
            assert word not in found, f"`{word}` is registered twice"
            found[word] = ((name, *sorted(modules_in(command) - {name})), command)
    return found


def modules_in(command: Command) -> set[str]:
    """The modules under `commands/` that a command and those below it are written in."""
    mine = {command.callback.__module__.rpartition(".")[2]} if command.callback is not None else set()
    return mine.union(*(modules_in(c) for c in getattr(command, "commands", {}).values()))


def line_of(command: Command) -> str:
    """What the listing shows of a command: the first paragraph of its help."""
    return (command.help or "").split("\n\n")[0].strip()


def table() -> str:
    """`streams/command_table.py` as it has to be."""
    ordered = [(name, *registered()[name]) for name, _ in placed(registered())]
    text = TABLE.read_text("utf-8").partition("MODULES:")[0] + "MODULES: dict[str, tuple[str, ...]] = {\n"
    for name, modules, _ in ordered:
        text += (
            f"    {json.dumps(name)}: ({', '.join(map(json.dumps, modules))}{',' * (len(modules) == 1)}),\n"
        )
    text += "}\n\nLINES: dict[str, str] = {\n"
    for name, _, command in ordered:
        text += f"    {json.dumps(name)}: {json.dumps(line_of(command), ensure_ascii=False)},\n"
    return text + "}\n"


def all_commands() -> Iterator[tuple[str, str, str]]:
    """Heading, whole name, help."""
    for panel, names in PANELS.items():
        for name in names:
            found = registered()[name][1]
            if not isinstance(found, typer.core.TyperGroup):
                yield panel, name, found.help or ""
                continue
            if found.invoke_without_command:
                yield panel, name, found.help or ""
            for under, command in found.commands.items():
                yield panel, f"{name} {under}", command.help or ""


def page() -> str:
    text, last = HEAD, ""
    for panel, name, said in all_commands():
        if panel != last:
            text, last = f"{text}\n## {panel}\n\n| command | what it does |\n|---|---|\n", panel
        first = " ".join(said.split("\n\n")[0].split())
        text += f"| `{name}` | {first.replace('|', chr(92) + '|')} |\n"
    return text


def test_every_command_stands_once_under_a_heading() -> None:
    listed = [name for names in PANELS.values() for name in names]
    assert sorted(listed) == sorted(registered()), "put it into streams/help_panels.py"


def test_every_command_says_what_it_does_with_an_example() -> None:
    silent = [name for _, name, said in all_commands() if "sluicegate " not in said]
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


def test_the_table_is_what_the_modules_register() -> None:
    assert TABLE.read_text("utf-8") == table(), "run `python -m tests.unit.test_commands`"


def test_the_listing_shows_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Letter for letter what the whole app would show, were it loaded."""
    monkeypatch.setenv("COLUMNS", "120")
    listed = CliRunner().invoke(app, ["--help"]).output
    whole = typer.main.get_command(app)
    assert isinstance(whole, command_root.Root)
    for name, line in whole.commands.items():
        command = registered()[name][1]
        vars(command)["rich_help_panel"] = vars(line)["rich_help_panel"]
        whole.commands[name] = command
    monkeypatch.setattr(typer.testing, "_get_command", lambda _: whole)
    assert listed == CliRunner().invoke(app, ["--help"]).output and "Decide as a person" in listed


LOADED = """
import sys
from sluicegate.streams import cli
try:
    cli.main()
finally:
    print("\\n".join(sorted(sys.modules)), file=sys.stderr)
"""
OWN = "sluicegate.streams.commands."


def said_and_loaded(*words: str) -> tuple[str, set[str]]:
    """What a command prints in a process of its own, and the modules it has loaded by then."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, *words],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120", "TERM": "dumb"},
    )  # fmt: skip
    return ran.stdout, set(ran.stderr.splitlines())


def test_the_listing_imports_no_command() -> None:
    said, loaded = said_and_loaded("--help")
    assert all(f" {name} " in said for name in command_table.MODULES)
    assert [m for m in loaded if m.startswith(OWN)] == []
    assert loaded.isdisjoint({"aiokafka", "pydantic", "cedarpy", "fastavro", "sluicegate.schemas.codec"})


@pytest.mark.parametrize("name", ["release", "mode", "worker", "topics"])
def test_a_command_imports_its_own_modules_only(name: str) -> None:
    """Alone in a process, each is whole; and what only another needs is not loaded."""
    said, loaded = said_and_loaded(name, "--help")
    command = registered()[name][1]
    assert all(f" {under} " in said for under in getattr(command, "commands", {}))
    assert f"{OWN}{name}" in loaded
    assert loaded.isdisjoint(
        {"faust", "chdb", "clickhouse_connect", "sluicegate.gateway", "sluicegate.streams.app"}
    )
    others = {
        f"{OWN}{other}"
        for other in ("demo", "doctor", "evidence", "ledger", "rebuild", "replay", "status", "up")
    }
    assert loaded.isdisjoint(others)


def test_words_are_completed_and_a_wrong_one_is_told_from_all_of_them() -> None:
    def completed(words: str) -> list[str]:
        asked = {
            "_SLUICEGATE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        return CliRunner().invoke(app, [], env=asked).output.split()

    assert set(completed("sluicegate re")) == {n for n in registered() if n.startswith("re")} > {"release"}
    assert completed("sluicegate release sh") == ["show"]
    assert "--reason" in completed("sluicegate replay --re")
    wrong = CliRunner().invoke(app, ["relaese", "check"])
    assert wrong.exit_code == 2 and "Did you mean 'release'" in wrong.output


if __name__ == "__main__":
    TABLE.write_text(table(), "utf-8")
    PAGE.write_text(page(), "utf-8")
