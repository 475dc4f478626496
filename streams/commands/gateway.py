"""`sluicegate gateway`: HTTP for clients that hold no Kafka credential."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from sluicegate.streams.embedded.attach import attach
from sluicegate.streams.roles import DEFAULT_LISTEN, GATEWAY_LISTEN, listen_at
from sluicegate.streams.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def gateway(
        listen: Annotated[
            str, typer.Option("--listen", envvar=GATEWAY_LISTEN, help="HOST:PORT")
        ] = DEFAULT_LISTEN,
    ) -> None:
        """Serve HTTP until SIGTERM, e.g. `sluicegate gateway --listen 127.0.0.1:8484`.

        Clients show an API key (`sluicegate keys create AGENT`). Any number of gateways may run side by side; put TLS in front.
        """
        from sluicegate.streams.app import run_worker

        listen_at(listen)
        os.environ[GATEWAY_LISTEN] = listen
        run_worker("gateway", attach(Settings.from_env()))
