"""The root of the command line: it lists every command, and imports the modules of the one that is run.

A command's modules and its line stand in `command_table.py`, which is made from the commands themselves; a test holds it
against them, so that none is forgotten. Never holds a command of its own. Next: `help_panels.py` (the order), `cli.py`.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

import typer
import typer.core
import typer.main
from sluicegate.streams import commands
from sluicegate.streams.command_table import LINES, MODULES
from sluicegate.streams.help_panels import placed

if TYPE_CHECKING:
    from typer._click import Command, Context


class Root(typer.core.TyperGroup):
    """Its commands are lines of the listing; whoever runs one, or completes its words, gets the command itself."""

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """The command that the first word names. An unknown one is refused with those that are spelt alike."""
        name, line, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in MODULES else line, rest


def list_in(app: typer.Typer) -> None:
    """Give the app a line for each command, in order and under its heading."""
    for name, panel in placed(MODULES):
        app.command(name, help=LINES[name], rich_help_panel=panel)(_line)


def _line() -> None:
    raise AssertionError("a line of the listing was run: `Root` gives the command itself")


@functools.cache
def load(name: str) -> Command:
    """Import a command's modules and make it. The module that registers it comes first; others add to its group."""
    # INVARIANT: no other command's modules are imported by this (tests/unit/test_commands.py).
    found = typer.Typer()
    for module in MODULES[name]:
        loaded = importlib.import_module(f"{commands.__name__}.{module}")
        if hasattr(loaded, "register"):
            loaded.register(found)
    return typer.main.get_group(found).commands[name]
