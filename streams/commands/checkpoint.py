"""`sluicegate checkpoint list | show | verify | keys`: signed heads of the ledger's trees."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.processors.transparency import log_files
from sluicegate.processors.transparency.checkpoints import Signed
from sluicegate.processors.transparency.log_files import LogFile
from sluicegate.processors.transparency.witness_policy import Policy
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.times import iso
from sluicegate.streams import kafka
from sluicegate.streams.commands.output import Format, OutputOption, console, show
from sluicegate.streams.control import log as control_log
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.check import Checked, check_logs, check_text

checkpoint = typer.Typer(
    help="Signed heads of the ledger: list, show, check, and the keys that sign.", no_args_is_help=True
)
EXIT_BAD = 1
MAX_FILE_BYTES = 16 * 1024 * 1024
"""A file of proofs; one has 3 kB."""

LogOption = Annotated[
    Path | None, typer.Option("--log", help="description of the log, for a check without Kafka")
]
PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="witness policy, else SLUICEGATE_WITNESS_POLICY")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(checkpoint, name="checkpoint")


@checkpoint.command("list")
def checkpoint_list(
    every: Annotated[bool, typer.Option("--all", help="all of them, not each log's newest")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List checkpoints, e.g. `sluicegate checkpoint list -o json`."""
    settings = attach(Settings.from_env())
    found = asyncio.run(_newest(settings, every))
    rows = [_row(one) for all_of in found.values() for one in all_of]
    show(("partition", "size", "root", "signed at", "key", "witnesses"), rows, output)


async def _newest(settings: Settings, every: bool) -> dict[str, list[Signed]]:
    from sluicegate.streams.transparency import topic as checkpoint_topic

    log = log_files.of_control((await control_log.read(settings)).control)
    consumer = await kafka.connect(kafka.consumer(settings))
    try:
        return await checkpoint_topic.newest(consumer, log.env, log.origins, log.keys, every=every)
    finally:
        await stop_consumer(consumer)


def _row(one: Signed) -> tuple[object, ...]:
    witnesses = sorted({s.name for s in one.note.signatures if s.name != one.head.origin})
    name = one.head.origin.rpartition("/")[2]
    return name, one.head.size, one.head.root.hex(), iso(one.second * 1_000_000), one.kid, " ".join(witnesses)


@checkpoint.command("show")
def checkpoint_show(
    partition: Annotated[str, typer.Argument(help="a number, or `control`")],
    size: Annotated[int, typer.Option(help="the one of that size, else the newest")] = -1,
) -> None:
    """Print a checkpoint as it was signed, e.g. `sluicegate checkpoint show 3 > checkpoint.txt`."""
    settings = attach(Settings.from_env())
    found = asyncio.run(_newest(settings, every=size >= 0))
    for origin, all_of in found.items():
        if origin.rpartition("/")[2] != partition:
            continue
        for one in reversed(all_of):
            if size in (-1, one.head.size):
                print(one.note, end="")
                return
        sized = f" of size {size}" if size >= 0 else ""
        raise Terminal(
            f"partition `{partition}` has no checkpoint{sized}, see `sluicegate checkpoint list --all`"
        )
    raise Terminal(f"partition `{partition[:80]}` does not exist, see `sluicegate checkpoint list`")


@checkpoint.command("keys")
def checkpoint_keys(
    file: Annotated[Path | None, typer.Option("--file", help="write the log's description there")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """The history of keys that sign, e.g. `sluicegate checkpoint keys --file log.json` for witnesses and auditors.

    Who checks later believes what this file says of keys: hand it over by a way of its own, not with what it is to check.
    """
    settings = attach(Settings.from_env())
    log = log_files.of_control(asyncio.run(control_log.read(settings)).control)
    if file is not None:
        try:
            file.write_text(log.text, "utf-8")
        except OSError as error:
            raise Terminal(f"`{file}` cannot be written: {error.strerror}, give another --file") from error
        console().print(f"{len(log.origins)} logs and {len(log.keys)} key(s) in {file}", markup=False)
        return
    rows = [(k.kid, k.public.hex(), iso(k.not_before), iso(k.not_after)) for k in log.keys]
    show(("kid", "public", "from", "until"), rows, output)


@checkpoint.command("verify")
def checkpoint_verify(
    file: Annotated[Path | None, typer.Argument(help="a checkpoint, or proofs of `sluicegate prove`")] = None,
    log: LogOption = None,
    policy: PolicyOption = None,
    tiles: Annotated[bool, typer.Option("--tiles/--no-tiles", help="lead the tiles to the roots")] = True,
    deep: Annotated[bool, typer.Option("--deep", help="read every tile: 10 s for 10,000,000 events")] = False,
    every: Annotated[bool, typer.Option("--all", help="all checkpoints, not each log's newest")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check this environment's checkpoints, or a file: `sluicegate checkpoint verify proof.json --log log.json`.

    A file with --log needs no network. Exit code 1: something does not hold; what and why is said.
    """
    rules = _policy(policy)
    if file is not None:
        found = check_text(_text(file), _description(log), rules)
    elif log is not None:
        raise WrongUsage("--log is for a file: name one, or leave --log out")
    else:
        found = asyncio.run(_check(attach(Settings.from_env()), rules, tiles or deep, every, deep))
    _report(found, output)
    if any(c.verdict != "VALID" for c in found if c.verdict != "NONE"):
        raise typer.Exit(EXIT_BAD)


def _policy(path: Path | None) -> Policy:
    from sluicegate.streams.transparency.witness_client import policy_from, read_policy

    return policy_from() if path is None else read_policy(path)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise Terminal(f"`{file}` has more than {MAX_FILE_BYTES} bytes, check a part of it")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Terminal(f"`{file}` cannot be read as text, name a checkpoint or a proof") from error


def _description(path: Path | None) -> LogFile:
    if path is not None:
        return log_files.parse(_text(path))
    return log_files.of_control(asyncio.run(control_log.read(attach(Settings.from_env()))).control)


async def _check(settings: Settings, policy: Policy, tiles: bool, every: bool, deep: bool) -> list[Checked]:
    from sluicegate.streams.transparency.tile_store import store_of

    log = log_files.of_control((await control_log.read(settings)).control)
    consumer = await kafka.connect(kafka.consumer(settings))
    try:
        return await check_logs(
            consumer, log, policy, store_of(settings) if tiles else None, every=every, deep=deep
        )
    finally:
        await stop_consumer(consumer)


def _report(found: list[Checked], output: Format) -> None:
    rows = [
        (
            c.origin.rpartition("/")[2], c.event, c.signed.head.size if c.signed else "", c.count,
            iso(c.signed.second * 1_000_000) if c.signed else "", c.signed.kid if c.signed else "",
            " ".join(c.witnesses), c.verdict, c.code, c.fault,
        )
        for c in found
    ]  # fmt: skip
    columns = (
        "partition",
        "event",
        "size",
        "checked",
        "signed at",
        "key",
        "witnesses",
        "verdict",
        "code",
        "fault",
    )
    if output is not Format.TABLE:
        show(columns, rows, output)
        return
    show(columns[:8], [row[:8] for row in rows], output)
    for c in found:
        if c.fault:
            console().print(f"[red]{c.code}[/red]: ", end="", markup=True)
            console().print(c.fault, markup=False)
