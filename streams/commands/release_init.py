"""`sluicegate release init`: first contracts from a tool catalogue, an API, a module or the ledger."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
import yaml
from sluicegate.processors.policy.observed import Observation
from sluicegate.processors.releases.first_contracts import (
    MAX_TOOLS,
    Found,
    Inferred,
    from_mcp,
    from_observed,
    release_files,
)
from sluicegate.processors.releases.openapi import from_openapi
from sluicegate.processors.releases.schema import release_schema
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.streams import mcp_tools, python_functions
from sluicegate.streams.commands.files import write
from sluicegate.streams.commands.output import console
from sluicegate.streams.commands.release import release
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.inspect import observe
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.replay.window import Window
from sluicegate.streams.settings import Settings

URL = "${TOOLS_URL}/{name}"
"""Where a tool without an address is called: SLUICEGATE_TOOL_TOOLS_URL says what it stands for."""


@release.command()
def init(
    folder: Annotated[Path, typer.Argument(help="a folder for the new release")],
    mcp: Annotated[
        str, typer.Option("--from-mcp", help="tools/list as a file, an http address, or a command line")
    ] = "",
    openapi: Annotated[
        Path | None, typer.Option("--from-openapi", help="an OpenAPI 3 file, JSON or YAML")
    ] = None,
    python: Annotated[
        str, typer.Option("--from-python", help="a module; it is imported, its functions not called")
    ] = "",
    ledger: Annotated[bool, typer.Option("--from-ledger", help="tools that agents asked for")] = False,
    name: Annotated[str, typer.Option("--name", help="of the release; the folder's name without it")] = "",
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", help="before every tool's name, such as `bank.`; of the ledger: tools that begin so"
        ),
    ] = "",
    url: Annotated[str, typer.Option("--url", help="where tools are called; `{name}` is the tool")] = "",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="a role of release.yaml; may be repeated")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be written")] = False,
    force: Annotated[bool, typer.Option("--force", help="write over files that are there")] = False,
) -> None:
    """Write first contracts, e.g. `sluicegate release init ./bank --from-openapi api.yaml --prefix bank.`.

    A contract's class is the worst, `irreversible`, unless its source hints otherwise; protected arguments are guessed by
    their names. Guesses stand in `x-sluicegate.guessed`, and `sluicegate release check` says so until you looked.
    """
    if sum(map(bool, (mcp, openapi, python, ledger))) != 1:
        raise WrongUsage("give one of --from-mcp, --from-openapi, --from-python and --from-ledger")
    found = _found(mcp, openapi, python, prefix, url)
    files = release_files(name or folder.resolve().name, found, role or ())
    if dry_run:
        for path in files:
            console().print(f"would write {folder / path}")
        return
    write(folder, files, force)
    console().print(
        f"wrote {len(files)} files, {len(found)} contracts; next: sluicegate release check {folder}"
    )


@release.command()
def schema() -> None:
    """Print the JSON Schema of release.yaml, e.g. `sluicegate release schema > release.schema.json`.

    `release init` writes it beside release.yaml, whose first line names it: editors with a YAML language server complete
    keys and say what they are for. It is of the version that is installed; print it again after an upgrade.
    """
    print(json.dumps(release_schema(), indent=2))


def _found(mcp: str, openapi: Path | None, python: str, prefix: str, url: str) -> list[Found]:
    if mcp:
        return from_mcp(mcp_tools.list_tools(mcp), prefix, url or URL)
    if openapi is not None:
        return from_openapi(_document(openapi), prefix, url)
    if python:
        return python_functions.functions_of(python, prefix)
    return from_observed(_observed(prefix), url or URL)


def _document(path: Path) -> object:
    try:
        document: object = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Terminal(f"`{path}` cannot be read: {' '.join(str(error).split())[:200]}") from error
    return document


def _observed(prefix: str) -> dict[str, Inferred]:
    calls: dict[str, Inferred] = {}

    def take(seen: Observation) -> None:
        if seen.tool.startswith(prefix) and (seen.tool in calls or len(calls) < MAX_TOOLS):
            calls.setdefault(seen.tool, Inferred()).add(seen.arguments)

    settings = attach(Settings.from_env())
    keys = Keys(settings.home)
    try:
        asyncio.run(observe.read(settings, Window(), keys.open, take))
    finally:
        keys.close()
    return calls
