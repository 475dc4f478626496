"""`sluicegate rollback agent`, and what was rolled back of every kind."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from sluicegate.processors.agents.orders import ROLLED_BACK_KIND
from sluicegate.schemas.errors import SluicegateError, WrongUsage
from sluicegate.schemas.times import iso
from sluicegate.streams.cli_words import moment, position_of
from sluicegate.streams.commands.output import Format, OutputOption, console, progress, show
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.events import control_events
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.rebuild import agent_rollback
from sluicegate.streams.rebuild.agent_rollback import Look, To
from sluicegate.streams.settings import Settings

COLUMNS = ("what", "which", "now", "then")
SHOWN = 10
"""Calls printed that this does not take back; `-o json` has all that are named."""


def add_to(group: typer.Typer) -> None:
    """Add the command to `rollback`."""
    group.command("agent")(rollback_agent)


def rollback_agent(
    agent: Annotated[str, typer.Argument(help="its id")],
    to: Annotated[
        str, typer.Option("--to", help="the last thing that counts: SEQ, PARTITION:SEQ or ISO 8601")
    ] = "",
    undo: Annotated[
        int, typer.Option("--undo", help="take an earlier rollback back: its control event")
    ] = -1,
    why: Annotated[str, typer.Option(help="for the record")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would change only")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Take an agent's sessions, memory and labels back to an earlier point, e.g.
    `sluicegate rollback agent support-1 --to 2026-05-01T12:00:00 --dry-run`.

    Sessions opened since are withdrawn and calls in flight end without their result being released. What was spent is not
    given back, and what calls did outside is not undone: `sluicegate rollback call` does that. `--undo EVENT` brings back
    what a rollback took away. Where nothing would be otherwise nothing is ordered.
    """
    if bool(to) is (undo >= 0):
        raise WrongUsage("give --to or --undo, one of them")
    back_to = parse_to(to, undo)
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    bar, advance = progress("reading the ledger (events)", None)
    with bar:
        found = asyncio.run(agent_rollback.look(settings, control, agent, back_to, advance))
    rows, event, taken = agent_rollback.as_rows(found), -1, None
    if rows and not dry_run:
        keys = Keys(settings.home)
        try:
            event, taken = asyncio.run(agent_rollback.carry_out(settings, keys, found, control, why))
        finally:
            keys.close()
    if rows:
        _open(settings, found, must=dry_run)
    if output is Format.TABLE:
        _print(found)
        done = f"rolled back by control event {event}, undo it with --undo {event}"
        if event >= 0 and taken is None:
            done = (
                f"proposed as control event {event}: it takes several people, see `sluicegate changes list`"
            )
        elif not rows:
            done = "nothing would be otherwise, so nothing was done"
        elif event < 0:
            done = "nothing was done: --dry-run"
        console().print(done, markup=False)
    elif output is Format.JSON:
        print(json.dumps(_as_json(found, event, dry_run), indent=2, ensure_ascii=False))
    else:
        show(COLUMNS, agent_rollback.as_rows(found), output)


def _open(settings: Settings, found: Look, *, must: bool) -> None:
    """Keys and values of what is remembered. An order that stands is told without them where they cannot be opened."""
    keys = Keys(settings.home)
    bar, advance = progress("opening what is remembered (offsets)", None)
    try:
        with bar:
            asyncio.run(agent_rollback.open_values(settings, found, keys.open, advance))
    except SluicegateError:
        if must:
            raise
    finally:
        keys.close()


def parse_to(text: str, undo: int = -1) -> To:
    """A position or a moment. Raises `Terminal` with what to write instead."""
    if undo >= 0:
        return To(undo=undo)
    at = position_of(text)
    return To(at=moment(text)) if at is None else To(cut=at[1], partition=at[0])


def _print(found: Look) -> None:
    title = f"{found.agent_id}: back to seq {found.cut} of partition {found.partition}"
    rows = agent_rollback.as_rows(found)
    show(COLUMNS, rows, Format.TABLE, title)
    out = console()
    if found.effects_count:
        out.print(f"{found.effects_count} calls since then were executed and are not undone by this:")
        for one in found.effects[:SHOWN]:
            out.print(
                f"  {one['intent_id']} ({one['class']}, {one['state']}): sluicegate rollback call {one['intent_id']}"
            )
        if found.effects_count > SHOWN:
            out.print(f"  and {found.effects_count - SHOWN:,} more, named by -o json")


def _as_json(found: Look, event: int, dry_run: bool) -> dict[str, object]:
    return {
        "agent_id": found.agent_id, "partition": found.partition, "cut": found.cut, "order": event, "dry_run": dry_run,
        "changes": [dict(zip(COLUMNS, row, strict=True)) for row in agent_rollback.as_rows(found)],
        "calls": found.calls, "not_undone": found.effects, "not_undone_count": found.effects_count,
    }  # fmt: skip


LISTED = frozenset(("release.rolled_back", ROLLED_BACK_KIND, "rollback.ordered"))


async def listed(settings: Settings) -> list[dict[str, object]]:
    """Every rollback that was ordered, the oldest first. Of calls: the last order of each saga, with how far it got."""
    control = (await control_log.read(settings)).control
    rows: dict[object, dict[str, object]] = {}
    for seq, at, kind, who, why, body in await control_events(settings, LISTED):
        row = _row(seq, at, who, why)
        if kind == "release.rolled_back":
            to = str(body.get("to", ""))
            row |= {"kind": "release", "what": "environment", "to": to}
            row["stands"] = "in force" if to == control.deployed else "deployed anew since"
            rows[seq] = row
        elif kind == ROLLED_BACK_KIND:
            agent, last = (
                str(body.get("agent_id", "")),
                control.agent_orders.get(str(body.get("agent_id", ""))),
            )
            to = f"seq {body['cut']}" if "cut" in body else iso(int(str(body.get("at", 0))), "microseconds")
            row |= {"kind": "agent", "what": agent, "to": to}
            row["stands"] = f"undoes {body['undoes']}" if "undoes" in body else ""
            if last is None or last.event != seq:
                row["stands"] = "another one followed"
            rows[seq] = row
        else:
            saga = str(body.get("saga", ""))
            rows.pop(saga, None)
            row |= {"kind": "call", "what": str(body.get("of_intent", "")), "to": "before it", "saga": saga,
                    "intent_id": str(body.get("of_intent", "")), "by": str(body.get("agent_id", ""))}  # fmt: skip
            counts = [
                one.state
                for ident, one in control.orders.items()
                if one.saga == saga and ident.startswith("undo-")
            ]
            row |= {
                "open": counts.count("ordered"),
                "done": counts.count("done"),
                "verified": counts.count("verified"),
            }
            row["stands"] = f"{row['open']} open, {row['done']} done, {row['verified']} verified"
            rows[saga] = row
    for order in control.agent_orders.values():  # several people agreed: no event of its kind
        if order.event not in rows:
            to = f"seq {order.cut}" if order.cut is not None else iso(order.at or 0, "microseconds")
            rows[order.event] = _row(order.event, 0, order.who, order.why) | {
                "kind": "agent", "what": order.agent_id, "to": to, "stands": "several people agreed",
            }  # fmt: skip
    return sorted(rows.values(), key=lambda one: int(str(one["event"])))


def _row(seq: int, at: int, who: str, why: str) -> dict[str, object]:
    return {
        "event": seq, "kind": "", "what": "", "to": "", "who": who, "why": why, "at": iso(at, "microseconds"), "stands": "",
        "saga": "", "intent_id": "", "by": "", "order": seq, "open": 0, "done": 0, "verified": 0,
    }  # fmt: skip
