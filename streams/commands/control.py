"""`sluicegate deploy | pin | unpin`: which release decides. Back to an earlier one: `rollback_release.py`; canaries: `canary.py`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.control.deployments import PIN_SCOPES
from sluicegate.streams.cli_words import one_of
from sluicegate.streams.commands.output import console, printable
from sluicegate.streams.commands.release import check
from sluicegate.streams.control import deployments
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]
What = Annotated[str, typer.Argument(help="a release folder, a built file, or the digest (or its beginning) or name of a published one")]  # fmt: skip
Scope = Annotated[str, typer.Argument(help="agent or session")]
Value = Annotated[str, typer.Argument(help="its id", metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def deploy(
        what: What,
        why: Why = "",
        now: Annotated[bool, typer.Option("--now", help="for open sessions, too")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="of a folder: `sluicegate release check` only")
        ] = False,
    ) -> None:
        """Check, publish and deploy a release, e.g. `sluicegate deploy examples/release --why "first release"`.

        Sessions that are open stay on the release they began under; `--now` moves them, too. Of a release whose canary was just
        aborted it says so on stderr.
        """
        if dry_run and Path(what).is_dir():
            check(Path(what))
            return
        settings = attach(Settings.from_env())
        before, digest = asyncio.run(deployments.known(settings, what, dry_run=dry_run))
        if aborted := asyncio.run(deployments.aborted_canary(settings, digest)):
            print(f"note: {printable(aborted)}", file=sys.stderr)
        done = change_now(deployments.deploy(before, digest, now=now), why, dry_run, settings)
        if dry_run or done.waits:
            say(done, dry_run)
        else:
            console().print(f"deployed {digest} as control event {done.head}", markup=False)

    @app.command()
    def pin(scope: Scope, value: Value, digest: What, why: Why = "", dry_run: DryRun = False) -> None:
        """Have one agent or session decided under one release, e.g. `sluicegate pin agent triage-1 sha256:4c1f…`.

        It counts before all that is deployed, canaries included, until `sluicegate unpin`.
        """
        one_of("scope", scope, PIN_SCOPES)
        say(change_now(deployments.pin(scope, value, digest), why, dry_run), dry_run)

    @app.command()
    def unpin(scope: Scope, value: Value, why: Why = "", dry_run: DryRun = False) -> None:
        """Take a pin back, e.g. `sluicegate unpin agent triage-1`."""
        one_of("scope", scope, PIN_SCOPES)
        say(change_now(deployments.unpin(scope, value), why, dry_run), dry_run)


def change_now(
    plan: deployments.Plan, why: str, dry_run: bool, settings: Settings | None = None
) -> deployments.Change:
    """Look at control, and write what the plan says of it."""
    settings = settings or attach(Settings.from_env())
    return asyncio.run(deployments.change(settings, Keys(settings.home), plan, why, dry_run=dry_run))


def say(done: deployments.Change, dry_run: bool) -> None:
    """What was done, or would be."""
    text = f"would be: {done.said}" if dry_run else f"{done.said} (control event {done.head})"
    console().print(text, markup=False)
