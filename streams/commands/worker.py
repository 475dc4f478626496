"""`sluicegate worker`: one role in this process."""

from __future__ import annotations

from typing import Annotated

import typer
from sluicegate.streams.cli_words import one_of
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.roles import ALL
from sluicegate.streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def worker(
        role: Annotated[
            str,
            typer.Option(
                "--role", help="ledger, executor, projector, checkpointer, monitor, gateway or evaluator"
            ),
        ] = "ledger",
    ) -> None:
        """Run one role until SIGTERM, e.g. `sluicegate worker --role ledger`.

        Any number of processes may have the same role: they share the partitions.
        """
        one_of("role", role, ALL)
        from sluicegate.streams.app import run_worker

        run_worker(role, attach(Settings.from_env()))
