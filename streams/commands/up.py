"""`sluicegate up`: the whole stack on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.output import console
from sluicegate.streams.settings import Settings

CHECK_EVERY_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def up(
        roles: Annotated[
            str, typer.Option(help="comma separated; a role may stand more than once")
        ] = "ledger,executor,projector,monitor",
        signing: Annotated[
            str, typer.Option(help="dev (unsigned) or signed, for a new environment; fixed for ever")
        ] = "",
        tools_url: Annotated[str, typer.Option(help="what ${TOOLS_URL} in contracts stands for")] = "",
    ) -> None:
        """Start Kafka, ClickHouse and the roles, e.g. `sluicegate up`; Ctrl-C stops them.

        Your own Kafka and ClickHouse are used where SLUICEGATE_KAFKA and SLUICEGATE_CLICKHOUSE are set.
        """
        from sluicegate.streams import stack

        if signing not in ("", "dev", "signed"):
            raise Terminal(f"signing `{signing}` is not dev or signed, choose one")
        out = console()
        extra = {"SLUICEGATE_TOOL_TOOLS_URL": tools_url} if tools_url else {}
        names = tuple(r.strip() for r in roles.split(",") if r.strip())
        running = stack.start(
            Settings.from_env(), roles=names, extra_env=extra, signing=signing, say=out.print
        )
        stopping = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
        try:
            out.print(
                f"up: kafka {running.settings.kafka}, state in {_short(running.settings.home)}; Ctrl-C stops it"
            )
            while not stopping.wait(CHECK_EVERY_S):
                running.check()
        except KeyboardInterrupt:
            pass
        finally:
            out.print("stopping")
            running.stop()


def _short(path: Path) -> str:
    """Relative to here where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
