"""`sluicegate in-doubt list | resolve`: calls of which nobody knows whether they happened."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.jobs.resolve import COMPENSATED, HAPPENED, LOOK_UP, VERDICTS
from sluicegate.schemas.errors import WrongUsage
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import Resolution
from sluicegate.schemas.times import iso
from sluicegate.streams import reviewing
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.commands.rollback_text import print_tree
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect.open_intents import open_intents
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.undo import doubt
from sluicegate.streams.undo.saga import How

in_doubt = typer.Typer(help="Calls of which nobody knows whether they happened.", no_args_is_help=True)
COLUMNS = ("intent_id", "agent_id", "session_id", "tool", "class", "attempt", "claimed_at", "idempotency_key")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(in_doubt, name="in-doubt")


@in_doubt.command("list")
def in_doubt_list(
    agent: Annotated[str, typer.Option("--agent", help="only this agent's")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """List calls in doubt, the oldest first, e.g. `sluicegate in-doubt list -o json`.

    Read from the ledger itself. The idempotency key is what the tool was sent: look for it in the tool's own records.
    """
    from sluicegate.processors.plan import idempotency_key

    settings = attach(Settings.from_env())
    entries = asyncio.run(open_intents(settings, ("in_doubt",)))
    rows = [
        (
            e.intent_id, e.agent_id, e.session_id, e.tool, e.tool_class, e.attempt, iso(e.claimed_at),
            idempotency_key(e.tenant, e.agent_id, e.intent_id, e.action_digest),
        )
        for e in entries
        if agent in ("", e.agent_id)
    ]  # fmt: skip
    show(COLUMNS, rows, output)


@in_doubt.command("resolve")
def in_doubt_resolve(
    intent: Annotated[str, typer.Argument(help="as `in-doubt list` has it")],
    verdict: Annotated[
        str,
        typer.Argument(
            help="happened, did-not-happen, look-up: ask the tool by the key, or compensated: take it back first"
        ),
    ],
    agent: Annotated[str, typer.Option("--agent", help="whose call it is")],
    person: Annotated[str, typer.Option("--as", help="you, as `sluicegate people register` knows you")],
    result: Annotated[str, typer.Option(help="the tool's result as JSON, if you found it")] = "",
    why: Annotated[str, typer.Option(help="what you looked at; the agent's developer is told")] = "",
    key: Annotated[Path | None, typer.Option("--key", help="signed environments: your key file")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be sent only")] = False,
    by: Annotated[
        str, typer.Option("--by", help="compensated: the agent that takes it back [default: rollback-TENANT]")
    ] = "",
    by_key: Annotated[
        Path | None, typer.Option("--by-key", help="compensated, signed environments: its key file")
    ] = None,
    channel_key: Annotated[
        Path | None,
        typer.Option("--channel-key", help="compensated, signed environments: a channel's key file"),
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="compensated: seconds to wait for each call")] = 30.0,
) -> None:
    """Say what became of a call, e.g. `sluicegate in-doubt resolve i-7 happened --agent banking-agent --as ana`.

    Look at the tool's own records before. It is for ever: a receipt that comes later changes nothing any more. The call
    is not repeated; after `did-not-happen` the agent has to ask again. `look-up` needs a `lookup` in the contract.
    `compensated` takes the call for one that happened, runs the contract's `compensate` and `verify` as `rollback call`
    does, and then resolves it by that; run again, it goes on where it stopped. Exit code 1 and the reason when nothing changed.
    """
    word = verdict.replace("-", "_")
    if word not in VERDICTS:
        raise WrongUsage(
            f"verdict `{verdict[:40]}` is not happened, did-not-happen, look-up or compensated, choose one"
        )
    found = _json(result, word)
    if word == COMPENSATED:
        how = How(why, timeout_s, by_key, channel_key)
        _compensate(intent, agent, by, how, doubt.Said(person, why, key), dry_run)
        return
    if dry_run:
        text = f"would resolve `{intent}` of `{agent}` as {word}"
        console().print(text, markup=False)
        return
    said = Resolution(uuid.uuid4().hex, agent, intent, word, person, time.time_ns() // 1000, why, found)
    [event, *_] = asyncio.run(reviewing.send(attach(Settings.from_env()), said, key=key))
    if event.header.status == "resolved":
        console().print(f"resolved `{intent}`: {word}, recorded as seq {event.header.seq}", markup=False)
        return
    if word == LOOK_UP and event.header.status == "parked":
        console().print(f"the tool is asked about `{intent}`: sluicegate explain {intent}", markup=False)
        return
    reason = event.header.reason
    remedy = REASONS[reason].remedy if reason in REASONS else ""
    console().print(f"not resolved: {reason}. {remedy}", markup=False)
    raise typer.Exit(1)


def _compensate(intent: str, agent: str, by: str, how: How, said: doubt.Said, dry_run: bool) -> None:
    """Take the call back, then resolve it."""
    settings, out = attach(Settings.from_env()), console()
    keys = Keys(settings.home)
    try:
        plan = asyncio.run(doubt.doubt_plan(settings, keys, intent, agent, by))
        if doubt.root(plan).call.state == "resolved":
            out.print(f"`{intent}` was resolved so before", markup=False)
            return
        print_tree(plan, f"before: {plan.saga}, carried out by {plan.by}")
        if dry_run:
            if plan.waits_for:
                out.print(f"first: {plan.waits_for}", markup=False)
            return
        header = asyncio.run(doubt.settle(settings, keys, plan, how, said))
    finally:
        keys.close()
    print_tree(plan, "after")
    if header is not None and header.status == "resolved":
        out.print(f"resolved `{intent}`: compensated, recorded as seq {header.seq}", markup=False)
        return
    reason = header.reason if header is not None else doubt.stands_because(plan)
    out.print(f"not resolved: {reason}", markup=False)
    raise typer.Exit(1)


def _json(result: str, verdict: str) -> bytes | None:
    if not result:
        return None
    if verdict != HAPPENED:
        raise WrongUsage("what did not happen has no result, leave `--result` out")
    try:
        return json.dumps(json.loads(result), ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise WrongUsage(f"result `{result[:60]}` is not JSON: {error}") from error
