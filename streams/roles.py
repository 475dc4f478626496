"""The roles a process can have, each as one component with the same four verbs.

    ledger      decides and appends (`lanes/service.py`)
    executor    claims and calls tools (`executors/dispatcher.py`)
    projector   the ledger into ClickHouse (`sinks/clickhouse.py`)
    checkpointer  signs heads of the ledger's trees (`transparency/checkpointer.py`)
    gateway     HTTP for clients without a Kafka credential (`gateway/server.py`)
    monitor     Faust agents for low-rate reactions, and leader timers (`watch/monitor.py`)
    evaluator   scores a sample of the sessions that ended (`watch/evaluator.py`); only where a release names evaluators

Never knows about Faust: `app.py` hosts whatever `make` returns. Roles run as separate processes by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from sluicegate.schemas.errors import Retryable, SluicegateError, Terminal, WrongUsage
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.settings import Settings

if TYPE_CHECKING:
    from sluicegate.executors.adapter import Adapter
    from sluicegate.executors.callbacks import Callbacks
    from sluicegate.executors.dispatcher import Executor
    from sluicegate.executors.outlet import KafkaOutlet
    from sluicegate.executors.reports import Signer
    from sluicegate.executors.verifier import Follower
    from sluicegate.schemas.records import Receipt
    from sluicegate.streams.archive.artifact_sweep import Sweeper
    from sluicegate.streams.control.log import ControlReader

DEFAULT_ROLES = ("ledger", "executor", "projector", "checkpointer", "monitor")
"""What `up` starts, and nothing works without."""
ROLES = ("ledger", "executor", "projector", "checkpointer", "gateway", "monitor")
"""What `doctor` looks for."""
OPTIONAL = ("evaluator",)
ALL = (*ROLES, *OPTIONAL)

GATEWAY_LISTEN = "SLUICEGATE_GATEWAY_LISTEN"
GATEWAY_ORIGINS = "SLUICEGATE_GATEWAY_ORIGINS"
GATEWAY_KNOWN = "SLUICEGATE_GATEWAY_KNOWN"
"""Of how many replies a gateway remembers the place: 260 bytes each, 100,000 when it is not set (`gateway/kept.py`)."""
DEFAULT_LISTEN = "127.0.0.1:8484"
MAX_PORT = 65_535
"""Where a gateway listens when nobody says otherwise: this machine only."""

Metrics = Mapping[str, float]


class Component(Protocol):
    """One role's work in one process."""

    async def start(self) -> None:
        """Begin; raises `SluicegateError` when it cannot."""

    async def stop(self) -> None:
        """Drain within a bound."""

    @property
    def alive(self) -> str:
        """Empty, or what is wrong."""

    def metrics(self) -> Metrics:
        """Gauges and counters by name; a label is written `name{partition="3"}`."""


class LedgerRole:
    """The ledger's component."""

    def __init__(self, settings: Settings) -> None:
        from sluicegate.streams.keys.store import Keys
        from sluicegate.streams.lanes.service import LedgerService

        self.service = LedgerService(settings, Keys(settings.home))

    async def start(self) -> None:
        """Join the group."""
        await self.service.start()

    async def stop(self) -> None:
        """Finish open transactions."""
        await self.service.stop()

    @property
    def alive(self) -> str:
        """Whether positions advance or lag is zero."""
        crashed = self.service.crashed
        if crashed is not None and crashed.done():
            return f"a lane crashed: {crashed.exception()!r}"
        return self.service.alive

    def metrics(self) -> Metrics:
        """Per partition."""
        found: dict[str, float] = {"sluicegate_control_head": self.service.control.control.head}
        for index, lane in self.service.lanes.items():
            label = f'{{partition="{index}"}}'
            m = lane.metrics
            found[f"sluicegate_ledger_seq{label}"] = lane.state.seq
            found[f"sluicegate_ledger_inputs_total{label}"] = m.inputs
            found[f"sluicegate_ledger_outcomes_total{label}"] = m.outcomes
            found[f"sluicegate_ledger_transactions_total{label}"] = m.transactions
            found[f"sluicegate_ledger_taints_total{label}"] = m.taints
            found[f"sluicegate_ledger_dead_letters_total{label}"] = m.dead_letters
            for reason, count in m.rejected.items():
                found[f'sluicegate_ledger_rejected_total{{partition="{index}",reason="{reason}"}}'] = count
            found[f"sluicegate_ledger_machinery_failed_total{label}"] = m.machinery_failed
            found[f"sluicegate_ledger_open_intents{label}"] = lane.state.open_count
            found[f"sluicegate_ledger_sessions{label}"] = len(lane.state.sessions)
            found[f"sluicegate_ledger_remembered_ids{label}"] = len(lane.state.intents)
            found[f"sluicegate_ledger_recovery_seconds{label}"] = m.recovery_s
        return found

    async def states(self) -> list[dict[str, object]]:
        """The digest of every partition's state, for `rebuild --against live`."""
        from sluicegate.streams.rebuild.live_state import states_of

        return await states_of(self.service.lanes.values())


