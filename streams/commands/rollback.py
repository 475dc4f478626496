"""`sluicegate rollback call`: take a call back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, cast

import typer
from sluicegate.streams import rollback as rollbacks
from sluicegate.streams.attach import attach
from sluicegate.streams.commands.output import console
from sluicegate.streams.keys import Keys
from sluicegate.streams.settings import Settings

rollback = typer.Typer(help="Take back what was done.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(rollback, name="rollback")


@rollback.callback()
def _group() -> None:
    """Keeps `call` a level below, as the only one."""


@rollback.command("call")
def rollback_call(
    intent: Annotated[str, typer.Argument(help="the call's intent id")],
    agent: Annotated[str, typer.Option("--agent", help="whose call it is, if several used the id")] = "",
    timeout_s: Annotated[float, typer.Option(help="seconds to wait")] = 30.0,
    key: Annotated[
        Path | None, typer.Option("--key", help="signed environments: the agent's key file")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be asked only")] = False,
) -> None:
    """Take one call back by its contract's `compensate`, e.g. `sluicegate rollback call i-7 --dry-run`.

    The compensation is decided and recorded as any call of that agent. Running it again undoes nothing twice.
    Exit code 1 and the reason when the call cannot be, or was not, taken back.
    """
    settings, out = attach(Settings.from_env()), console()
    keys = Keys(settings.home)
    try:
        found = asyncio.run(rollbacks.plan(settings, intent, keys.open, agent=agent))
    finally:
        keys.close()
    if found.cannot:
        out.print(f"`{found.tool}` of `{found.agent_id}` cannot be taken back: {found.cannot}", markup=False)
        raise typer.Exit(1)
    call = f"`{found.undo_tool}` {json.dumps(found.arguments, ensure_ascii=False)} as `{found.undo_id}`"
    if found.done:
        out.print(f"asked before, {call}: {found.done}", markup=False)
        raise typer.Exit(0 if found.done == "released" else 1)
    if dry_run:
        out.print(f"would call {call}", markup=False)
        return
    asyncio.run(_call(settings, found, timeout_s, key))
    out.print(f"taken back by {call}", markup=False)


async def _call(settings: Settings, found: rollbacks.Plan, timeout_s: float, key: Path | None) -> None:
    from sluicegate.streams.client import AgentClient
    from sluicegate.streams.client_errors import NotReleased
    from sluicegate.streams.client_json import Json
    from sluicegate.streams.replies import Held

    try:
        async with (
            AgentClient(agent_id=found.agent_id, settings=settings, key=key) as agent,
            agent.session(goal=f"take back {found.intent_id}") as s,
        ):
            arguments = cast("dict[str, Json]", found.arguments)
            result = await s.call_tool(
                found.undo_tool, arguments, timeout_s=timeout_s, intent_id=found.undo_id
            )
    except NotReleased as refused:
        console().print(str(refused), markup=False)
        raise typer.Exit(1) from refused
    if isinstance(result, Held):
        console().print(f"held: {result.why} (intent {result.intent_id})", markup=False)
        raise typer.Exit(1)
