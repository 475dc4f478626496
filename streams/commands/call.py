"""`sluicegate call`: one governed tool call, as an agent would make it."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import console
from sluicegate.streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def call(
        tool: Annotated[str, typer.Argument(help="contract name")],
        arguments: Annotated[str, typer.Argument(help="a JSON object")] = "{}",
        agent: Annotated[str, typer.Option(help="a registered agent id")] = "",
        goal: Annotated[str, typer.Option(help="what the session is for")] = "a call from the command line",
        timeout_s: Annotated[float, typer.Option(help="seconds to wait")] = 30.0,
        key: Annotated[
            Path | None, typer.Option("--key", help="signed environments: the agent's key file")
        ] = None,
        model: Annotated[
            bool, typer.Option("--model", help="ask a model: the arguments hold `messages`")
        ] = False,
    ) -> None:
        """Call one tool, e.g. `sluicegate call banking.get_balance --agent banking-agent-command-r`.

        A model: `sluicegate call model.triage '{"messages":[{"role":"user","content":"hi"}]}' --model --agent AGENT`.

        Exit code 1 and the reason when it is refused, held or failed.
        """
        try:
            parsed = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise Terminal(f"arguments `{arguments[:60]}` are not JSON: {error}") from error
        if not isinstance(parsed, dict) or not agent:
            raise Terminal("give a JSON object of arguments and --agent with a registered agent id")
        if model and not isinstance(parsed.get("messages"), list):
            raise Terminal("give the model's `messages` as a JSON array")
        asyncio.run(_call(tool, parsed, agent, goal, timeout_s, key, model))


async def _call(
    tool: str,
    arguments: dict[str, object],
    agent_id: str,
    goal: str,
    timeout_s: float,
    key: Path | None,
    model: bool,
) -> None:
    from sluicegate.streams.client import AgentClient
    from sluicegate.streams.client_errors import Failed, InDoubt, Refused
    from sluicegate.streams.replies import Held

    out, ident = console(), uuid.uuid4().hex
    try:
        async with (
            AgentClient(agent_id=agent_id, settings=Settings.from_env(), key=key) as agent,
            agent.session(goal=goal) as s,
        ):
            if model:
                result = await s.call_model(tool, timeout_s=timeout_s, intent_id=ident, **arguments)  # type: ignore[arg-type]
            else:
                result = await s.call_tool(tool, arguments, timeout_s=timeout_s, intent_id=ident)  # type: ignore[arg-type]
    except Refused as refused:
        out.print(f"refused at {refused.stage}: {refused.reason}. {refused.for_developer}", markup=False)
        raise typer.Exit(1) from refused
    except (Failed, InDoubt) as failed:
        out.print(str(failed), markup=False)
        raise typer.Exit(1) from failed
    if isinstance(result, Held):
        out.print(f"held: {result.why} (intent {result.intent_id})", markup=False)
        raise typer.Exit(1)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    out.print(f"sluicegate explain {ident}", markup=False, style="dim")
