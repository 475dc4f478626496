"""`sluicegate release build | get`: a release as one file, and a published one as a folder to work on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.releases import file as release_file
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.releases.schema import FILE_NAME, release_schema
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.files import write
from sluicegate.streams.commands.output import console
from sluicegate.streams.commands.release import Folder, release
from sluicegate.streams.control import deployments, releases
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings

SHORT_CHARS = 12
"""Of a digest in a file's name: 48 bits."""


@release.command()
def build(
    folder: Folder,
    file: Annotated[Path | None, typer.Option("-o", "--output", help="a file, or a folder for it; else NAME-VERSION-DIGEST.release here")] = None,
    parent: Annotated[str, typer.Option(help="digest it was derived from, or `deployed`; written into the built release.yaml")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check it, and say what would be written")] = False,
) -> None:  # fmt: skip
    """Check a release and write it as one file, e.g. `sluicegate release build ./candidate -o dist/`.

    The file holds the very bytes that `publish` stores; the same release gives the same bytes, wherever it is built.
    `publish`, `deploy`, `canary start` and `release diff` take it as they take a folder.
    """
    files = releases.read_folder(folder)
    if parent:
        files = release_file.with_parent(files, asyncio.run(_digest(parent)))
    compiled = compile_release(files)
    name = (
        f"{compiled.name}-{compiled.version}-{compiled.digest.removeprefix('sha256:')[:SHORT_CHARS]}.release"
    )
    path = file or Path(name.replace("/", "_"))
    if path.is_dir():
        path = path / name.replace("/", "_")
    data = release_file.pack(files)
    if not dry_run:
        try:
            path.write_bytes(data)
        except OSError as error:
            raise Terminal(f"`{path}` cannot be written: {error.strerror}, give another --output") from error
    done = "would write" if dry_run else "wrote"
    console().print(
        f"{done} {path}: {compiled.name} {compiled.version}, {compiled.digest}, {len(data)} bytes with sha256 {hashlib.sha256(data).hexdigest()}",
        markup=False,
    )


@release.command()
def get(
    digest: Annotated[
        str, typer.Argument(help="the digest (or its beginning) or name of a published release")
    ],
    folder: Annotated[Path, typer.Argument(help="a folder to write it to")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be written")] = False,
    force: Annotated[bool, typer.Option("--force", help="write over files that are there")] = False,
) -> None:
    """Write a published release to a folder, to derive the next one from it, e.g. `sluicegate release get sha256:4c1f ./next`.

    Its `release.yaml` names the release as `parent`, so what is published from the folder has it under its digest.
    """

    async def fetched() -> tuple[str, dict[str, str]]:
        found = await _digest(digest)
        return found, await releases.fetch(attach(Settings.from_env()), found)

    found, files = asyncio.run(fetched())
    files = release_file.with_parent(files, found)
    if not dry_run:
        # What its first line names for editors; no part of a release.
        schema = json.dumps(release_schema(), indent=2) + "\n"
        write(folder, {**files, FILE_NAME: schema}, force)
    done = "would write" if dry_run else "wrote"
    console().print(f"{done} {len(files)} files to {folder}, derived from {found}", markup=False)


async def _digest(what: str) -> str:
    """A published digest, in full or by its beginning or name; `deployed` is the environment's release."""
    if release_file.DIGEST.fullmatch(what):
        return what
    control = (await control_log.read(attach(Settings.from_env()))).control
    if what != "deployed":
        return deployments.find(control, what)
    if not control.deployed:
        raise Terminal("nothing is deployed yet, name the parent by its digest")
    return control.deployed
