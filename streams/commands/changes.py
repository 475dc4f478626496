"""`sluicegate changes list | show | agree | withdraw`: control events that take several people."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from sluicegate.processors.control.changes import Change, ended
from sluicegate.processors.control.control import Control
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import changes as log
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

changes = typer.Typer(help="Changes of control that take several people.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="CHANGE", help="its number, from `changes list`")]
Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]

COLUMNS = ("change", "event", "about", "proposed by", "agreed", "takes", "expires", "stands")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(changes, name="changes")


@changes.command("list")
def changes_list(output: OutputOption = Format.TABLE) -> None:
    """List what was proposed and waits for more people, e.g. `sluicegate changes list`."""
    control = asyncio.run(log.look(attach(Settings.from_env())))
    show(COLUMNS, [_row(control, change) for change in control.changes.values()], output)


@changes.command("show")
def changes_show(number: Number) -> None:
    """Print a proposed event in full, to read before you agree, e.g. `sluicegate changes show 17`."""
    control = asyncio.run(log.look(attach(Settings.from_env())))
    change = log.find(control, number)
    about = dict(zip(COLUMNS, _row(control, change), strict=True))
    print(
        json.dumps(
            {**about, "body": dict(change.body), "sha256": change.digest}, indent=2, ensure_ascii=False
        )
    )


@changes.command("agree")
def changes_agree(number: Number, why: Why = "", dry_run: DryRun = False) -> None:
    """Agree to a change that another person proposed, e.g. `sluicegate changes agree 17 --why "reviewed the diff"`.

    It is done as soon as everybody it takes has agreed, unless which release decides has changed since: then it is void.
    """
    settings = attach(Settings.from_env())
    head, change, done = asyncio.run(log.agree(settings, Keys(settings.home), number, why, dry_run=dry_run))
    then = f"`{change.kind}` is done" if done else "it waits for more people"
    text = f"would agree: {then}" if dry_run else f"agreed to change {number}, {then} (control event {head})"
    console().print(text, markup=False)


@changes.command("withdraw")
def changes_withdraw(number: Number, why: Why = "", dry_run: DryRun = False) -> None:
    """Take a proposed change back, e.g. `sluicegate changes withdraw 17 --why "wrong digest"`."""
    settings = attach(Settings.from_env())
    head = asyncio.run(log.withdraw(settings, Keys(settings.home), number, why, dry_run=dry_run))
    text = "would be withdrawn" if dry_run else f"withdrawn (control event {head})"
    console().print(f"change {number}: {text}", markup=False)


def _row(control: Control, change: Change) -> tuple[object, ...]:
    about = change.body.get("digest") or change.body.get("to") or change.body.get("kid") or ""
    until = iso(change.expires_at)
    stands = ended(control, change, control_log.clock(control)) or "waits"
    return (
        change.seq, change.kind, str(about), change.who, ", ".join(change.agreed), change.quorum, until, stands,
    )  # fmt: skip
