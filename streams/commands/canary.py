"""`sluicegate canary start | status | explain | pause | resume | promote | abort`: a release tried on some of the new sessions."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer
from rich.console import Console
from sluicegate.processors.canary import words as canary_words
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams.commands.canary_text import COLUMNS, NONE, follow, headline, places, rows_of
from sluicegate.streams.commands.control import DryRun, What, Why, change_now, say
from sluicegate.streams.commands.output import Format, OutputOption, Row, console, show
from sluicegate.streams.control import deployments
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import canary_evidence, canary_watcher
from sluicegate.streams.watch.canary_evidence import SOURCES

canary = typer.Typer(help="Try a release on some of the new sessions.", no_args_is_help=True)

DIFFERENT_EXIT = 3
"""`explain`: the evidence does not come out the same."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(canary, name="canary")


@canary.command("start")
def canary_start(
    what: What,
    weight: Annotated[str, typer.Option(help="share of new sessions, e.g. 10%")] = "10%",
    auto: Annotated[
        bool, typer.Option("--auto/--manual", help="promoted or aborted by its sessions, or by a person")
    ] = True,
    why: Why = "",
    dry_run: DryRun = False,
) -> None:
    """Decide some of the new sessions under another release, e.g. `sluicegate canary start ./candidate --weight 10%`.

    By its sessions: aborted once they are worse for certain, promoted once they are certainly not worse by the margins, as
    `canary:` of the deployed release says; see docs/canaries.md. It takes the role `monitor` and ClickHouse.
    """
    deployments.weight_of(weight)
    settings = attach(Settings.from_env())
    before, digest = asyncio.run(deployments.known(settings, what, dry_run=dry_run))
    say(
        change_now(deployments.start_canary(before, digest, weight, auto=auto), why, dry_run, settings),
        dry_run,
    )


def _ending(kind: str, name: str, text: str) -> None:
    def command(why: Why = "", dry_run: DryRun = False) -> None:
        say(change_now(deployments.end_canary(kind), why, dry_run), dry_run)

    command.__doc__ = text
    canary.command(name)(command)


_ending("paused", "pause", "Draw no new session into the canary, e.g. `sluicegate canary pause`.")
_ending("resumed", "resume", "Draw new sessions into it again, e.g. `sluicegate canary resume`.")
_ending("promoted", "promote", "Make it the environment's release, e.g. `sluicegate canary promote`.")
_ending("aborted", "abort", "End it, for its open sessions too, e.g. `sluicegate canary abort`.")


@canary.command("status")
def canary_status(
    watch: Annotated[bool, typer.Option("--watch", help="look again and again, until it ends")] = False,
    every: Annotated[
        float, typer.Option("--every", min=0.1, help="with --watch: seconds between looks")
    ] = 2.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """What is running, and what its sessions say so far, metric by metric, e.g. `sluicegate canary status --watch`.

    e_value: reaching `abort_at` aborts it; a canary that differs in nothing gets there with probability alpha at most, however
    often anybody looks. worse_by: where the difference lies, for certain; once it is below the margin everywhere it is promoted.
    """
    settings = attach(Settings.from_env())

    watched: canary_watcher.Watched | None = None

    def look() -> tuple[str, list[Row]] | None:
        nonlocal watched
        control, watched = asyncio.run(canary_watcher.examine(settings, watched))
        if watched is None:
            return None
        evidence = watched.evidence()
        return headline(control, watched, evidence), rows_of(evidence)

    if watch:
        follow(look, output, lambda: time.sleep(every))
        return
    found = look()
    if found is None and output is Format.TABLE:
        console().print(NONE)
        return
    if found is None:
        found = "", []
    if output is Format.TABLE:
        console().print(found[0], markup=False)
    show(COLUMNS, found[1], output)


@canary.command("explain")
def canary_explain(
    event: Annotated[int | None, typer.Argument(help="control event; the last verdict if left out")] = None,
    source: Annotated[
        str, typer.Option("--from", help="compute it anew from clickhouse, the ledger, or both")
    ] = "both",
    output: OutputOption = Format.TABLE,
) -> None:
    """Why a canary was ended, computed anew from the log, e.g. `sluicegate canary explain`.

    Exit code 3: it does not come out the same.
    """
    if source not in (*SOURCES, "both"):
        raise typer.BadParameter(f"`{source[:40]}` is none of {', '.join(SOURCES)}, both")
    settings = attach(Settings.from_env())
    verdict = asyncio.run(canary_evidence.find(settings, event))
    out = console()
    if output is Format.TABLE:
        out.print(
            f"control event {verdict.event}, {verdict.kind} by {verdict.who}: {verdict.why}\n"
            f"sessions of both arms by the draw of control event {verdict.canary.started}, in close order up to "
            f"{places(verdict.evidence)}; shares are of all that closed",
            markup=False,
        )
    show(COLUMNS, rows_of(verdict.evidence), output)
    for one in SOURCES if source == "both" else (source,):
        _compare(settings, verdict, one, output)


def _compare(settings: Settings, verdict: canary_evidence.Verdict, source: str, output: Format) -> None:
    """Say whether the evidence comes out the same from one source. Exits when it does not."""
    out = console() if output is Format.TABLE else Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        found = asyncio.run(canary_evidence.again(settings, verdict, source))
    except SluicegateError as error:
        out.print(f"from {source}: not computed: {error}", markup=False)
        raise typer.Exit(1) from error
    different = canary_evidence.differences(verdict.evidence, found)
    if not different:
        out.print(f"computed anew from {source}: the same, {found['sha256']}", markup=False)
        return
    out.print(f"computed anew from {source}: different in {', '.join(different)}", markup=False)
    out.print(f"  now: {found['verdict']}: {canary_words.why(found)}", markup=False)
    raise typer.Exit(DIFFERENT_EXIT)
