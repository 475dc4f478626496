"""`sluicegate deploy`: a release into force."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.streams import operations
from sluicegate.streams.attach import attach
from sluicegate.streams.commands.output import console
from sluicegate.streams.commands.release import check
from sluicegate.streams.keys import Keys
from sluicegate.streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def deploy(
        folder: Annotated[Path, typer.Argument(help="a release folder, with release.yaml")],
        why: Annotated[str, typer.Option(help="for the record")] = "",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="`sluicegate release check` only")] = False,
    ) -> None:
        """Check, publish and deploy a release, e.g. `sluicegate deploy examples/release --why "first release"`."""
        if dry_run:
            check(folder)
            return
        settings = attach(Settings.from_env())
        digest, head = asyncio.run(operations.deploy(settings, Keys(settings.home), folder, why))
        console().print(f"deployed {digest} as control event {head}")
