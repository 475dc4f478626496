"""`sluicegate`: the command line. One file a group under `commands/`, each with `register(app)`, imported when it is asked for.

Errors are one sentence on stderr. Exit codes: 0 done; 1 it ran and found something wrong (a broken ledger, a
refused call); 2 wrong usage; 3 the machinery is away (retry); 4 it cannot work until something changes.
Never holds logic: commands call the modules beside it. Imports nothing at its top that a light command goes without.
Next: `command_root.py` (which command is imported when).
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer
import typer.main
from sluicegate.schemas.errors import Retryable, SluicegateError, WrongUsage
from sluicegate.streams.command_root import Root, list_in

EXIT_FOUND, EXIT_USAGE, EXIT_RETRY, EXIT_TERMINAL = 1, 2, 3, 4

app = typer.Typer(
    name="sluicegate",
    cls=Root,
    help="Your agent asks; Sluicegate decides, runs and answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(asked: bool) -> None:
    if asked:  # imports that most commands go without
        from importlib import metadata

        from sluicegate.processors.work import ENGINE

        typer.echo(f"sluicegate {metadata.version('sluicegate')}, engine {ENGINE}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version and the engine."
        ),
    ] = False,
) -> None:
    """Keeps commands a level below the name, however many there are."""


list_in(app)


def exit_code(error: SluicegateError) -> int:
    """What a command ends with that could not go on (docs/operations.md, "Exit codes")."""
    if isinstance(error, WrongUsage):
        return EXIT_USAGE
    return EXIT_RETRY if isinstance(error, Retryable) else EXIT_TERMINAL


def main() -> None:
    """Entry point of the `sluicegate` command."""
    # aiokafka logs each retry of a metadata race; a command says in one sentence what finally failed.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        typer.main.get_command(app)()
    except SluicegateError as error:
        _fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        _fail(told)


def _told(error: Exception) -> SluicegateError | None:
    """What a client raised in the middle of a command, as a sentence; None for a fault of ours."""
    # A command that never asked one of them has not loaded its client, and does not now.
    if "aiokafka.errors" in sys.modules:
        from aiokafka.errors import KafkaError
        from sluicegate.streams import kafka

        if isinstance(error, KafkaError):  # a right is missing, the broker went away
            return kafka.told(error)
    if "clickhouse_connect.driver.exceptions" in sys.modules:
        from clickhouse_connect.driver.exceptions import Error

        if isinstance(error, Error):
            said = " ".join(str(error).split())[:300]
            return Retryable(f"clickhouse refused: {said}: check that it is up, and this user's grants")
    return None


def _fail(error: SluicegateError) -> NoReturn:
    print(f"sluicegate: {error}", file=sys.stderr)
    sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
