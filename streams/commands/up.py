"""`sluicegate up`: the whole stack on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from sluicegate.schemas.errors import WrongUsage
from sluicegate.streams.commands.output import console
from sluicegate.streams.settings import Settings

CHECK_EVERY_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def up(
        roles: Annotated[
            str, typer.Option(help="comma separated; a role may stand more than once")
        ] = "ledger,executor,projector,checkpointer,monitor",
        signing: Annotated[
            str, typer.Option(help="dev (unsigned) or signed, for a new environment; fixed for ever")
        ] = "",
        tools_url: Annotated[
            str, typer.Option(help="what ${TOOLS_URL} in contracts stands for; executors may then reach it")
        ] = "",
    ) -> None:
        """Start Kafka, ClickHouse and the roles, e.g. `sluicegate up`; Ctrl-C stops them.

        Your own Kafka and ClickHouse are used where SLUICEGATE_KAFKA and SLUICEGATE_CLICKHOUSE are set.
        """
        from sluicegate.streams import stack

        if signing not in ("", "dev", "signed"):
            raise WrongUsage(f"signing `{signing}` is not dev or signed, choose one")
        out = console()
        extra = tools_env(tools_url, os.environ.get("SLUICEGATE_EGRESS", "")) if tools_url else {}
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


def tools_env(url: str, egress: str) -> dict[str, str]:
    """What executors are told of a tool server that the operator named: its address, and that they may reach it, beside
    what SLUICEGATE_EGRESS lists. Raises `WrongUsage` for what is no URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host, port = None, 0
    if not host:
        raise WrongUsage(f"tools url `{url[:80]}` is not http://HOST:PORT, write it so")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return {"SLUICEGATE_TOOL_TOOLS_URL": url, "SLUICEGATE_EGRESS": ",".join(filter(None, (egress, place)))}


def _short(path: Path) -> str:
    """Relative to here where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