class ExecutorRole:
    """The executor's component. Adapters are made in `start`: they need the running loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._executor: Executor | None = None
        self._adapters: dict[str, Adapter] = {}
        self._control: ControlReader | None = None
        self._callbacks: Callbacks | None = None
        self._outlet: KafkaOutlet | None = None
        self._sweeper: Sweeper | None = None

    async def start(self) -> None:
        """Join the group."""
        from sluicegate.executors.artifact_keeper import Keeper
        from sluicegate.executors.callbacks import Callbacks, address_from
        from sluicegate.executors.dispatcher import Executor
        from sluicegate.executors.gates import ReleaseGates
        from sluicegate.executors.guardrail import GuardrailAdapter
        from sluicegate.executors.http import HttpAdapter, no_callbacks
        from sluicegate.executors.large_arguments import Fetcher
        from sluicegate.executors.mcp_lazy import LazyMcpAdapter
        from sluicegate.executors.model import ModelAdapter
        from sluicegate.executors.outlet import KafkaOutlet
        from sluicegate.executors.python import PythonAdapter
        from sluicegate.executors.sql import SqlAdapter
        from sluicegate.streams.archive.artifact_sweep import Sweeper, days_of
        from sluicegate.streams.archive.artifacts import store_of
        from sluicegate.streams.lanes.service import wall_clock

        store = store_of(self._settings)
        self._sweeper = Sweeper(store, days_of())
        signer, verifier = await self._trust()
        name = f"{socket.gethostname()}-{os.getpid()}"
        address = await address_from(os.environ)
        gates = ReleaseGates(self._settings)
        keep = Keeper(store, gates).keep
        if address is not None:
            self._callbacks = Callbacks(address, self._settings.env, name, wall_clock, keep)
        url_for = self._callbacks.url_for if self._callbacks is not None else no_callbacks
        http, python = HttpAdapter.from_env(os.environ, url_for), PythonAdapter.from_env(os.environ)
        guardrail = GuardrailAdapter.from_env(os.environ)
        self._outlet = KafkaOutlet(self._settings, name, wall_clock)
        await self._outlet.start()
        model = ModelAdapter.from_env(os.environ, self._outlet, gates, verifier.stopped)
        sql = SqlAdapter.from_env(os.environ)
        self._adapters = {
            "http": http,
            "python": python,
            "guardrail": guardrail,
            "model": model,
            "sql": sql,
            "mcp": LazyMcpAdapter(os.environ),
        }
        self._executor = Executor(
            self._settings,
            self._adapters,
            name=name,
            signer=signer,
            verifier=verifier,
            keep=keep,
            whole=Fetcher(store).whole,
        )
        await self._executor.start()
        self._sweeper.start()
        if self._callbacks is not None:
            await self._callbacks.start(self._called_back)

    async def _called_back(self, receipt: Receipt) -> None:
        assert self._executor is not None and self._control is not None
        partition = partition_of(receipt.agent_id, self._control.control.partitions)
        await self._executor.report(partition, receipt)

    async def _trust(self) -> tuple[Signer | None, Follower]:
        """How receipts are signed (in a signed environment) and dispatches checked, both by what control says."""
        from sluicegate.executors.verifier import Follower, SignedVerifier
        from sluicegate.streams.control.log import ControlReader
        from sluicegate.streams.keys.role_keys import RoleSigner
        from sluicegate.streams.lanes.service import wall_clock

        reader = ControlReader(self._settings, with_release=False)
        signer = RoleSigner(self._settings.home, "executor", "receipts", lambda: reader.control, wall_clock)
        try:
            await reader.start()
            if reader.control.head < 0:
                raise Retryable("the environment has no genesis yet, make it: sluicegate topics create")
            signer.ready()
        except SluicegateError:
            await reader.stop()
            raise
        self._control = reader
        if reader.control.signing != "signed":  # for ever: the genesis says so
            return None, Follower(reader)
        return signer, SignedVerifier(reader, wall_clock)

    async def stop(self) -> None:
        """Finish calls within a bound."""
        if self._sweeper is not None:
            await self._sweeper.stop()
        if self._callbacks is not None:
            await self._callbacks.stop()
        if self._executor is not None:
            await self._executor.stop()
        for adapter in self._adapters.values():
            await adapter.close()
        if self._outlet is not None:
            await self._outlet.stop()
        if self._control is not None:
            await self._control.stop()

    @property
    def alive(self) -> str:
        """What is wrong, or nothing."""
        return self._executor.alive if self._executor is not None else ""

    def metrics(self) -> Metrics:
        """Counters of claims and calls."""
        if self._executor is None:
            return {}
        return {f"sluicegate_executor_{k}_total": v for k, v in asdict(self._executor.counters).items()}


class ProjectorRole:
    """The sink's component."""

    def __init__(self, settings: Settings) -> None:
        from sluicegate.sinks.checkpoints import CheckpointCopier
        from sluicegate.sinks.clickhouse import Projector
        from sluicegate.sinks.embedded import connect
        from sluicegate.sinks.releases import ReleaseCopier
        from sluicegate.streams.keys.store import Keys

        self._keys = Keys(settings.home)
        assert settings.kafka is not None  # `worker` attaches before it makes a role
        self._projector = Projector(settings, settings.kafka, lambda: connect(settings, "sink"), self._keys)
        self._beside = [
            kind(settings, lambda: connect(settings, "sink"), self._projector)
            for kind in (CheckpointCopier, ReleaseCopier)
        ]
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._copiers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to copy."""
        self._task = asyncio.create_task(self._projector.run(self._stop), name="projector")
        self._copiers = [asyncio.create_task(one.run(), name=one.TOPIC) for one in self._beside]

    async def stop(self) -> None:
        """Finish the range at hand."""
        self._stop.set()
        for copier in self._copiers:
            copier.cancel()
        if self._copiers:
            await asyncio.wait(self._copiers)
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(10):
                    await self._task

    @property
    def alive(self) -> str:
        """What is wrong, or nothing."""
        if self._task is not None and self._task.done() and not self._stop.is_set():
            return f"the projector ended: {self._task.exception()!r}"
        for copier in self._copiers:
            if copier.done() and not self._stop.is_set():
                return f"the copier of {copier.get_name()} ended: {copier.exception()!r}"
        return ""

    def metrics(self) -> Metrics:
        """Rows, batches, retries, lag."""
        p = self._projector
        found: dict[str, float] = {
            "sluicegate_sink_rows_total": p.rows,
            "sluicegate_sink_batches_total": p.batches,
            "sluicegate_sink_retries_total": p.retries,
        }
        for place, lag in p.lag.items():
            found[f'sluicegate_sink_lag{{place="{place}"}}'] = lag
        return found


def listen_at(text: str) -> tuple[str, int]:
    """Host and port of an address to listen on. Raises `WrongUsage` for what is none."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > MAX_PORT:
        raise WrongUsage(f"`{text[:80]}` is no address to listen on, write HOST:PORT")
    return host, int(port)


