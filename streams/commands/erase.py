"""`sluicegate erase`: forget a person."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated

import typer
from sluicegate.streams import erasures
from sluicegate.streams.archive.artifacts import store_of
from sluicegate.streams.cli_words import an_id
from sluicegate.streams.commands.output import Format, OutputOption, console, progress, show
from sluicegate.streams.control import changes
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.erasures import Erased
from sluicegate.streams.expiry import expiries
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

COLUMNS = ("subject", "keys", "events", "sessions", "in flight", "artifacts", "state")
CLEAR = ("topic", "holds it until at the latest")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("erase")(erase)


def erase(
    subject: Annotated[
        list[str], typer.Option("--subject", help="whom, by the `subject` of their events; again for more")
    ],
    why: Annotated[str, typer.Option(help="for the record, kept for ever: name nobody in it")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be erased only")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Destroy a person's key, and all that is readable of them, e.g. `sluicegate erase --subject customer-4711 --dry-run`.

    There is no way back. Rows of ClickHouse's `contents` and artifacts go too; chain, proofs and state stay as they are, and say by
    which event it was erased. Calls in flight end; sessions of before take no more. Interrupted, run it again.
    """
    for one in subject:
        an_id(one)
    settings = attach(Settings.from_env())
    keys = Keys(settings.home)
    try:
        found = asyncio.run(_run(settings, keys, subject, why, dry_run))
    finally:
        keys.close()
    if output is Format.JSON:
        print(json.dumps(erasures.as_json(found, dry_run=dry_run), indent=2, ensure_ascii=False))
        return
    show(COLUMNS, erasures.as_rows(found), output)
    if output is not Format.TABLE:
        return
    console().print(_said(found, dry_run), markup=False)
    if found.expiry:
        print()
        show(CLEAR, [(one.topic, one.text) for one in found.expiry], output, "In the clear in Kafka:")


async def _run(settings: Settings, keys: Keys, subjects: list[str], why: str, dry_run: bool) -> Erased:
    control = await changes.look(settings)
    bar, advance = progress("reading the ledger (events)", None)
    with bar:
        looks = await erasures.look(settings, keys, control, subjects, advance)
    if dry_run:
        return Erased(looks, expiry=await expiries(settings, time.time_ns() // 1_000_000))
    bar, advance = progress("erasing", None)
    with bar:

        def told(what: str) -> None:
            bar.update(bar.task_ids[0], description=f"erasing: {what}")
            advance(1)

        return await erasures.carry_out(
            settings, keys, control, looks, store_of(settings), why=why, told=told
        )


def _said(found: Erased, dry_run: bool) -> str:
    if dry_run:
        return "nothing was done: --dry-run"
    if found.proposed:
        return (
            f"proposed as control event {found.event}, which takes {found.proposed} people: another one agrees with "
            f"`sluicegate changes agree {found.event}`, then run this again. Nothing was destroyed yet"
        )
    again = all(one.done is not None and not one.live for one in found.looks)
    done = f"erased by control event {found.event}" + (", before: nothing new was there" if again else "")
    return f"{done}; {found.rows:,} row(s) of clickhouse and {found.artifacts:,} artifact(s) removed"
