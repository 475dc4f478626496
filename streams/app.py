"""The Faust app: life cycle, supervision, `/health`, `/metrics`, and for the monitor agents and leader timers.

Faust hosts; it does not carry the hot path (docs/decisions/0001-faust-is-the-host.md has the measurement). The
role's component is one supervised `mode.Service` of the app. No tables, no `exactly_once`, raw serializers.
Next: `roles.py` (what is hosted), `lanes/service.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import cast

import faust
import mode
import uvloop
from faust.app.base import BootStrategy
from faust.auth import Credentials, SASLCredentials, SSLCredentials
from faust.web import Request, Response, View
from sluicegate.schemas.errors import SluicegateError
from sluicegate.streams import kafka
from sluicegate.streams.role_files import role_file
from sluicegate.streams.roles import Component, make
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.monitor import add_monitor

DIE_WITH_PARENT = "SLUICEGATE_DIE_WITH_PARENT"
"""Set by the stack: the process ends when its standard input does, so that a killed `up` leaves nothing behind."""
STOP_LIMIT_S = 20.0
"""Faust waits for ever for a service to stop; a supervisor kills after 30 s."""
START_RETRY_S = 1.0
CHECK_EVERY_S = 0.5


class _NoKafka(BootStrategy):
    """Faust's own consumer and producer stay off: they would make topics and a group for nothing."""

    enable_kafka = False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RoleService(mode.Service):
    """The role's component under mode's supervision: if it dies, the process does."""

    def __init__(self, component: Component, announce: Path, port: int, role: str) -> None:
        super().__init__()
        self.component = component
        self._announce = announce
        self._about = {"role": role, "pid": os.getpid(), "port": port, "started_at": time.time()}
        self.ready = False

    async def on_start(self) -> None:
        """Start the component; Kafka may come up after us, so a machinery error is tried again for a while."""
        deadline = time.monotonic() + 60.0
        while True:
            try:
                await self.component.start()
                break
            except SluicegateError as error:
                if time.monotonic() > deadline:
                    raise
                self.log.warning("not started yet: %s", error)
                await asyncio.sleep(START_RETRY_S)
        self.ready = True
        self._announce.parent.mkdir(parents=True, exist_ok=True)
        self._announce.write_text(json.dumps(self._about))

    async def on_stop(self) -> None:
        """Drain within a bound."""
        self._announce.unlink(missing_ok=True)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.component.stop()
        except TimeoutError:
            self.log.error(
                "not drained within %.0f s; what is open is recovered by the next owner", STOP_LIMIT_S
            )

    @mode.Service.task
    async def _watch(self) -> None:
        """A crashed lane ends the process: a supervisor starts a clean one."""
        while not self.should_stop:
            await self.sleep(CHECK_EVERY_S)
            problem = self.component.alive if self.ready else ""
            if "crashed" in problem or "ended" in problem:
                raise RuntimeError(problem)


def _credentials(settings: Settings) -> Credentials | None:
    """How Faust's own clients, which the monitor has, log in: as all others do."""
    # INVARIANT: no role comes to Kafka in another way than `kafka.client_kwargs` (tests/unit/test_settings.py).
    security = settings.security
    context = cast("ssl.SSLContext | None", kafka.client_kwargs(settings).get("ssl_context"))
    if security.sasl:
        return SASLCredentials(
            username=security.username, password=security.password, ssl_context=context, mechanism=security.sasl_mechanism
        )  # fmt: skip
    return SSLCredentials(context) if context is not None else None


def make_app(role: str, settings: Settings) -> faust.App:
    """The app of one role in one process."""
    component = make(role, settings)
    port = int(os.environ.get("SLUICEGATE_WEB_PORT") or _free_port())
    datadir = settings.home / "faust" / role
    datadir.mkdir(parents=True, exist_ok=True)  # Faust makes one level only
    app = faust.App(
        f"sluicegate.{settings.env}.{role}",
        broker=[f"kafka://{server.strip()}" for server in (settings.kafka or "").split(",")],
        broker_credentials=_credentials(settings),
        datadir=str(datadir),
        store="memory://",
        value_serializer="raw",
        key_serializer="raw",
        web_bind="127.0.0.1",
        web_port=port,
        web_tables_enabled=False,
        web_router_enabled=False,
        worker_redirect_stdouts=False,
        topic_disable_leader=role != "monitor",
        # aiokafka's default; Faust's own assignor is used by the monitor's group only.
        broker_commit_interval=1.0,
    )
    announce = role_file(settings.home, role, os.getpid())
    service: mode.Service
    if component is None:
        service = add_monitor(app, settings, announce, port)
    else:
        app.boot_strategy = _NoKafka(app)
        service = RoleService(component, announce, port, role)
        app.service(service)  # type: ignore[arg-type]  # an instance serves as well as a class
    _add_pages(app, service, component)
    return app


def _add_pages(app: faust.App, service: mode.Service, component: Component | None) -> None:
    @app.page("/health")
    async def health(view: View, request: Request) -> Response:
        """200 while positions advance or lag is zero, 503 with the reason otherwise."""
        problem = component.alive if component is not None else ""
        if not getattr(service, "ready", True):
            problem = "starting"
        return view.json({"alive": not problem, "problem": problem}, status=503 if problem else 200)

    @app.page("/state")
    async def state(view: View, request: Request) -> Response:
        """The digests of the states this process holds; empty for roles without."""
        states = getattr(component, "states", None)
        return view.json({"partitions": await states() if states is not None else []})

    @app.page("/metrics")
    async def metrics(view: View, request: Request) -> Response:
        """Prometheus text format."""
        found = dict(component.metrics()) if component is not None else {}
        found.update(getattr(service, "gauges", {}))
        return view.text(render_metrics(found))


def render_metrics(values: dict[str, float]) -> str:
    """Prometheus exposition text; counters end in `_total`."""
    lines: list[str] = []
    seen: set[str] = set()
    for name in sorted(values):
        family = name.partition("{")[0]
        if family not in seen:
            seen.add(family)
            lines.append(f"# TYPE {family} {'counter' if family.endswith('_total') else 'gauge'}")
        lines.append(f"{name} {values[name]:.15g}")
    return "\n".join(lines) + "\n"


def _end_with_parent() -> None:
    while os.read(0, 1024):  # ends when the other end of the pipe is closed, by whatever death
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def run_worker(role: str, settings: Settings) -> None:
    """Run one role until SIGTERM. Does not return: Faust's worker exits the process."""
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    if os.environ.get(DIE_WITH_PARENT):
        threading.Thread(target=_end_with_parent, daemon=True, name="end-with-parent").start()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # before anything makes a loop
    app = make_app(role, settings)
    worker = app.Worker(loglevel=os.environ.get("SLUICEGATE_LOG", "INFO"), redirect_stdouts=False, quiet=True)
    worker.execute_from_commandline()
