"""`sluicegate`: the command line. One file a group under `commands/`, each with `register(app)`.

Errors are one sentence on stderr. Exit codes: 0 done; 1 it ran and found something wrong (a broken ledger, a
refused call); 2 wrong usage; 3 the machinery is away (retry); 4 it cannot work until something changes.
Never holds logic: commands call the modules beside it.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import sys
from importlib import metadata
from typing import Annotated, NoReturn

import typer
import typer.core
import typer.main
from aiokafka.errors import KafkaError
from sluicegate.schemas.errors import Retryable, SluicegateError, WrongUsage
from sluicegate.streams import commands, kafka
from sluicegate.streams.help_panels import arrange

EXIT_FOUND, EXIT_USAGE, EXIT_RETRY, EXIT_TERMINAL = 1, 2, 3, 4

app = typer.Typer(
    name="sluicegate",
    help="Your agent asks; Sluicegate decides, runs and answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(asked: bool) -> None:
    if asked:
        from sluicegate.processors.work import (
            ENGINE,
        )  # half a second of imports that most commands go without

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


# A role runs for weeks: it does without the other commands and what they import, 10 MB.
_role = sys.argv[1:2] == ["worker"]
for _module in ["worker"] if _role else sorted(m.name for m in pkgutil.iter_modules(commands.__path__)):
    _loaded = importlib.import_module(f"sluicegate.streams.commands.{_module}")
    if hasattr(_loaded, "register"):
        _loaded.register(app)


def exit_code(error: SluicegateError) -> int:
    """What a command ends with that could not go on (docs/operations.md, "Exit codes")."""
    if isinstance(error, WrongUsage):
        return EXIT_USAGE
    return EXIT_RETRY if isinstance(error, Retryable) else EXIT_TERMINAL


def main() -> None:
    """Entry point of the `sluicegate` command."""
    # aiokafka logs each retry of a metadata race; a command says in one sentence what finally failed.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    command = typer.main.get_command(app)
    if isinstance(command, typer.core.TyperGroup):
        arrange(command)
    try:
        command()
    except SluicegateError as error:
        _fail(error)
    except KafkaError as error:  # in the middle of a command: a right is missing, the broker went away
        _fail(kafka.told(error))
    except Exception as error:
        if not _is_clickhouses(error):
            raise
        said = " ".join(str(error).split())[:300]
        _fail(Retryable(f"clickhouse refused: {said}: check that it is up, and this user's grants"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _is_clickhouses(error: Exception) -> bool:
    """Whether its client raised this; a role that never asks it does not load it."""
    module = sys.modules.get("clickhouse_connect.driver.exceptions")
    return module is not None and isinstance(error, module.Error)


def _fail(error: SluicegateError) -> NoReturn:
    print(f"sluicegate: {error}", file=sys.stderr)
    sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