def _gateway(settings: Settings) -> Component:
    from sluicegate.gateway.kept import MAX_KNOWN
    from sluicegate.gateway.server import Gateway

    host, port = listen_at(os.environ.get(GATEWAY_LISTEN, DEFAULT_LISTEN))
    known = os.environ.get(GATEWAY_KNOWN, str(MAX_KNOWN))
    if not known.isdigit() or not int(known):
        raise Terminal(f"`{known[:40]}` is no number of replies: set {GATEWAY_KNOWN} to 1 or more")
    return Gateway(settings, host, port, os.environ.get(GATEWAY_ORIGINS, "").split(), int(known))


def _evaluator(settings: Settings) -> Component:
    from sluicegate.streams.watch.evaluator_role import EvaluatorRole

    return EvaluatorRole(settings)


def _checkpointer(settings: Settings) -> Component:
    from sluicegate.streams.transparency.checkpointer import Checkpointer

    return Checkpointer(settings)


_MAKERS: dict[str, Callable[[Settings], Component]] = {
    "ledger": LedgerRole,
    "executor": ExecutorRole,
    "projector": ProjectorRole,
    "checkpointer": _checkpointer,
    "gateway": _gateway,
    "evaluator": _evaluator,
}


def make(role: str, settings: Settings) -> Component | None:
    """The component of a role; None for `monitor`, which is Faust's own work. Raises `Terminal` for others."""
    if role == "monitor":
        return None
    maker = _MAKERS.get(role)
    if maker is None:
        raise WrongUsage(f"role `{role}` does not exist, choose one of {', '.join(ALL)}")
    return maker(settings)
