"""`sluicegate init`: a new project that runs: agent, release, tests, CI."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.streams.commands.files import write
from sluicegate.streams.commands.output import console
from sluicegate.streams.new_project import FRAMEWORKS, project_files


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def init(
        folder: Annotated[Path, typer.Argument(help="where to; made if it is not there")] = Path(),
        name: Annotated[str, typer.Option("--name", help="of the project; the folder's without it")] = "",
        framework: Annotated[
            str, typer.Option("--framework", help=f"of the agent: {', '.join(FRAMEWORKS)}")
        ] = "none",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be written")] = False,
        force: Annotated[bool, typer.Option("--force", help="write over files that are there")] = False,
    ) -> None:
        """Make a project, e.g. `sluicegate init ./refunds --framework langgraph`: agent, release, tests, CI file.

        It runs at once, without Kafka: `SLUICEGATE_LOCAL=release python agent.py 5000` is refused, and says why.
        """
        files = project_files(name or folder.resolve().name.lower(), framework)
        if dry_run:
            for path in files:
                console().print(f"would write {folder / path}", markup=False)
            return
        write(folder, files, force)
        where, python = shlex.quote(str(folder)), shlex.quote(_python())
        console().print(f"wrote {len(files)} files; next:", markup=False)
        for line in (
            f"cd {where}",
            f"SLUICEGATE_LOCAL=release {python} agent.py 5000",
            f"{python} -m pytest",
        ):
            console().print(f"  {line}", markup=False, soft_wrap=True)


def _python() -> str:
    """How whoever typed the command calls the Python that has this package: `python` only where that is the one."""
    found = shutil.which("python")
    return "python" if found and Path(found).parent == Path(sys.executable).parent else sys.executable
