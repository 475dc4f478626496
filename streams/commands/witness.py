"""`sluicegate witness key | run | list`: a witness of somebody's logs. Needs neither Kafka nor ClickHouse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.notes import COSIGNATURE, BadNote, VKey, check_name
from sluicegate.schemas.times import iso
from sluicegate.streams.commands.output import Format, OutputOption, show
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.files import PrivateKey

witness = typer.Typer(help="Cosign what continues, refuse what was forked.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="the key's name, such as `witness.example/ops`")]
Key = Annotated[Path, typer.Option("--key", help="its key, a JWK file")]
Memory = Annotated[Path, typer.Option("--memory", help="what it remembers, a SQLite file: back it up")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(witness, name="witness")


def _named(name: str) -> str:
    try:
        return check_name(name)
    except BadNote as error:
        raise Terminal(str(error)) from error


@witness.command("key")
def witness_key(name: Name, key: Key = Path("witness.jwk")) -> None:
    """Make a witness's key, or show it: `sluicegate witness key --name witness.example/ops`. Prints its line of a policy."""
    found = key_files.load(key) if key.is_file() else key_files.create(key, _named(name))
    print(f"witness {name.rpartition('/')[2]} {VKey(_named(name), COSIGNATURE, found.public)}")


@witness.command("run")
def witness_run(
    name: Name,
    log: Annotated[list[Path], typer.Option("--log", help="description of a log; may be repeated")],
    key: Key = Path("witness.jwk"),
    memory: Memory = Path("witness.db"),
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 for a free one")] = "127.0.0.1:8485",
) -> None:
    """Cosign checkpoints of these logs until Ctrl-C, e.g. `sluicegate witness run --name witness.example/ops --log log.json`.

    The description comes from `sluicegate checkpoint keys --file log.json`; it is read again when it changes. A head that does not
    continue the last one is refused, and both notes are kept: `sluicegate witness list`.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise WrongUsage(f"`{listen[:80]}` is no address to listen at, write HOST:PORT")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(_named(name), key_files.load(key), memory, log, host.strip("[]"), int(port)))


async def _serve(name: str, key: PrivateKey, memory: Path, logs: list[Path], host: str, port: int) -> None:
    from sluicegate.streams.transparency.witness_memory import WitnessMemory
    from sluicegate.streams.transparency.witness_server import LogDescriptions, Witness, serve

    kept = WitnessMemory(memory)
    known = LogDescriptions(logs)
    judge = Witness(name, key, kept, known, lambda: int(time.time()))
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await serve(
                judge,
                host,
                port,
                lambda url: print(f"witness {judge.vkey} at {url}, {len(known())} logs", flush=True),
            )
    finally:
        kept.close()


@witness.command("list")
def witness_list(
    memory: Memory = Path("witness.db"),
    refused: Annotated[
        bool, typer.Option("--refused", help="what it refused, with both notes (-o json)")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """What a witness cosigned last, or refused: `sluicegate witness list --refused -o json`."""
    from sluicegate.streams.transparency.witness_memory import WitnessMemory

    if not memory.is_file():
        raise Terminal(f"`{memory}` is no witness's memory, give --memory FILE")
    kept = WitnessMemory(memory)
    try:
        if refused:
            rows = [(iso(at * 1_000_000), *rest) for at, *rest in kept.refusals()]
            columns = ("at", "log", "code", "why", "cosigned", "refused")
            width = 4 if output is Format.TABLE else 6
            show(columns[:width], [row[:width] for row in rows], output)
        else:
            show(
                ("log", "size", "at"),
                [(o, size, iso(at * 1_000_000)) for o, size, at in kept.heads()],
                output,
            )
    finally:
        kept.close()
