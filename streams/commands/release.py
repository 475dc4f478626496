"""`sluicegate release`: check, test and begin a release. Nothing here touches Kafka."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.findings import Finding
from sluicegate.processors.release import CompiledRelease
from sluicegate.processors.release_check import check_release
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.releases import read_folder

EXIT_FOUND = 1

release = typer.Typer(help="Check, test and begin a release.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="a release folder, with release.yaml")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(release, name="release")


@release.command()
def check(
    folder: Folder,
    strict: Annotated[bool, typer.Option("--strict", help="exit code 1 for warnings, too")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Prove a release before it is published, e.g. `sluicegate release check examples/release`.

    Errors refuse it: what does not parse, and what policies and contracts do not agree on. Warnings are what its author
    hardly meant: policies that never match or are shadowed, tools nobody may call, guesses. Exit code 1 on errors.
    """
    compiled, findings = check_release(read_folder(folder))
    print_findings(compiled, findings, output)
    if any(strict or f.severity == "error" for f in findings):
        raise typer.Exit(EXIT_FOUND)


def print_findings(compiled: CompiledRelease | None, findings: list[Finding], output: Format) -> None:
    """The findings as rows, and on a table what was checked."""
    rows = [(f.severity, f.file, f.line, f.rule, f.sentence) for f in findings]
    if rows or output is not Format.TABLE:
        show(("severity", "file", "line", "rule", "sentence"), rows, output)
    if output is not Format.TABLE:
        return
    wrong = sum(f.severity == "error" for f in findings)
    if compiled is None or wrong:
        print(f"refused: {wrong} error(s), {len(findings) - wrong} warning(s)", file=sys.stderr)
        return
    console().print(
        f"{compiled.name} {compiled.version} checks: {len(compiled.tools)} contracts, "
        f"{len(compiled.book.policies)} policies, {len(findings)} warning(s), {compiled.digest}"
    )
