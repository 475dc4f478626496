"""`sluicegate explain INTENT`: who decided what, by which policy, and what came of it."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.markup import escape
from sluicegate.streams.attach import attach
from sluicegate.streams.commands.output import Format, OutputOption, console
from sluicegate.streams.explain import Story, explain
from sluicegate.streams.keys import Keys
from sluicegate.streams.settings import Settings

COLOURS = {"refused": "red", "failed": "red", "withheld": "yellow", "expired": "yellow", "in_doubt": "bold red",
           "held": "yellow", "released": "green", "noted": "dim", "unreadable": "red", "session_refused": "red"}  # fmt: skip
"""By status; others are plain. `tail` uses the same."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("explain")
    def explain_intent(
        intent: Annotated[str, typer.Argument(help="the intent's id, as the agent named it")],
        agent: Annotated[
            str, typer.Option("--agent", help="when several agents used the id; also faster")
        ] = "",
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Tell the story of one intent, e.g. `sluicegate explain 7f3a-12 --agent banking-agent`."""
        settings = attach(Settings.from_env())
        keys = Keys(settings.home)
        try:
            story = asyncio.run(explain(settings, intent, keys.open, agent=agent))
        finally:
            keys.close()
        if output in (Format.JSON, Format.JSONL):
            indent = 2 if output is Format.JSON else None
            print(json.dumps(story.as_json(), indent=indent, ensure_ascii=False))
        else:
            _print(story)


def _print(story: Story) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, highlight=False)

    behalf = story.session.get("on_behalf_of")
    colour = COLOURS.get(story.state, "bold")
    say(
        f"[bold]{escape(story.intent_id)}[/bold]: {escape(story.tool or story.kind)} is [{colour}]{story.state}[/{colour}]"
    )
    roles = f", roles {', '.join(story.roles)}" if story.roles else ""
    say(
        f"  asked by   {escape(story.agent_id)} of {escape(story.tenant or 'no known tenant')}{escape(roles)}"
    )
    say(f"  for        {escape(behalf or 'nobody named')}, session {escape(story.session_id)}")
    if goal := story.goal or story.session.get("goal"):
        say(f"  goal       {escape(goal)}")
    if story.arguments:
        say(f"  arguments  {escape(story.arguments[:500])}")
    name = f"{story.release_name} " if story.release_name else ""
    say(f"  release    {escape(name)}{story.release[:19]}, control {story.control_head}, engine {story.engine}, partition {story.partition}")  # fmt: skip
    for step in story.steps:
        colour = COLOURS.get(step.status, "default")
        parts = [f"{step.ms:>10,.1f} ms  {step.stage:<9} [{colour}]{step.status:<10}[/{colour}]"]
        if step.reason:
            parts.append(step.reason)
        if step.policies:
            parts.append("by " + ", ".join(step.policies))
        if step.attempt:
            parts.append(f"attempt {step.attempt}")
        if step.by:
            parts.append(escape(step.by))
        say("  ".join(parts).rstrip())
        for line in (step.detail, step.remedy):
            if line:
                say(f"{'':>24}{escape(line[:500])}")
    for ident, text in story.policies.items():
        say(f"\npolicy [bold]{escape(ident)}[/bold]")
        say("  " + escape(text).replace("\n", "\n  "))
    if story.result:
        say(f"\nresult  {escape(story.result)}")
    if story.taken_back:
        say(f"\ntaken back: {escape(story.taken_back)}")
    if story.times_ms:
        say("\ntime    " + ", ".join(f"{name} {ms:,.1f} ms" for name, ms in story.times_ms.items()))
    say(f"[dim]from {story.source}; -o json has every id[/dim]")
