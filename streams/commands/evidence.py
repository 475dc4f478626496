"""`sluicegate evidence`: a bundle that an auditor checks alone; `evidence controls`: records for the controls of known lists."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.labels import CONFIDENTIALITY
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import CheckpointFault
from sluicegate.schemas.errors import Retryable, Terminal, WrongUsage
from sluicegate.streams.cli_words import micros_of
from sluicegate.streams.commands.output import Format, console, progress, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.evidence.build import WITHHELD, Ask
from sluicegate.streams.evidence.bundle import Gathering
from sluicegate.streams.evidence.controls import CONTROLS, SENTENCE, Shown, ask, controls_page
from sluicegate.streams.evidence.file import verifier
from sluicegate.streams.evidence.ledger import EXIT
from sluicegate.streams.evidence.said import findings, numbers
from sluicegate.streams.evidence.verify import check
from sluicegate.streams.scan import Advance
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.witness_client import VARIABLE

DAYS = 30
MAX_TEXT_BYTES = 256 * 1024
"""A checkpoint or a policy."""


class Disclose(StrEnum):
    """How much content may be in it in the clear."""

    NONE = "none"
    PUBLIC = "public"
    INTERNAL = "internal"
    SECRET = "secret"


class Page(StrEnum):
    """Output formats of `evidence controls`."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(invoke_without_command=True)
    app.add_typer(group, name="evidence")
    group.command("controls")(controls)
    group.command("verifier")(print_verifier)

    @group.callback()
    def evidence(
        ctx: typer.Context,
        agent: Annotated[str, typer.Option("--agent", help="whose decisions")] = "",
        since: Annotated[str, typer.Option("--from", help="ISO 8601; UTC unless it says otherwise")] = "",
        until: Annotated[str, typer.Option("--to", help="ISO 8601, exclusive")] = "",
        output: Annotated[
            Path | None, typer.Option("-o", "--output", help="the bundle; never overwritten")
        ] = None,
        disclose: Annotated[
            Disclose,
            typer.Option(
                "--disclose",
                help="contents up to this label, in the clear; the keys of their subjects go with them",
            ),
        ] = Disclose.NONE,
        others: Annotated[
            bool,
            typer.Option(
                "--others/--no-others",
                help="headers of other agents' events, which show that none of this one's is left out",
            ),
        ] = True,
        kept: Annotated[
            list[Path] | None,
            typer.Option(
                "--kept", help="a checkpoint that the auditor kept: proofs lead from it; may be repeated"
            ),
        ] = None,
        policy: Annotated[
            Path | None, typer.Option("--policy", help=f"witness policy, else {VARIABLE}")
        ] = None,
    ) -> None:
        """Make a bundle an auditor checks alone: `sluicegate evidence --agent A --from 2026-07-01 --to 2026-10-01 -o q3.zip`.

        Contents stay sealed unless --disclose says otherwise; what was disclosed cannot be erased any more at whoever has
        the bundle. It is checked once made, and the answer is the exit code's: 0 VALID, ERASED or PENDING, 1 anything else.
        """
        if ctx.invoked_subcommand is not None:
            return
        if missing := [
            n for n, v in (("--agent", agent), ("--from", since), ("--to", until), ("-o", output)) if not v
        ]:
            raise typer.BadParameter(f"{', '.join(missing)} is missing: see `sluicegate evidence --help`")
        assert output is not None
        level = WITHHELD if disclose is Disclose.NONE else CONFIDENTIALITY.index(disclose.value)
        wanted = Ask(agent, micros_of(since), micros_of(until), level, others)
        if wanted.since >= wanted.until:
            raise WrongUsage(f"the period from `{since}` to `{until}` is empty: --to has to be later")
        _make(attach(Settings.from_env()), wanted, output, kept or [], policy)


def _make(settings: Settings, wanted: Ask, path: Path, kept: Sequence[Path], policy: Path | None) -> None:
    where = str(policy) if policy else os.environ.get(VARIABLE, "").strip()
    heads = {}
    for one in kept:
        try:
            head, _ = checkpoints.read(_text(one))
        except CheckpointFault as error:
            raise Terminal(f"`{one}`: {error}") from error
        heads[head.origin] = head.size
    shown, days = _shown(settings, DAYS)
    pages = {"controls.html": controls_page(shown, settings.env, days, _now())} if shown else {}
    bar, advance = progress("reading the ledger (offsets)", None)

    def on_start(total: int) -> Advance:
        bar.update(bar.task_ids[0], total=total)
        return advance

    work = Gathering(settings, wanted, heads, _text(Path(where)) if where else "", time.time_ns() // 1000)
    with bar:
        asyncio.run(work.make(path, pages, on_start))
    report = check(path)
    out = console()
    out.print(
        f"{report.verdict}: {path}, {path.stat().st_size:,} bytes, sha256 {report.said['bundle']}",
        markup=False,
    )
    out.print(numbers(report.said["counts"]), markup=False)
    for line in islice(findings(report), 20):
        out.print(line.strip(), markup=False)
    out.print("Tell the sha256 to the auditor by another way than the bundle.", markup=False)
    if EXIT[report.verdict] and report.verdict not in ("ERASED", "PENDING"):
        raise typer.Exit(1)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise Terminal(f"`{path}` has over {MAX_TEXT_BYTES} bytes, no checkpoint or policy has so many")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Terminal(f"`{path}` cannot be read, check its path") from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _shown(settings: Settings, days: int) -> tuple[list[Shown], int]:
    """Rows of `evidence controls`, or none where ClickHouse is away: a bundle does without."""
    try:
        return _asked(settings, days), days
    except (Retryable, Terminal):
        return [], days


def _asked(settings: Settings, days: int) -> list[Shown]:
    from sluicegate.sinks.embedded import connect, database

    client = connect(settings, "reader", database(settings))
    return ask(CONTROLS, days, lambda sql: client.query(sql).result_rows)


def controls(
    output: Annotated[Page, typer.Option("-o", "--output", help="table, json or html")] = Page.TABLE,
    days: Annotated[int, typer.Option("--days", min=1, max=3660, help="how far back")] = DAYS,
    framework: Annotated[str, typer.Option("--list", help="only rows whose list has this in its name")] = "",
) -> None:
    """Records for OWASP, EU AI Act, SOC 2 and NIST rows, by live queries, e.g. `sluicegate evidence controls --days 90 -o json`.

    A row says which records there are and how to ask for them; whether a control is met is for people to say.
    """
    settings = Settings.from_env()
    shown = [s for s in _asked(settings, days) if framework.lower() in s.control.framework.lower()]
    if not shown:
        raise WrongUsage(f"no list has `{framework[:80]}` in its name, see `sluicegate evidence controls`")
    if output is Page.HTML:
        print(controls_page(shown, settings.env, days, _now()), end="")
    elif output is Page.JSON:
        rows = [
            {"list": s.control.framework, "control": s.control.ident, "title": s.control.title, "says": f"{SENTENCE}: {s.control.records}",
             "records": s.count, "last": s.last, "error": s.error, "query": s.sql} for s in shown
        ]  # fmt: skip
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        table = [
            (
                s.control.framework,
                s.control.ident,
                s.control.title,
                s.control.records,
                s.error or s.count,
                s.last,
            )
            for s in shown
        ]
        show(("list", "control", "title", SENTENCE, f"in {days} days", "last"), table, Format.TABLE)


def print_verifier() -> None:
    """Print the `verify.py` of bundles, to hand over by another way: `sluicegate evidence verifier > verify.py`."""
    print(verifier(), end="")
