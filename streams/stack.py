"""The whole stack on one machine: broker, ClickHouse, topics, genesis, and each role as a process of its own.

Uses your Kafka and ClickHouse where `SLUICEGATE_KAFKA` and `SLUICEGATE_CLICKHOUSE` are set, else starts a real Kafka
and chDB under the state directory. Everything it starts dies with it. Never decides anything.
Next: `app.py` (what a role process is), `commands/up.py`, `commands/demo.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sluicegate.processors.control.control import Control
from sluicegate.processors.transparency.checkpoints import ROLE as CHECKPOINTER
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.streams import topics
from sluicegate.streams.app import DIE_WITH_PARENT
from sluicegate.streams.broker import EmbeddedBroker, ensure_broker
from sluicegate.streams.control import identities
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.operators import operator
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.role_files import role_file
from sluicegate.streams.roles import DEFAULT_ROLES as DEFAULT_ROLES
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency.head_signer import HeadSigner

READY_LIMIT_S = 60.0
STOP_LIMIT_S = 25.0
POLL_S = 0.1
TOPICS_LIMIT_S = 10.0


@dataclass(slots=True)
class Role:
    """One role's process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    announce: Path


@dataclass(slots=True)
class Stack:
    """What runs. `stop` ends all of it, newest first."""

    settings: Settings
    broker: EmbeddedBroker | None = None
    clickhouse: EmbeddedClickHouse | None = None
    roles: list[Role] = field(default_factory=list)
    extra_env: Mapping[str, str] = field(default_factory=dict)

    def start_role(self, name: str, extra_env: Mapping[str, str] | None = None) -> Role:
        """Start one role process; its log is `<home>/logs/<role>-<n>.log`."""
        logs = self.settings.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{name}-{len(self.roles)}.log"
        env = {**os.environ, **environment_of(self.settings), **self.extra_env, **(extra_env or {})}
        env[DIE_WITH_PARENT] = "1"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "sluicegate.streams.cli", "worker", "--role", name],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, env=env, start_new_session=True,
            )  # fmt: skip
        role = Role(name, process, log, role_file(self.settings.home, name, process.pid))
        self.roles.append(role)
        return role

    def check(self) -> None:
        """Raise `Retryable` with the log's end when a role died."""
        for role in self.roles:
            if role.process.poll() is not None:
                tail = "\n".join(role.log.read_text(errors="replace").splitlines()[-12:])
                raise Retryable(
                    f"role `{role.name}` ended with code {role.process.returncode}, its log ends:\n{tail}"
                )

    def wait_ready(self, limit_s: float = READY_LIMIT_S) -> None:
        """Wait until every role serves `/health` with 200. Raises `Retryable`."""
        deadline = time.monotonic() + limit_s
        waiting = list(self.roles)
        while waiting:
            self.check()
            waiting = [r for r in waiting if not healthy(r.announce)]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(r.name for r in waiting)
                raise Retryable(
                    f"role(s) {names} not ready within {limit_s:.0f} s, see {self.settings.home / 'logs'}"
                )
            if waiting:
                time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop the roles (SIGTERM, then SIGKILL), then ClickHouse, then the broker."""
        for role in reversed(self.roles):
            if role.process.poll() is None:
                role.process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        for role in self.roles:
            try:
                role.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.kill(role.process.pid, signal.SIGKILL)
                role.process.wait()
            role.announce.unlink(missing_ok=True)
            if role.process.stdin is not None:
                role.process.stdin.close()
        self.roles.clear()
        if self.clickhouse is not None:
            self.clickhouse.stop()
        if self.broker is not None:
            self.broker.stop()


def healthy(announce: Path) -> bool:
    """Whether the role behind an announce file answers `/health` with 200."""
    try:
        port = json.loads(announce.read_text())["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, KeyError):
        return False


def environment_of(settings: Settings) -> dict[str, str]:
    """What a role process needs to find the same stack."""
    env = {
        "SLUICEGATE_ENV": settings.env,
        "SLUICEGATE_HOME": str(settings.home),
        "SLUICEGATE_KAFKA": settings.kafka or "",
    }
    if settings.generation is not None:
        env["SLUICEGATE_GENERATION"] = str(settings.generation)
    if settings.clickhouse:
        env["SLUICEGATE_CLICKHOUSE"] = settings.clickhouse
    return env


def start(
    settings: Settings,
    *,
    roles: tuple[str, ...] = DEFAULT_ROLES,
    extra_env: Mapping[str, str] | None = None,
    signing: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Stack:
    """Start everything and wait until it is ready. On an error nothing stays behind."""
    stack = Stack(settings, extra_env=extra_env or {})
    try:
        if settings.clickhouse is None and {"projector", "monitor"} & set(roles):
            say("starting ClickHouse (chDB)")
            stack.clickhouse = EmbeddedClickHouse(settings.home)
            stack.clickhouse.start()
        say("starting Kafka")
        bootstrap, stack.broker = ensure_broker(settings, progress=say)
        stack.settings = replace(settings, kafka=bootstrap)
        say("making topics and genesis")
        control = asyncio.run(prepare(stack.settings, signing))
        if CHECKPOINTER in roles and not HeadSigner(settings.home).has_key(control):
            say("no checkpoints from here: no key of theirs is here (docs/checkpoints.md)")
            roles = tuple(r for r in roles if r != CHECKPOINTER)
        say(f"starting roles: {', '.join(roles)}")
        for name in roles:
            stack.start_role(name)
        stack.wait_ready()
    except BaseException:
        stack.stop()
        raise
    return stack


async def prepare(settings: Settings, signing: str = "") -> Control:
    """Topics, genesis, and in a signed environment the keys of the roles inside, unless they exist.

    `signing`: dev or signed, fixed for ever by the genesis; empty: as it is, and dev where there is none. Raises
    `Terminal` where the genesis says otherwise.
    """
    await topics.create(settings)
    partitions = await _visible_partitions(settings)
    keys = Keys(settings.home)
    try:
        control = (await control_log.read(settings)).control
        if control.head < 0:
            then = identities.first_log_key(settings)  # before the operator's: from that on events are signed
            then += identities.first_operator(settings) if signing == "signed" else []
            control = await control_log.ensure_genesis(
                settings, keys, partitions, signing or "dev", operator(), then
            )
        if signing not in ("", control.signing):
            raise Terminal(
                f"environment `{settings.env}` is `{control.signing}` for ever, use another SLUICEGATE_ENV"
            )
        return await identities.provision(settings, keys, control)
    finally:
        keys.close()


async def _visible_partitions(settings: Settings) -> int:
    """Kafka acknowledges new topics a moment before it shows them."""
    deadline = time.monotonic() + TOPICS_LIMIT_S
    while True:
        try:
            return await topics.partitions_of(settings)
        except Terminal:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_S)
