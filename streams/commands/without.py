"""`sluicegate replay without EVENT`: what would be otherwise, had one event never come. Added by `replay.py`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from sluicegate.processors.replay.apart import Change, NotMade
from sluicegate.streams.commands.output import Format, OutputOption, bars, console, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.without import Told
from sluicegate.streams.replay.without import without as leave_out
from sluicegate.streams.settings import Settings

SHOWN = 30
"""Changes printed; `-o json` and `csv` have 10,000."""
COLUMNS = ("partition", "seq", "agent", "session", "intent", "tool", "what", "was", "now", "sure")


def without(
    event: Annotated[str, typer.Argument(help="an event id, or an intent id for all of that call")],
    agent: Annotated[str, typer.Option("--agent", help="whose intent it is, if several used the id")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """What would be otherwise without one event, e.g. `sluicegate replay without i-7`.

    A poisoned document, a wrong approval, a user's message: the ledger is folded again without it, and every later input
    is decided again. Listed are decisions, approvals, spends and memory values that come out otherwise, and for each
    session from where on nobody can know, since its agent would have asked other things: what it asked after that is
    speculative. Where something leads to another partition (shared memory, a team's budget, a cache, a hand-off), all of
    them are decided again. Nothing is executed or published.
    """
    settings = attach(Settings.from_env())
    told = _told(settings, event, agent)
    if output in (Format.JSON, Format.JSONL):
        print(json.dumps(told.as_json(), indent=2 if output is Format.JSON else None, ensure_ascii=False))
    else:
        _print(told, output)


def _told(settings: Settings, event: str, agent: str) -> Told:
    keys = Keys(settings.home)
    try:
        with bars(
            "looking for it (offsets)", "deciding again (offsets)", "all partitions (offsets)"
        ) as on_start:
            return asyncio.run(leave_out(settings, event, agent, keys.open, on_start))
    finally:
        keys.close()


def advice(one: NotMade) -> str:
    """How what was executed is taken back, behind a colon; empty where there is nothing to take back."""
    # INVARIANT: what is advised can take it back (tests/unit/test_counterfactual.py).
    if one.back == "agent":
        return f": sluicegate rollback agent {one.agent_id} --to {one.partition}:{one.seq - 1} --dry-run"
    if one.back == "shared":
        return ": what is shared is not rolled back, have an agent write or forget it"
    return f": sluicegate rollback call {one.intent_id}" if one.back == "call" else ""


def _row(change: Change) -> tuple[object, ...]:
    sure = "speculative" if change.speculative else "certain"
    was, now = str(change.was), str(change.now)
    c = change
    return (c.partition, c.seq, c.agent_id, c.session_id, c.intent_id, c.tool, c.what, was, now, sure)


def _print(told: Told, output: Format) -> None:
    apart = told.apart
    rows = sorted(apart.changes, key=lambda c: (c.speculative, c.decided_at))
    show(
        COLUMNS,
        [_row(c) for c in (rows if output is Format.CSV else rows[:SHOWN])],
        output,
        f"without {told.event}",
    )
    if output is Format.CSV:
        return
    out = console()
    if len(rows) > SHOWN:
        out.print(f"{len(rows) - SHOWN:,} more, see -o csv")
    for (agent, session), one in sorted(apart.sessions.items()):
        at = f"{one.partition}:"
        parts = [f"first otherwise at {at}{one.first}"] if one.first >= 0 else []
        if one.unknown_from >= 0:
            parts.append(
                f"from {at}{one.unknown_from} on nobody can know, {one.why}: {one.unknown} asked after it"
            )
        out.print(f"session {session} of {agent}: {'; '.join(parts)}", markup=False)
    for account, (was, now) in apart.spends.items():
        out.print(f"spent {account}: {was:,} on the record, {now:,} without", markup=False)
    for cell, (held, would) in apart.memory.items():
        out.print(f"memory {cell}: {held} on the record, {would} without", markup=False)
    for made in apart.not_made[:SHOWN]:
        sure = "perhaps would not" if made.speculative else "would not"
        said = f"call {made.intent_id} of {made.agent_id} {sure} have been made{advice(made)}"
        out.print(said, markup=False)
    for agent, session in apart.leads_to:
        out.print(
            f"session {session} of {agent} was handed on by one that nobody can know about", markup=False
        )
    out.print(f"{told.verdict}, over {told.over} partitions in {told.seconds:.1f} s")
