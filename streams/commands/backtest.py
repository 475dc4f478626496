"""`sluicegate replay --mode diff`: which decisions another release would change, as rows and for CI."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import typer
from rich.markup import escape
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.diff import Answer, Group
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams import junit
from sluicegate.streams.commands.output import Format, bars, console, show, took
from sluicegate.streams.control.releases import read_folder
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.replay import Diffed, How, diff
from sluicegate.streams.replay.window import Window
from sluicegate.streams.settings import Settings

EXIT_CHANGED = 1
SHOWN = 40
"""Kinds of change on a table; the other formats have all."""


def run(
    folder: Path, window: Window, output: Format, junit_file: Path | None, *, max_changes: str, how: How | None = None
) -> None:  # fmt: skip
    """Diff, print, and exit with 1 when more changes than allowed. Raises `Terminal` when it cannot."""
    allowed = threshold(max_changes)
    candidate = compile_release(read_folder(folder))
    result = _diff(attach(Settings.from_env()), window, candidate, how or How())
    report(result, output)
    if junit_file is not None:
        junit.write(junit_file, f"replay diff {candidate.name} {candidate.version}", junit_cases(result))
    if beyond(result, allowed):
        raise typer.Exit(EXIT_CHANGED)


def threshold(text: str) -> tuple[float, bool]:
    """(number, whether it is a percentage). Raises `Terminal`."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise WrongUsage(f"`--max-changes {text}` is no number, write `20` or `0.5%`")
    return value, text.strip().endswith("%")


def beyond(result: Diffed, allowed: tuple[float, bool]) -> bool:
    """Whether more inputs came out otherwise than allowed. Speculative ones follow from others and do not count."""
    changed, (limit, percent) = result.total("changed"), allowed
    return changed > (limit * result.total("compared") / 100 if percent else limit)


def _diff(settings: Settings, window: Window, candidate: CompiledRelease, how: How) -> Diffed:
    keys = Keys(settings.home)
    try:
        with bars("deciding again (offsets)") as on_start:
            return asyncio.run(diff(settings, window, keys.open, candidate, how=how, on_start=on_start))
    finally:
        keys.close()


def report(result: Diffed, output: Format) -> None:
    """Print what changes: kinds of change as rows, or everything as JSON."""
    if output is Format.JSON:
        print(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
        return
    columns = (
        "tool",
        "agent",
        "count",
        "speculative",
        "was",
        "was by",
        "now",
        "stage",
        "reason",
        "now by",
        "examples",
    )
    rows = [_row(g) for g in result.groups()]
    if output is not Format.TABLE:
        show(columns, rows, output)
        return
    if rows:
        show(columns, rows[:SHOWN], output, f"replay --mode diff: {result.release[:23]}")
    out = console()
    if len(rows) > SHOWN:
        out.print(f"{len(rows) - SHOWN:,} more kinds of change, see -o json")
    for name, count in sorted(result.counts("observed").items()):
        out.print(f"observed only: `{name}` would have decided {count:,} inputs otherwise")
    if count := result.total("policies_only"):
        out.print(f"{count:,} inputs get the same answer by other policies")
    colour = "yellow" if result.total("changed") or result.verdict == result.nothing else "green"
    out.print(
        f"[{colour}]{escape(result.verdict)}[/{colour}] ({took(result.total('compared'), result.seconds)})"
    )


def _row(group: Group) -> tuple[object, ...]:
    was, now = group.was, group.now
    return (
        group.tool, group.agent_id, group.count, group.speculative, _said(was), " ".join(was.policies), now.said, now.stage,
        now.reason, " ".join(now.policies), " ".join(group.examples),
    )  # fmt: skip


def _said(answer: Answer) -> str:
    return f"{answer.said} {answer.reason}".strip()


def junit_cases(result: Diffed) -> list[junit.TestCase]:
    """One case a tool: it fails when one of its inputs came out otherwise."""
    by_tool: dict[str, list[Group]] = {tool: [] for tool in result.counts("by_tool")}
    for group in result.groups():
        by_tool.setdefault(group.tool or "other inputs", []).append(group)
    cases = []
    for tool in sorted(by_tool):
        firm = [g for g in by_tool[tool] if g.count > g.speculative]
        changed = sum(g.count - g.speculative for g in firm)
        lines = [
            f"{g.count - g.speculative} of {g.agent_id}: was {g.was}, now {g.now}, e.g. {' '.join(g.examples)}"
            for g in firm
        ]
        failure = f"{changed} decisions change" if changed else ""
        cases.append(junit.TestCase("replay.diff", tool, failure, "\n".join(lines)))
    return cases
