"""Operators' commands on control: `deploy`, `agents register | list`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import control_log, operations
from sluicegate.streams.attach import attach
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.keys import Keys
from sluicegate.streams.settings import Settings

agents = typer.Typer(help="Register and list agents.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(agents, name="agents")

    @app.command()
    def deploy(
        folder: Annotated[Path, typer.Argument(help="a release folder, with release.yaml")],
        why: Annotated[str, typer.Option(help="for the record")] = "",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="check the release only")] = False,
    ) -> None:
        """Check, publish and deploy a release, e.g. `sluicegate deploy examples/release --why "first release"`."""
        from sluicegate.processors.release import compile_release
        from sluicegate.streams.releases import read_folder

        if dry_run:
            release = compile_release(read_folder(folder))
            console().print(
                f"{release.name} {release.version} checks: {len(release.tools)} contracts, {release.digest}"
            )
            return
        settings = attach(Settings.from_env())
        digest, head = asyncio.run(operations.deploy(settings, Keys(settings.home), folder, why))
        console().print(f"deployed {digest} as control event {head}")


@agents.command("register")
def agents_register(
    agent: Annotated[str, typer.Argument(help="agent id, or a yaml file of agents with --file")] = "",
    role: Annotated[list[str] | None, typer.Option("--role", help="may be given more than once")] = None,
    tenant: Annotated[str, typer.Option(help="its tenant")] = "default",
    team: Annotated[str, typer.Option(help="its team")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="agents: {id: {tenant, team, roles}}")] = None,
    why: Annotated[str, typer.Option(help="for the record")] = "",
) -> None:
    """Register an agent, e.g. `sluicegate agents register support-7 --role retail`."""
    if bool(agent) == bool(file):
        raise Terminal("name one agent, or give --file agents.yaml")
    one: operations.Row = {"agent_id": agent, "tenant": tenant, "team": team, "roles": role or []}
    rows = operations.read_agents(file) if file else [one]
    settings = attach(Settings.from_env())
    head = asyncio.run(operations.register_agents(settings, Keys(settings.home), rows, why))
    console().print(f"registered {len(rows)} agent(s) as control event {head}")


@agents.command("list")
def agents_list(output: OutputOption = Format.TABLE) -> None:
    """List registered agents, e.g. `sluicegate agents list -o json`."""
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    rows = [(a.agent_id, a.tenant, a.team, " ".join(a.roles), a.status) for a in control.agents.values()]
    show(("agent", "tenant", "team", "roles", "status"), sorted(rows), output)
