"""`sluicegate explain INTENT`: who decided what, by which policy, and what came of it."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.markup import escape
from sluicegate.streams.commands.output import Format, OutputOption, console
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect.explain import explain_all
from sluicegate.streams.inspect.story import Story
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.repartition.generation import part_name
from sluicegate.streams.settings import Settings

COLOURS = {"refused": "red", "failed": "red", "withheld": "yellow", "expired": "yellow", "in_doubt": "bold red",
           "held": "yellow", "released": "green", "noted": "dim", "unreadable": "red", "session_refused": "red"}  # fmt: skip
"""By status; others are plain. `tail` uses the same."""


SHOWN = 20
"""Lines of a list; `-o json` has all."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("explain")
    def explain_intent(
        name: Annotated[
            str,
            typer.Argument(
                help="an intent (a tool call's id), session, trace, or an event's or dispatch's id"
            ),
        ],
        agent: Annotated[
            str, typer.Option("--agent", help="when several agents used the id; also faster")
        ] = "",
        caused: Annotated[
            bool,
            typer.Option("--caused/--no-caused", help="follow what it led to: reads the ledger since then"),
        ] = True,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Tell the story of one intent, e.g. `sluicegate explain 7f3a-12 --agent banking-agent`.

        Of a session or trace: the stories of its intents, one after the other; with `-o jsonl` one a line.
        """
        settings = attach(Settings.from_env())
        keys = Keys(settings.home)
        try:
            stories = asyncio.run(explain_all(settings, name, keys.open, agent=agent, caused=caused))
        finally:
            keys.close()
        if output is Format.JSON:
            told = [story.as_json() for story in stories]
            print(json.dumps(told[0] if len(told) == 1 else told, indent=2, ensure_ascii=False))
        elif output is Format.JSONL:
            for story in stories:
                print(json.dumps(story.as_json(), ensure_ascii=False))
        else:
            for index, story in enumerate(stories):
                if index:
                    console().print()
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
    if task := story.session.get("task"):
        say(f"  task       {escape(task)}")
    if story.arguments:
        say(f"  arguments  {escape(story.arguments[:500])}")
    name = f"{story.release_name} " if story.release_name else ""
    say(f"  release    {escape(name)}{story.release[:19]}, control {story.control_head}, engine {story.engine}, partition {part_name(story.generation, story.partition)}")  # fmt: skip
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
    for line in _accounts(story):
        say(escape(line))
    if story.taken_back:
        say(f"\ntaken back: {escape(story.taken_back)}")
    if story.times_ms:
        say("\ntime    " + ", ".join(f"{name} {ms:,.1f} ms" for name, ms in story.times_ms.items()))
    if story.reproducible:
        say(escape(f"\nreproducible  {story.reproducible['verdict']}: {story.reproducible['why']}"))
    say(f"[dim]from {story.source}; -o json has every id[/dim]")


def _accounts(story: Story) -> list[str]:
    """Prompt, models, data, people, attempts, cost and consequences, a line each."""
    lines = []
    if story.prompt:
        lines.append(f"\nprompt  {story.prompt} sha256 {story.prompt_digest[:12]}")
    if story.served:
        lines.append(f"\nserved  {', '.join(story.served)}")
    for title, rows in (
        ("data", [f"{t['how']} {_short(t['asset'])} {t['about'] and '(' + t['about'] + ')'}" for t in story.data]),
        ("people", [f"{a['by']}: {a['verdict']} at {a['at']}, {len(a['agreed'])} of {a['quorum']}" for a in story.approvals]),
        ("attempts", [f"{a['number']}: {a['asked']} {a['claimed_by']} {a['end']} {a['error']}" for a in story.attempts]),
        ("caused", [_caused(c) for c in story.caused]),
    ):  # fmt: skip
        if rows:
            lines.append(f"\n{title}")
            lines += [f"  {' '.join(row.split())}" for row in rows[:SHOWN]]
            lines += [f"  {len(rows) - SHOWN} more, see -o json"] if len(rows) > SHOWN else []
    cost = {name: amount for name, amount in story.cost.items() if amount is not None}
    if cost:
        lines.append("\ncost    " + ", ".join(f"{amount:,} {name}" for name, amount in cost.items()))
    return lines


def _short(asset: str) -> str:
    """A digest is known by its beginning."""
    kind, _, name = asset.partition(":")
    return f"{kind}:{name[:16]}" if kind in ("sha256", "event", "cell") else asset


def _caused(row: dict[str, object]) -> str:
    if "not_told" in row:
        return str(row["not_told"])
    how = row["how"]
    assert isinstance(how, list)
    return (
        f"{row['intent_id']} {row['tool']} of {row['agent_id']} is {row['state']}: {', '.join(map(str, how))}"
    )
