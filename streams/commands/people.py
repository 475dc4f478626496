"""`sluicegate people register | list | remove`: who may review held calls."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import operations
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

people = typer.Typer(help="Register, list and remove the people who review.", no_args_is_help=True)

Person = Annotated[
    str, typer.Argument(help="an id of your own; on the ledger for ever, so no e-mail address")
]
Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(people, name="people")


@people.command("register")
def people_register(
    person: Person,
    role: Annotated[list[str] | None, typer.Option("--role", help="may be given more than once")] = None,
    name: Annotated[str, typer.Option(help="shown in listings; kept for ever")] = "",
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Register a person or change one, e.g. `sluicegate people register ana --role treasury --name Ana`."""
    row: operations.Row = {"person_id": person, "name": name, "roles": role or []}
    settings = attach(Settings.from_env())
    head, waits = asyncio.run(
        operations.register_people(settings, Keys(settings.home), [row], why, dry_run=dry_run)
    )
    text = f"registered `{person}` as control event {head}"
    if waits:
        text = f"proposed to register `{person}`; it takes {waits} people: sluicegate changes list (control event {head})"
    console().print(f"would register `{person}`" if dry_run else text)


@people.command("list")
def people_list(output: OutputOption = Format.TABLE) -> None:
    """List the people who may review, e.g. `sluicegate people list -o json`."""
    settings = attach(Settings.from_env())
    control = asyncio.run(control_log.read(settings)).control
    rows = [(p.person_id, p.name, " ".join(p.roles)) for p in control.people.values()]
    show(("person", "name", "roles"), sorted(rows), output)


@people.command("remove")
def people_remove(person: Person, why: Why = "", dry_run: DryRun = False) -> None:
    """Remove a person: approvals of calls still held no longer count, e.g. `sluicegate people remove ana`."""
    settings = attach(Settings.from_env())
    head = asyncio.run(
        operations.remove_people(settings, Keys(settings.home), [person], why, dry_run=dry_run)
    )
    console().print(f"would remove `{person}`" if dry_run else f"removed `{person}` as control event {head}")
