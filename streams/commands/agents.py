"""`sluicegate agents register | rotate | suspend | resume | retire | list`: who may ask."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.control.registry import ACTIVE, RETIRED, SUSPENDED
from sluicegate.schemas.errors import WrongUsage
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.commands.spans import span_us
from sluicegate.streams.control import changes, identities, operations
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import shadow

agents = typer.Typer(help="Register, rotate, suspend, resume, retire and list agents.", no_args_is_help=True)

AgentId = Annotated[str, typer.Argument(help="the agent's id")]
Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(agents, name="agents")


@agents.command("register")
def agents_register(
    agent: Annotated[str, typer.Argument(help="agent id, or a yaml file of agents with --file")] = "",
    role: Annotated[list[str] | None, typer.Option("--role", help="may be given more than once")] = None,
    tenant: Annotated[str, typer.Option(help="its tenant")] = "default",
    team: Annotated[str, typer.Option(help="its team")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="agents: {id: {tenant, team, roles}}")] = None,
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Register an agent or change one, e.g. `sluicegate agents register support-7 --role retail`.

    A suspended agent stays suspended, a retired one retired.
    """
    if bool(agent) == bool(file):
        raise WrongUsage("name one agent, or give --file agents.yaml")
    one: operations.Row = {"agent_id": agent, "tenant": tenant, "team": team, "roles": role or []}
    rows = operations.read_agents(file) if file else [one]
    settings = attach(Settings.from_env())
    if dry_run:
        console().print(f"would register {len(rows)} agent(s)")
        return
    head, waits = asyncio.run(operations.register_agents(settings, Keys(settings.home), rows, why))
    console().print(changes.came_of(f"registered {len(rows)} agent(s)", head, waits), markup=False)


@agents.command("rotate")
def agents_rotate(
    agent: AgentId,
    overlap: Annotated[str, typer.Option(help="how long the old keys stay valid, `0s` ends them now")] = "1h",
    file: Annotated[Path | None, typer.Option("--file", help="where the new private key goes")] = None,
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Give an agent a new key, e.g. `sluicegate agents rotate support-7 --overlap 1h`.

    The private key goes to a file only its owner can read; it is never printed.
    """
    settings = attach(Settings.from_env())
    made, ending = asyncio.run(
        identities.rotate(
            settings, Keys(settings.home), agent, why, overlap_us=span_us(overlap), path=file, dry_run=dry_run
        )
    )
    what = f"end {'now' if not span_us(overlap) else f'in {overlap}'}: {', '.join(ending) or 'none'}"
    if made is None:
        console().print(f"would make a new key for `{agent}`; old keys that would {what}", markup=False)
    else:
        text = f"key {made.kid} in {made.path}, control event {made.head}; old keys that {what}"
        console().print(text, markup=False)


def _set(agent: str, status: str, why: str, dry_run: bool) -> None:
    settings = attach(Settings.from_env())
    head = asyncio.run(
        identities.set_status(settings, Keys(settings.home), agent, status, why, dry_run=dry_run)
    )
    text = f"`{agent}` would be {status}" if dry_run else f"`{agent}` is {status} as of control event {head}"
    console().print(text, markup=False)


@agents.command("suspend")
def agents_suspend(agent: AgentId, why: Why = "", dry_run: DryRun = False) -> None:
    """Stop an agent: nothing new begins, held calls are not approved, e.g. `sluicegate agents suspend support-7`.

    A call an executor was just offered may still be made, within its lease of 5 s; results still arrive.
    """
    _set(agent, SUSPENDED, why, dry_run)


@agents.command("resume")
def agents_resume(agent: AgentId, why: Why = "", dry_run: DryRun = False) -> None:
    """Let a suspended agent ask again, e.g. `sluicegate agents resume support-7 --why "false alarm"`."""
    _set(agent, ACTIVE, why, dry_run)


@agents.command("retire")
def agents_retire(agent: AgentId, why: Why = "", dry_run: DryRun = False) -> None:
    """End an agent for ever; its id is never used again, e.g. `sluicegate agents retire support-7`."""
    _set(agent, RETIRED, why, dry_run)


@agents.command("list")
def agents_list(
    unregistered: Annotated[
        bool, typer.Option("--unregistered", help="shadow agents: seen on the topics, in no registry")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List agents, e.g. `sluicegate agents list -o json` or `sluicegate agents list --unregistered`."""
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    if unregistered:
        found, _ = asyncio.run(shadow.unregistered(settings, control.agents))
        seen = [
            (
                s.agent_id,
                s.records,
                iso(s.last_at),
            )
            for s in found
        ]
        show(("agent", "records", "last_seen"), seen, output)
        return
    rows = [(a.agent_id, a.tenant, a.team, " ".join(a.roles), a.status) for a in control.agents.values()]
    show(("agent", "tenant", "team", "roles", "status"), sorted(rows), output)
