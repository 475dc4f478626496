"""`sluicegate memory get | list`: what an agent, a session or a shared scope remembers, now or as of an earlier position."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import orjson
import typer
from sluicegate.processors.labels import CONFIDENTIALITY, names_of
from sluicegate.schemas.times import iso
from sluicegate.streams.cli_words import moment, position_of
from sluicegate.streams.commands.output import Format, OutputOption, bars, console, printable, show
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.rebuild.remembering import Cut, Remembered, Value, Where, check_scope, remembered
from sluicegate.streams.settings import Settings

memory = typer.Typer(help="What agents remember.", no_args_is_help=True)
COLUMNS = ("key", "version", "bytes", "integrity", "confidentiality", "writer", "written_at", "seq")

AgentOption = Annotated[str, typer.Option("--agent", help="whose memory; of a shared scope, an agent of its tenant")]  # fmt: skip
ScopeOption = Annotated[str, typer.Option("--scope", help="session, agent or shared:<name>")]
SessionOption = Annotated[str, typer.Option("--session", help="of the scope `session`: which one")]
AsOfOption = Annotated[
    str, typer.Option("--as-of", help="the last thing that counts: SEQ, PARTITION:SEQ or ISO 8601")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(memory, name="memory")


@memory.command("get")
def memory_get(
    agent: AgentOption,
    key: Annotated[str, typer.Option("--key", help="as the agent named it")],
    scope: ScopeOption = "session",
    session: SessionOption = "",
    as_of: AsOfOption = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Print one value, e.g. `sluicegate memory get --agent buyer --scope shared:prices --key steel --as-of 2026-05-31T12:00:00`.

    With its version, its labels and who wrote it. The ledger is folded up to there; values are opened with the key store.
    Exit code 1 when there is none. A value whose key was destroyed has no name any more: `memory list` shows it as gone.
    """
    found = _remembered(Where(agent, scope, session), as_of)
    one = next((v for v in found.values if v.key == key), None)
    if one is None:
        gone = sum(v.key is None for v in found.values)
        note = f", and {gone} whose bytes are gone" if gone else ""
        console().print(
            f"nothing is remembered as `{key}` in `{scope}` at seq {found.seq} of partition {found.partition}{note}", markup=False,
        )  # fmt: skip
        raise typer.Exit(1)
    value = orjson.loads(one.value or b"null")
    if output in (Format.JSON, Format.JSONL):
        row = dict(zip(COLUMNS, _row(one), strict=True)) | {"value": value, "partition": found.partition}
        print(json.dumps(row, ensure_ascii=False, indent=2 if output is Format.JSON else None))
        return
    if output is Format.CSV:
        show((*COLUMNS, "value"), [(*_row(one), json.dumps(value, ensure_ascii=False))], output)
        return
    out = console()
    out.print(printable(json.dumps(value, ensure_ascii=False, indent=2), keep="\n"), markup=False)
    for name, text in zip(COLUMNS[1:], _row(one)[1:], strict=True):
        out.print(f"  {name:<16}{text}", markup=False)
    out.print(f"  {'partition':<16}{found.partition}, as of seq {found.seq}", markup=False)


@memory.command("list")
def memory_list(
    agent: AgentOption,
    scope: ScopeOption = "session",
    session: SessionOption = "",
    as_of: AsOfOption = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """List what a scope holds, the last one written first, e.g. `sluicegate memory list --agent buyer --scope agent -o json`."""
    found = _remembered(Where(agent, scope, session), as_of)
    show(COLUMNS, [_row(one) for one in found.values], output)


def parse_as_of(text: str) -> Cut:
    """A position or a moment; empty: the end. Raises `WrongUsage` with what to write instead."""
    at = position_of(text)
    if at is not None:
        return Cut(seq=at[1], partition=at[0])
    return Cut(at=moment(text)) if text else Cut()


def _row(one: Value) -> tuple[object, ...]:
    cell = one.cell
    return (
        "(gone)" if one.key is None else one.key, cell.version, len(one.value or b""),
        " ".join(names_of(cell.integrity)) or "user", CONFIDENTIALITY[cell.confidentiality], cell.agent_id, iso(cell.at),
        cell.seq,
    )  # fmt: skip


def _remembered(where: Where, as_of: str) -> Remembered:
    cut = parse_as_of(as_of)
    check_scope(where)
    settings = attach(Settings.from_env())
    keys = Keys(settings.home)
    try:
        with bars("reading the ledger (offsets)") as on_start:
            return asyncio.run(remembered(settings, where, cut, keys.open, on_start))
    finally:
        keys.close()
