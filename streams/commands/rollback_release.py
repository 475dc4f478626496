"""`sluicegate rollback release`: back to an earlier release, and with `--dry-run` all that it would change.

Next: `streams/control/deployments.py` (the plan), `processors/releases/moves.py` (who is decided under what), `release_diff.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from sluicegate.processors.releases.diff import Change, Side, diff
from sluicegate.processors.releases.moves import Move, after_it, moves
from sluicegate.processors.releases.release import compile_release
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import deployments, releases
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import operator
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect.open_intents import open_sessions
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

COLUMNS = ("what", "which", "before", "after", "sessions")
DIFFERS = ("part", "name", "change", "sentence")


@dataclass(frozen=True, slots=True)
class Look:
    """What a rollback would do. `differs`: of the release that goes against the one that comes."""

    said: str
    moves: Sequence[Move]
    differs: Sequence[Change]


def add_to(rollback: typer.Typer) -> None:
    """Add the command to `rollback`."""

    @rollback.command("release")
    def rollback_release(
        to: Annotated[
            str, typer.Option("--to", help="digest or name; the last known good one if left out")
        ] = "",
        why: Annotated[str, typer.Option(help="for the record")] = "",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would change only")] = False,
        output: OutputOption = Format.TABLE,
    ) -> None:
        """Go back to the last known good release, for every session, e.g. `sluicegate rollback release --why "refunds loop"`.

        Releases deployed after it are withdrawn from open sessions; a running canary ends. Deploying again takes it back.
        `--dry-run` shows who would be decided under what, how many open sessions move, and which policies and tools differ.
        """
        settings = attach(Settings.from_env())
        plan = deployments.roll_back(to)
        if dry_run:
            _show(asyncio.run(look(settings, plan)), output)
            return
        done = asyncio.run(deployments.change(settings, Keys(settings.home), plan, why))
        if output is Format.TABLE:
            console().print(f"{done.said} (control event {done.head})", markup=False)
        else:
            show(("event", "said", "waits"), [(done.head, done.said, done.waits)], output)


async def look(settings: Settings, plan: deployments.Plan) -> Look:
    """Read control and the ledger; writes nothing. Raises `Terminal` for what could not be done."""
    control = (await control_log.read(settings, with_release=True)).control
    done = await deployments.change(settings, Keys(settings.home), plan, "", dry_run=True)
    [(kind, body)], _ = plan(control)
    after = after_it(control, kind, body, operator(), control_log.clock(control))
    found = moves(control, after, await open_sessions(settings))
    sides = [await _side(settings, digest) for digest in (control.deployed, after.deployed)]
    return Look(done.said, found, diff(*sides))


async def _side(settings: Settings, digest: str) -> Side:
    files = await releases.fetch(settings, digest)
    return files, compile_release(files, proven=True)


def _show(found: Look, output: Format) -> None:
    if output is Format.JSON:
        told = {
            "would_be": found.said,
            "moves": [one._asdict() for one in found.moves],
            "differs": [asdict(one) for one in found.differs],
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    if output is not Format.TABLE:
        show(COLUMNS, [tuple(one) for one in found.moves], output)
        return
    console().print(f"would be: {found.said}", markup=False)
    show(
        COLUMNS,
        [(m.what, _short(m.which), _short(m.before), _short(m.after), m.sessions or "") for m in found.moves],
        output,
    )
    show(DIFFERS, [(d.part, d.name, d.change, d.sentence) for d in found.differs], output, "what differs")


def _short(text: str) -> str:
    return text[:19] if text.startswith("sha256:") else text
