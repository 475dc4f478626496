"""`sluicegate release`: check, test, publish and begin a release. Only `publish` touches Kafka."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.releases.cases import read_cases
from sluicegate.processors.releases.check import check_release
from sluicegate.processors.releases.findings import Finding
from sluicegate.processors.releases.rehearsal import Played, run_case
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.streams import junit
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import operations
from sluicegate.streams.control.releases import read_folder, read_release, read_tests
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

EXIT_FOUND = 1

release = typer.Typer(help="Check, test, publish and begin a release.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="a release folder, with release.yaml")]
FolderOrFile = Annotated[Path, typer.Argument(help="a release folder, or a file that `release build` wrote")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(release, name="release")


@release.command()
def check(
    folder: FolderOrFile,
    strict: Annotated[bool, typer.Option("--strict", help="exit code 1 for warnings, too")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Prove a release before it is published, e.g. `sluicegate release check examples/release`.

    Errors refuse it: what does not parse, and what policies and contracts do not agree on. Warnings are what its author
    hardly meant: policies that never match or are shadowed, tools nobody may call, guesses. Exit code 1 on errors.
    """
    compiled, findings = check_release(read_release(folder))
    print_findings(compiled, findings, output)
    if any(strict or f.severity == "error" for f in findings):
        raise typer.Exit(EXIT_FOUND)


@release.command()
def publish(
    folder: FolderOrFile,
    why: Annotated[str, typer.Option(help="for the record")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="`sluicegate release check` only")] = False,
) -> None:
    """Check a release and store its bytes for ever, e.g. `sluicegate release publish examples/release`.

    Nothing is decided by it yet: `sluicegate deploy` puts it into force. The same bytes have the same digest.
    """
    if dry_run:
        check(folder)
        return
    settings = attach(Settings.from_env())
    digest, head = asyncio.run(operations.publish(settings, Keys(settings.home), folder, why))
    console().print(
        f"published {digest} as control event {head}; in force only after `sluicegate deploy`", markup=False
    )


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


@release.command()
def test(
    folder: Folder,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="write JUnit XML here, for CI")] = None,
    only: Annotated[str, typer.Option("--only", help="cases with this in their name or file")] = "",
    min_coverage: Annotated[
        int, typer.Option("--min-coverage", help="exit code 1 below so many percent of the policies")
    ] = 0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Play a release's cases, `tests/*.yaml` and `tests/*.csv`, e.g. `sluicegate release test examples/release`.

    Each row is decided by the real `decide` on a partition in memory: no Kafka, no tools. Exit code 1: a case came out
    otherwise, or there are none.
    """
    compiled = compile_release(read_folder(folder))
    shapes = {name: shape_of(tool.contract.input_schema) for name, tool in compiled.tools.items()}
    cases, findings = read_cases(read_tests(folder), shapes)
    if findings:
        print_findings(compiled, findings, output)
        raise typer.Exit(EXIT_FOUND)
    played = [run_case(compiled, case) for case in cases if only in case.name or only in case.file]
    rows = [
        ("fail" if p.difference else "pass", p.case.file, p.case.line, p.case.name, p.said, p.reason, " ".join(p.policies), p.difference)
        for p in played
    ]  # fmt: skip
    shown = [row for row in rows if row[0] == "fail"] if output is Format.TABLE else rows
    if shown or output is not Format.TABLE:
        columns = ("result", "file", "line", "case", "got", "reason", "policies", "difference")
        show(columns, shown, output, "release test")
    if junit_file is not None:
        junit.write(junit_file, f"{compiled.name} {compiled.version}", [_junit(p) for p in played])
    covered, missing = _coverage(compiled, played)
    failed = sum(bool(p.difference) for p in played)
    if output is Format.TABLE:
        console().print(
            f"{len(played) - failed} passed, {failed} failed; {covered} of {len(compiled.book.policies)} policies decided a case"
        )
        if not played:
            console().print(_nothing_played(folder, only), markup=False)
        elif missing and not only:
            console().print(f"never decided: {', '.join(missing)}")
    if failed or not played or covered * 100 < min_coverage * len(compiled.book.policies):
        raise typer.Exit(EXIT_FOUND)


def _nothing_played(folder: Path, only: str) -> str:
    if only:
        return f"no case has `{only}` in its name or file, see all without `--only`"
    return f"there are no cases: write some into `{folder / 'tests'}`, as docs/policies.md shows"


def _coverage(compiled: CompiledRelease, played: list[Played]) -> tuple[int, list[str]]:
    """How many policies decided at least one case, and those that did not."""
    decided = {policy for p in played for policy in p.decided}
    return len(decided), [p.policy_id for p in compiled.book.policies if p.policy_id not in decided]


def _junit(played: Played) -> junit.TestCase:
    got = f"got {played.said} {played.reason} by {', '.join(played.policies) or 'no policy'}\n{played.detail}"
    place = f"{played.case.file}:{played.case.line}"
    return junit.TestCase(played.case.file, played.case.name, played.difference, f"{place}\n{got}")
