"""`sluicegate alarms list | show | ack | bounds | backtest`: what the sentinel raised, and what rules would raise."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import yaml
from pydantic import ValidationError
from sluicegate.processors.drift.alarm_events import Alarm
from sluicegate.processors.drift.rules import DriftRow, compile_drift
from sluicegate.schemas.errors import SluicegateError, Terminal, WrongUsage
from sluicegate.schemas.times import iso
from sluicegate.streams.cli_words import micros_of
from sluicegate.streams.commands.output import Format, OutputOption, console, progress
from sluicegate.streams.commands.output import show as print_rows
from sluicegate.streams.control import alarms as operations
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.changes import came_of
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import alarm_backtest, alarm_evidence
from sluicegate.streams.watch.alarm_backtest import Backtest
from sluicegate.streams.watch.sentinel_service import clickhouse

alarms = typer.Typer(help="What the sentinel raised, and what rules would raise.", no_args_is_help=True)

Ident = Annotated[str, typer.Argument(help="its id, or the beginning of it", metavar="ID")]
Why = Annotated[str, typer.Option(help="for the record")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change only")]
COLUMNS = ("id", "raised_at", "stream", "release", "action", "done", "held_back", "acked_by")
FIRED = ("at", "stream", "release", "action", "held_back", "late_s", "verdict", "said")
EXIT_FOUND = 1


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(alarms, name="alarms")


@alarms.command("list")
def alarms_list(
    everything: Annotated[bool, typer.Option("--all", help="those that were acknowledged, too")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List alarms that wait for a person, newest first, e.g. `sluicegate alarms list --all -o json`."""
    found = asyncio.run(operations.known(attach(Settings.from_env()), only_open=not everything))
    print_rows(COLUMNS, [_row(alarm) for alarm in found], output)


@alarms.command("show")
def alarms_show(ident: Ident, output: OutputOption = Format.TABLE) -> None:
    """Show one alarm and compute its evidence again from ClickHouse, e.g. `sluicegate alarms show 3fa9`.

    Exits with 1 when it does not come out the same.
    """
    settings = attach(Settings.from_env())
    alarm, body = asyncio.run(operations.show(settings, ident))
    try:
        found = alarm_evidence.recompute(clickhouse(settings), body)
        again = "not asked: nothing was seen" if found is None else "differs" if found else "the same"
    except SluicegateError as error:
        found, again = None, f"not possible: {error}"
    differs = [{"name": d.name, "then": d.then, "now": d.now} for d in found or ()]
    if output is not Format.TABLE:
        stands = dict(zip(COLUMNS, _row(alarm), strict=True))
        print(
            json.dumps(
                {**body, **stands, "computed_again": again, "differences": differs}, indent=2, default=str
            )
        )
    else:
        _print(alarm, body, again, differs)
    if differs:
        raise typer.Exit(EXIT_FOUND)


@alarms.command("ack")
def alarms_ack(ident: Ident, why: Why = "", dry_run: DryRun = False) -> None:
    """Say that a person has seen it, e.g. `sluicegate alarms ack 3fa9 --why "fixed in 1.4"`.

    What it did stays done; the sentinel gets room for one more automatic action.
    """
    settings = attach(Settings.from_env())
    alarm, came = asyncio.run(operations.ack(settings, Keys(settings.home), ident, why, dry_run=dry_run))
    text = "would be acknowledged" if dry_run else came_of("acknowledged", *came)
    console().print(f"alarm `{alarm.alarm_id}`: {text}", markup=False)


