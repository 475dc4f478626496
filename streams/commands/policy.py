"""`sluicegate policy`: suggestions of least-privilege policies from what was observed."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.policy.cedar import Policy
from sluicegate.processors.policy.check import check_policies
from sluicegate.processors.policy.files import read_policies
from sluicegate.processors.policy.logic import reach_of
from sluicegate.processors.policy.observed import Observation
from sluicegate.processors.policy.suggest import Suggester, Tool
from sluicegate.processors.releases.release import CompiledRelease, compile_release, types_of
from sluicegate.processors.releases.shapes import shape_of
from sluicegate.processors.releases.task_rules import with_task
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.files import write
from sluicegate.streams.commands.output import bars, console
from sluicegate.streams.commands.window import window_of
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect import observe
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

EXIT_FOUND = 1

policy = typer.Typer(help="Suggest policies from what was observed.", no_args_is_help=True)


class By(StrEnum):
    """Whom a suggested policy is for."""

    ROLE = "role"
    AGENT = "agent"


class From(StrEnum):
    """Which calls count."""

    EXECUTED = "executed"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(policy, name="policy")


@policy.command()
def suggest(
    release: Annotated[
        Path | None, typer.Option("--release", help="whose contracts count; the deployed release without it")
    ] = None,
    by: Annotated[
        By, typer.Option("--by", help="one permit for each role and tool, or agent and tool")
    ] = By.ROLE,
    calls: Annotated[
        From,
        typer.Option(
            "--from", help="executed: calls that were permitted, or observed only; all: refused ones too"
        ),
    ] = From.EXECUTED,
    agent: Annotated[str, typer.Option("--agent", help="only what this agent asked")] = "",
    min_calls: Annotated[
        int, typer.Option("--min-calls", min=1, help="leave out what was called less often")
    ] = 1,
    from_offset: Annotated[list[str] | None, typer.Option("--from-offset", help="PARTITION:OFFSET")] = None,
    from_time: Annotated[str | None, typer.Option("--from-time", help="ISO 8601, UTC")] = None,
    to: Annotated[list[str] | None, typer.Option("--to", help="PARTITION:OFFSET or ISO 8601")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="a release folder to write policies/ into")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="write over files that are there")] = False,
) -> None:
    """Write policies that permit what was seen and nothing wider, e.g. `sluicegate policy suggest --from-time 2026-05-01`.

    Each is a permit with the values, prefixes and bounds seen, and its evidence as comments: how many calls, by whom,
    when, which. It is a draft for a person: it permits what happened, good or bad. Checked against the contracts.
    """
    settings = attach(Settings.from_env())
    compiled = _contracts(settings, release)
    tools = {
        name: Tool(shape_of(t.contract.input_schema), t.tool_class != "read_only", tuple(t.protected))
        for name, t in compiled.tools.items()
    }
    suggester = Suggester(tools, by.value)

    def take(seen: Observation) -> None:
        if (calls is From.ALL or seen.executed) and agent in ("", seen.agent.agent_id):
            suggester.add(seen)

    window = window_of("outcomes", from_offset or [], from_time, to or [])
    keys = Keys(settings.home)
    try:
        with bars("reading (offsets)") as on_start:
            found = asyncio.run(observe.read(settings, window, keys.open, take, on_start=on_start))
    finally:
        keys.close()
    files = suggester.files(min_calls)
    for name, count in sorted(suggester.unknown.items()):
        print(
            f"no contract for `{name}`, {count} call(s) left out: sluicegate release init --from-ledger",
            file=sys.stderr,
        )
    if found.erased:
        print(
            f"{found.erased} intent(s) left out: their content is erased, or sealed by other keys",
            file=sys.stderr,
        )
    if not files:
        raise Terminal("nothing was observed that a policy could permit, look at `sluicegate intents`")
    _check(files, compiled)
    if out is None:
        print("\n".join(files.values()), end="")
        return
    write(out, files, force)
    console().print(f"wrote {len(files)} file(s) into {out}; next: sluicegate release check {out}")


def _contracts(settings: Settings, folder: Path | None) -> CompiledRelease:
    if folder is not None:
        return compile_release(releases.read_folder(folder))

    async def deployed() -> CompiledRelease:
        control = (await control_log.read(settings)).control
        if not control.deployed:
            raise Terminal("no release is deployed, name one with --release FOLDER")
        return compile_release(await releases.fetch(settings, control.deployed), proven=True)

    return asyncio.run(deployed())


def _check(files: dict[str, str], compiled: CompiledRelease) -> None:
    """Suggestions are policies like any other. Raises `Terminal` when one does not check, which is a bug here."""
    policies, findings = read_policies(files)
    findings += check_policies(policies, with_task(map(types_of, compiled.tools.values()), compiled.task))
    for role in (
        sorted({r for p in policies for r in _roles(p)} - set(compiled.roles)) if compiled.roles else ()
    ):
        print(f"release.yaml lists no role `{role}`, add it before you check", file=sys.stderr)
    for finding in findings:
        print(f"{finding.severity}: {finding}", file=sys.stderr)
    if any(f.severity == "error" for f in findings):
        raise typer.Exit(EXIT_FOUND)


def _roles(policy: Policy) -> list[str]:
    kind, name = reach_of(policy, ()).principal
    return [name] if kind == "role" else []
