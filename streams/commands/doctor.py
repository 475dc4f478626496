"""`sluicegate doctor`: what is missing or wrong here, and what to do about it. Next: `streams/doctor.py` (the checks)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.doctor import agent_checks, examine
from sluicegate.streams.doctor_machine import FAIL
from sluicegate.streams.settings import Settings

EXIT_FOUND = 1


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def doctor(
        output: OutputOption = Format.TABLE,
        of_agent: Annotated[
            bool,
            typer.Option(
                "--agent-env", help="Check what an agent's process has instead: run it where the agent runs."
            ),
        ] = False,
        env_file: Annotated[
            Path | None,
            typer.Option(
                help="With --agent-env: variables from this file (NAME=value, or /proc/PID/environ)."
            ),
        ] = None,
        release: Annotated[
            Path | None, typer.Option(help="With --agent-env: also try the hosts of this release's tools.")
        ] = None,
    ) -> None:
        """Check this machine and this environment, e.g. `sluicegate doctor -o json`.

        `sluicegate doctor --agent-env --release release/` finds what lets an agent act past the gate: keys of providers and tools,
        the broker's credentials, open connections. No value is printed. Exit code 1 when a check fails; a warning alone is 0.
        """
        if not of_agent and (env_file or release):
            raise WrongUsage("--env-file and --release are for an agent's environment: add --agent-env")
        checks = agent_checks(env_file, release) if of_agent else examine(Settings.from_env())
        rows = [(c.name, c.verdict, c.found, c.todo) for c in checks]
        show(("check", "verdict", "found", "what to do"), rows, output)
        if any(c.verdict == FAIL for c in checks):
            raise typer.Exit(EXIT_FOUND)
