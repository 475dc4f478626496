"""`sluicegate release list | show`: what is published, what is in it, and what stands on it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import stands
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.commands.release import release
from sluicegate.streams.commands.release_diff import WHAT, side
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.settings import Settings

Json = object


@release.command("list")
def release_list(output: OutputOption = Format.TABLE) -> None:
    """Published releases and what stands on them, e.g. `sluicegate release list`."""
    control = asyncio.run(control_log.read(attach(Settings.from_env()))).control
    rows = [
        (name, digest, ", ".join(stands(control, digest)), control.parents.get(digest, ""))
        for digest, name in control.published.items()
    ]
    show(("release", "digest", "stands", "parent"), rows, output)


@release.command("show")
def release_show(
    what: Annotated[str, typer.Argument(help=WHAT)],
    file: Annotated[
        str, typer.Option("--file", help="print this one of its files, such as `release.yaml`")
    ] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """What is in a release, where it comes from and what stands on it, e.g. `sluicegate release show sha256:4c1f`."""
    files, compiled = asyncio.run(side(what))
    if file:
        if file not in files:
            raise Terminal(f"the release has no file `{file[:80]}`, it has {', '.join(sorted(files))}")
        print(files[file], end="")
        return
    local = releases.is_release(Path(what))
    control = Control() if local else asyncio.run(control_log.read(attach(Settings.from_env()))).control
    about = describe(dict(files), compiled, control)
    if output is not Format.TABLE:
        print(json.dumps(about, indent=2 if output is Format.JSON else None, ensure_ascii=False))
        return
    _print(about, local)


def describe(files: dict[str, str], compiled: CompiledRelease, control: Control) -> dict[str, Json]:
    """A release as one document."""
    parent = compiled.parent
    return {
        "digest": compiled.digest,
        "name": compiled.name,
        "version": compiled.version,
        "parent": parent,
        "parent_name": control.published.get(parent, ""),
        "stands": stands(control, compiled.digest),
        "tools": {n: {"class": t.tool_class, "reached_by": t.executor_kind} for n, t in sorted(compiled.tools.items()) if t.route is None},
        "routes": {n: [w.tool.name for w in t.route.ways] for n, t in sorted(compiled.tools.items()) if t.route},
        "policies": {p.policy_id: p.effect for p in compiled.book.policies},
        "control": {p.policy_id: p.effect for p in (compiled.control_book.policies if compiled.control_book else [])},
        "roles": list(compiled.roles),
        "prompts": {n: f"sha256:{p.digest.hex()}" for n, p in sorted(compiled.prompts.items())},
        "budgets": sorted(compiled.budgets.rules),
        "files": {
            path: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text.encode())}
            for path, text in sorted(files.items())
        },
    }  # fmt: skip


def _print(about: dict[str, Json], local: bool) -> None:
    out = console()
    out.print(f"{about['name']} {about['version']}  {about['digest']}", markup=False)
    parent = (
        f"{about['parent']} {about['parent_name'] or '(not published here)'}"
        if about["parent"]
        else "none named"
    )
    out.print(f"derived from  {parent}", markup=False)
    found = about["stands"]
    assert isinstance(found, list)
    where = (
        "not asked: this is a folder or a file" if local else ", ".join(found) or "nothing, only published"
    )
    out.print(f"stands on it  {where}", markup=False)
    for name in ("tools", "routes", "policies", "control", "roles", "prompts", "budgets"):
        part = about[name]
        if isinstance(part, dict | list) and part:
            out.print(f"\n{len(part)} {name}", markup=False)
            rows = part.items() if isinstance(part, dict) else [(one, "") for one in part]
            for key, value in rows:
                text = (
                    value
                    if isinstance(value, str)
                    else ", ".join(map(str, value.values() if isinstance(value, dict) else value))
                )
                out.print(f"  {key}  {text}".rstrip(), markup=False)
    files = about["files"]
    assert isinstance(files, dict)
    out.print(f"\n{len(files)} files; their hashes are what the digest is over", markup=False)
    for path, row in files.items():
        out.print(f"  {row['sha256'][:16]}  {row['bytes']:>7,}  {path}", markup=False)
