"""`sluicegate call`: one governed tool call, as an agent would make it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.commands.output import console
from sluicegate.streams.settings import Settings

if TYPE_CHECKING:
    from sluicegate.streams.sdk.assembly import Part
    from sluicegate.streams.sdk.json import Json
    from sluicegate.streams.sdk.replies import Held


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
        stream: Annotated[
            bool, typer.Option("--stream", help="ask a model, and show its answer as it comes")
        ] = False,
    ) -> None:
        """Call one tool, e.g. `sluicegate call banking.get_balance --agent banking-agent-command-r`.

        A model: `sluicegate call model.triage '{"messages":[{"role":"user","content":"hi"}]}' --model --agent AGENT`; with
        `--stream` in its place the answer is shown on stderr as it comes.

        Exit code 1 and the reason when it is refused, held or failed.
        """
        try:
            parsed = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise WrongUsage(f"arguments `{arguments[:60]}` are not JSON: {error}") from error
        if not isinstance(parsed, dict) or not agent:
            raise WrongUsage("give a JSON object of arguments and --agent with a registered agent id")
        if (model or stream) and not isinstance(parsed.get("messages"), list):
            raise WrongUsage("give the model's `messages` as a JSON array")
        asyncio.run(_call(tool, parsed, agent, goal, timeout_s, key, model, stream))


async def _call(
    tool: str,
    arguments: dict[str, object],
    agent_id: str,
    goal: str,
    timeout_s: float,
    key: Path | None,
    model: bool,
    stream: bool,
) -> None:
    from sluicegate.streams.client import AgentClient
    from sluicegate.streams.sdk.errors import Failed, InDoubt, Refused
    from sluicegate.streams.sdk.replies import Held

    out, ident = console(), uuid.uuid4().hex
    try:
        async with (
            AgentClient(agent_id=agent_id, settings=Settings.from_env(), key=key) as agent,
            agent.session(goal=goal) as s,
        ):
            if stream:
                result = await _shown(s.stream_model(tool, timeout_s=timeout_s, intent_id=ident, **arguments))  # type: ignore[arg-type]
            elif model:
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
    hint = Console(
        stderr=True, soft_wrap=True, highlight=False
    )  # what is printed on stdout is the result alone
    hint.print(f"sluicegate explain {ident}", markup=False, style="dim")


async def _shown(parts: AsyncIterator[Part]) -> Json | Held:
    """Show an answer on stderr as it comes; what comes of it is the result."""
    from sluicegate.streams.client import Ended, Started, Text

    out, result = Console(stderr=True, highlight=False), cast("Json | Held", None)
    async for part in parts:
        if isinstance(part, Started) and part.replaces:
            out.print("\n-- that was not the answer; another model begins:", markup=False, style="dim")
        elif isinstance(part, Text):
            out.print(part.text, markup=False, end="", soft_wrap=True)
        elif isinstance(part, Ended):
            out.print("")
            result = part.result
    return result