@alarms.command("bounds")
def alarms_bounds(
    unacknowledged: Annotated[int | None, typer.Option(min=0, max=1_000, help="automatic actions that nobody has acknowledged")] = None,
    per_day: Annotated[int | None, typer.Option(min=0, max=10_000, help="automatic actions within 24 h")] = None,
    why: Why = "",
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Show or set how much is done without a person, e.g. `sluicegate alarms bounds --unacknowledged 0`: nothing."""
    settings = attach(Settings.from_env())
    if unacknowledged is None and per_day is None:
        bounds = asyncio.run(control_log.read(settings)).control.bounds
        console().print(f"unacknowledged {bounds.unacknowledged}, per day {bounds.per_day}", markup=False)
        return
    came = asyncio.run(
        operations.bound(settings, Keys(settings.home), unacknowledged, per_day, why, dry_run=dry_run)
    )
    console().print("would be set" if dry_run else came_of("set", *came), markup=False)


@alarms.command("backtest")
def alarms_backtest(
    rules: Annotated[Path, typer.Option("--rules", help="a release.yaml, or its `drift:` section alone")],
    start: Annotated[str, typer.Option("--from", help="ISO 8601; UTC unless it says otherwise")],
    end: Annotated[str, typer.Option("--to", help="until then; now when absent")] = "",
    incident: Annotated[list[str] | None, typer.Option(help="when something went wrong: alarms within a day after it are about it; may be repeated")] = None,
    output: OutputOption = Format.TABLE,
) -> None:  # fmt: skip
    """Ask when rules would have fired, what they would have done, how late, and how often for nothing.

    E.g. `sluicegate alarms backtest --rules candidate.yaml --from 2026-11-01 --incident 2026-11-20T14:03`. What an action
    would have changed did not happen: the traffic after it is what it was. What is about no incident is for nothing, so name
    all that there were. Exits with 1 when one was missed.
    """
    drift = compile_drift(read_rules(rules))
    settings = attach(Settings.from_env())
    begin, until = micros_of(start), micros_of(end) if end else _now_us()
    if begin >= until:
        raise WrongUsage(f"`--from {start}` is not before `--to {end or 'now'}`, exchange them")
    labelled = [micros_of(text) for text in incident or ()]
    for text, when in zip(incident or (), labelled, strict=True):
        if not begin <= when < until:
            raise WrongUsage(f"`--incident {text}` is not between `--from {start}` and `--to {end or 'now'}`")
    history = asyncio.run(control_log.read(settings, keep_history=True, with_release=True)).history or []
    if not history:
        raise Terminal("control holds nothing yet, start with `sluicegate up`")
    bar, advance = progress("feeding (minutes)", (until - begin) // 60_000_000)
    with bar:
        at = [begin]

        def moved(now: int) -> None:
            advance((now - at[0]) // 60_000_000)
            at[0] += (now - at[0]) // 60_000_000 * 60_000_000

        found = alarm_backtest.backtest(clickhouse(settings), drift, history, begin, until, labelled, moved)
    _report(found, output)
    if None in found.late_s.values():
        raise typer.Exit(EXIT_FOUND)


def read_rules(path: Path) -> DriftRow:
    """The rules of a file. Raises `Terminal` with what is wrong."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Terminal(f"`{path}` cannot be read: {said}, point at a release.yaml") from error
    section = found.get("drift", {} if "name" in found else found) if isinstance(found, dict) else found
    try:
        return DriftRow.model_validate(section)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Terminal(f"`{where or path}` of `{path}`: {first['msg']}, see docs/monitoring.md") from error


def _report(found: Backtest, output: Format) -> None:
    rows = [
        (iso(f.at), f.stream, f.release.removeprefix("sha256:")[:12], f.action, f.held_back, f.late_s, f.verdict, f.said)
        for f in found.fired
    ]  # fmt: skip
    if output is Format.JSON:
        print(json.dumps({
            "alarms": [dict(zip(FIRED, row, strict=True)) for row in rows], "from": iso(found.start), "to": iso(found.end),
            "buckets": found.buckets, "streams": found.streams, "false": found.false,
            "incidents": [{"at": iso(at), "late_s": late} for at, late in found.late_s.items()], "missing_outcomes": found.missing,
        }, indent=2))  # fmt: skip
        return
    print_rows(FIRED, rows, output)
    if output is not Format.TABLE:
        return
    out = console()
    hours = (found.end - found.start) / 3.6e9
    out.print(f"{len(rows)} alarm(s) of {found.streams} streams in {hours:,.1f} h", markup=False)
    for at, late in found.late_s.items():
        said = "missed" if late is None else f"found {late:,.0f} s after it"
        out.print(f"incident of {iso(at)}: {said}", markup=False)
    if found.false is not None:
        out.print(f"{found.false} alarm(s) for nothing", markup=False)
    if found.missing:
        out.print(
            f"blind: {found.missing:,} outcomes are missing in ClickHouse; what is not there fires nothing",
            markup=False,
        )


def _row(a: Alarm) -> tuple[object, ...]:
    done = f"control event {a.acted}" if a.acted >= 0 else ""
    release = a.release.removeprefix("sha256:")[:12]
    return (a.alarm_id, iso(a.at), a.stream, release, a.action, done, a.held_back, a.acked_by)


def _print(alarm: Alarm, body: dict[str, object], again: str, differs: list[dict[str, object]]) -> None:
    out = console()
    lines = [(name, value) for name, value in zip(COLUMNS, _row(alarm), strict=True) if value != ""]
    lines.append(("said", body.get("said", "")))
    evidence = cast("dict[str, Any]", body.get("evidence") or {})
    shown = {name: iso(value) if name in ("since", "began", "until", "begun") and value else value for name, value in evidence.items()}  # fmt: skip
    lines += [(f"  {name}", json.dumps(value) if isinstance(value, dict | list) else value) for name, value in shown.items()]  # fmt: skip
    lines.append(("again", f"{again} (computed from ClickHouse now)"))
    lines += [(f"  {d['name']}", f"{d['then']} then, {d['now']} now") for d in differs]
    for name, value in lines:
        out.print(f"{name:<14} {value}", markup=False)


def _now_us() -> int:
    return int(datetime.now(UTC).timestamp() * 1e6)
