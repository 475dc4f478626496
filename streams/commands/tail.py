"""`sluicegate tail`: outcomes as they are committed, one line each."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from sluicegate.schemas.errors import WrongUsage
from sluicegate.schemas.records import IntentFacts
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.explain import COLOURS
from sluicegate.streams.commands.output import Format, OutputOption, console
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect import tail as log
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("tail")
    def tail_ledger(
        agent: Annotated[str, typer.Option("--agent", help="only this agent")] = "",
        follow: Annotated[bool, typer.Option("--follow/--no-follow", help="go on until Ctrl-C")] = True,
        count: Annotated[int, typer.Option("-n", min=0, help="how many of the past first")] = 20,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Watch outcomes as they are committed, e.g. `sluicegate tail --agent banking-agent -n 5`."""
        if output in (Format.CSV, Format.JSON):
            raise WrongUsage(f"a tail has no `{output}`, use -o jsonl")
        settings = attach(Settings.from_env())
        asyncio.run(_tail(settings, agent, follow, count, output))


async def _tail(settings: Settings, agent: str, follow: bool, count: int, output: Format) -> None:
    out = console()
    async for event in log.tail(settings, count=count, agent=agent, follow=follow):
        if output is Format.JSONL:
            print(json.dumps(_row(event), ensure_ascii=False), flush=True)
        else:
            _line(out, event)


def _row(event: LedgerEvent) -> dict[str, object]:
    h = event.header
    return {
        "decided_at": iso(h.decided_at, "milliseconds"),
        "partition": event.partition, "seq": h.seq, "agent_id": h.agent_id, "intent_id": h.intent_id,
        "stage": h.stage, "status": h.status, "reason": h.reason, "policies": h.policies,
        "tool": event.facts.tool if isinstance(event.facts, IntentFacts) else "",
    }  # fmt: skip


def _line(out: Console, event: LedgerEvent) -> None:
    row = _row(event)
    colour = COLOURS.get(event.header.status, "default")
    what = " ".join(
        str(part) for part in (row["tool"], row["reason"], ", ".join(event.header.policies)) if part
    )
    line = (
        f"[dim]{str(row['decided_at'])[11:23]} {event.partition}/{event.header.seq:<8}[/dim] {event.header.stage:<9} "
        f"[{colour}]{event.header.status:<10}[/{colour}] {escape(event.header.agent_id)} "
        f"{escape(event.header.intent_id)} {escape(what)}"
    )
    if out.is_terminal:
        out.print(line.rstrip(), overflow="ellipsis", no_wrap=True)  # one line each, cut at the edge
    else:
        out.print(line.rstrip())
