"""`sluicegate release diff`: what another release changes for whom, in words. Never changes anything."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.releases.diff import Change, Side, diff
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.commands.release import EXIT_FOUND, release
from sluicegate.streams.control import deployments, releases
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings

COLUMNS = ("part", "name", "change", "sentence", "detail")

WHAT = "a release folder, a built file, or the digest (or its beginning) or name of a published release"


@release.command("diff")
def release_diff(
    old: Annotated[str, typer.Argument(help=WHAT)],
    new: Annotated[str, typer.Argument(help="the same; left out: OLD is the newer one, and its parent or what is deployed the older")] = "",
    output: OutputOption = Format.TABLE,
) -> None:  # fmt: skip
    """Say in words what changes for whom, e.g. `sluicegate release diff sha256:4c1f ./candidate`.

    Tools, endpoints, arguments, policies, who gains and who loses, routes, prompts, budgets, limits, guardrails, caches, prices.
    "may" stands where policies alone do not tell. Exit code 1 when anything differs, 0 when nothing does, as `diff` has it.
    """
    before, after = asyncio.run(sides(old, new))
    found = diff(before, after)
    if output is Format.TABLE:
        _print(before[1], after[1], found)
    else:
        show(COLUMNS, [astuple(change) for change in found], output)
    if found:
        raise typer.Exit(EXIT_FOUND)


async def sides(old: str, new: str) -> tuple[Side, Side]:
    """Both releases. Kafka is asked only for those that are not on this disk."""
    if new:
        return await side(old), await side(new)
    after = await side(old)
    settings = attach(Settings.from_env())
    parent = after[1].parent or (await control_log.read(settings)).control.deployed
    if not parent:
        raise Terminal("the release names no parent and nothing is deployed, say what to compare it with")
    return await side(parent), after


async def side(what: str) -> Side:
    """A release by folder, file, digest or name. What was published is proven; a folder has to compile."""
    path = Path(what)
    if releases.is_release(path):
        files = releases.read_release(path)
        return files, compile_release(files)
    settings = attach(Settings.from_env())
    digest = deployments.find((await control_log.read(settings)).control, what)
    files = await releases.fetch(settings, digest)
    return files, compile_release(files, proven=True)


def _print(old: CompiledRelease, new: CompiledRelease, found: list[Change]) -> None:
    out = console()
    out.print(
        f"from {old.name} {old.version} {old.digest}\nto   {new.name} {new.version} {new.digest}",
        markup=False,
    )
    last = ""
    for change in found:
        if change.part != last:
            out.print(f"\n[bold]{change.part}[/bold]")
            last = change.part
        out.print(f"  {change.change:8} {change.name}: {change.sentence}", markup=False)
        for line in change.detail.splitlines():
            out.print(f"      {line}", markup=False)
    if not found:
        out.print("nothing differs", markup=False)
