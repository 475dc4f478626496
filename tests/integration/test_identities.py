"""Agents, keys and modes from the command line, on a real Kafka; and a signed environment set up by commands alone."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.schemas.errors import Terminal
from sluicegate.sinks.clickhouse import Projector
from sluicegate.sinks.embedded import EmbeddedClickHouse
from sluicegate.streams import demo, stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import operators
from sluicegate.streams.keys import files as key_files
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch import shadow
from typer.testing import CliRunner

from tests.driver import AGENT, Driver
from tests.integration.gate import Loop
from tests.integration.test_ledger_tools import publish
from tests.unit.test_oidc import serving
from tests.unit.test_tokens import jwk

Command = Callable[..., str]
CATCH_UP_S = 60.0
BANKER = "banking-agent-command-r"


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Settings:
    return Settings(env=f"t-{uuid.uuid4().hex[:8]}", home=tmp_path, kafka=kafka, partitions=1)


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the environment; what it printed. An error is raised as the command raised it."""
    for name, value in {**stack.environment_of(settings), "SLUICEGATE_PARTITIONS": "1"}.items():
        monkeypatch.setenv(name, value)
    asyncio.run(stack.prepare(settings))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if isinstance(done.exception, Exception):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def control_of(settings: Settings) -> Control:
    return asyncio.run(control_log.read(settings)).control


def test_agents_come_and_go(settings: Settings, command: Command) -> None:
    command("agents", "register", "a-1", "--role", "retail", "--tenant", "acme")
    for verb, status in (("suspend", "suspended"), ("resume", "active"), ("retire", "retired")):
        head = control_of(settings).head
        command("agents", verb, "a-1", "--dry-run")
        assert control_of(settings).head == head
        command("agents", verb, "a-1", "--why", "a test")
        [row] = json.loads(command("agents", "list", "-o", "json"))
        assert (row["agent"], row["tenant"], row["status"]) == ("a-1", "acme", status)
    for wrong in (["suspend", "a-1"], ["register", "a-1"], ["suspend", "nobody"], ["rotate", "a-1"]):
        with pytest.raises(Terminal):
            command("agents", *wrong)


def test_keys_come_and_go_and_no_secret_is_told(settings: Settings, command: Command) -> None:
    command("agents", "register", "a-1")
    said = command("keys", "new", "a-1", "--role", "agent", "--kid", "first")
    first = key_files.load(settings.home / "keys" / "first.jwk")
    said += command("agents", "rotate", "a-1", "--overlap", "1h")
    [second] = [k for k in control_of(settings).keys.values() if k.principal == "a-1" and k.kid != "first"]
    made = key_files.load(key_files.default_path(settings.home, second.kid))
    assert made.public == second.public
    states = {r["kid"]: r["state"] for r in json.loads(command("keys", "list", "a-1", "-o", "json"))}
    assert states == {"first": "valid", second.kid: "valid"}, "they overlap"
    said += command("keys", "revoke", "first", "--why", "lost")
    states = {r["kid"]: r["state"] for r in json.loads(command("keys", "list", "a-1", "-o", "json"))}
    assert states == {"first": "revoked", second.kid: "valid"}
    said += command("keys", "new", "runner", "--role", "executor")
    control = control_of(settings)
    for secret in (first.secret, made.secret):
        assert secret.hex() not in said
        assert first.public.hex() in [k.public.hex() for k in control.keys.values()]
    for wrong in (
        ["new", "nobody", "--role", "agent"], ["new", "a-1", "--role", "king"], ["revoke", "nothing"],
        ["new", "a-1", "--kid", "first"], ["add", "k", "a-1", "--public", "00"],
    ):  # fmt: skip
        with pytest.raises(Terminal):
            command("keys", *wrong)


def test_modes_need_a_permission(
    settings: Settings, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made the environment is its first operator; somebody else is told no, and writes nothing."""
    command("mode", "set", "agent", "a-1", "observe")
    assert json.loads(command("mode", "list", "-o", "json")) == [
        {"scope": "agent", "id": "a-1", "mode": "observe"}
    ]
    head = control_of(settings).head
    with monkeypatch.context() as other:
        other.setenv("LOGNAME", "somebody-else")
        with pytest.raises(Terminal, match="not permitted"):
            command("mode", "set", "agent", "a-2", "observe")
        assert control_of(settings).head == head
        command("mode", "set", "tool", "send_money", "enforce")
        # By another program: on the ledger for ever, and of no effect.
        event: tuple[str, dict[str, object]] = (
            "mode.set",
            {"scope": "agent", "value": "a-2", "mode": "observe"},
        )
        keys = Keys(settings.home)
        asyncio.run(control_log.append(settings, keys, [event], who="somebody-else", why="tries"))
        keys.close()
    control = control_of(settings)
    assert control.modes == {("agent", "a-1"): "observe", ("tool", "send_money"): "enforce"}
    for wrong in (["planet", "a", "observe"], ["agent", "a", "sleep"], ["environment", "another", "observe"]):
        with pytest.raises(Terminal):
            command("mode", "set", *wrong)


def test_issuers_come_and_go(settings: Settings, command: Command, tmp_path: Path) -> None:
    key = key_files.create(tmp_path / "i.jwk", "i")
    whole = json.loads((tmp_path / "i.jwk").read_text())
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [whole]}))
    add = [
        "issuers",
        "add",
        "https://a.example.com",
        "--audience",
        "gate",
        "--jwks",
        str(tmp_path / "jwks.json"),
    ]
    command(*add)
    assert json.loads(command("issuers", "list", "-o", "json")) == [
        {"issuer": "https://a.example.com", "audience": "gate", "prefix": "", "keys": "EdDSA", "from": "file"}
    ]
    kept = control_of(settings).issuers["https://a.example.com"].keys[0]
    assert whole["d"] not in kept
    assert key.secret.hex() not in kept
    add[2] = "https://b.example.com"
    with pytest.raises(Terminal, match="prefix"):
        command(*add)
    command(*add, "--prefix", "b:")
    command("issuers", "remove", "https://a.example.com")
    assert set(control_of(settings).issuers) == {"https://b.example.com"}
    with pytest.raises(Terminal, match="not registered"):
        command("issuers", "remove", "https://a.example.com")
    _asked_for_its_keys(settings, command)


def _asked_for_its_keys(settings: Settings, command: Command) -> None:
    """Without a file an issuer is asked, when it is added and when its keys are refreshed."""
    loop, context = Loop(), serving()
    issuer = loop.run(context.__aenter__())
    try:
        command("issuers", "add", issuer.url, "--audience", "gate")
        first = control_of(settings).issuers[issuer.url]
        assert first.discover and len(first.keys) == 1
        head = control_of(settings).head
        [row] = json.loads(command("issuers", "refresh", "-o", "json"))
        assert (row["issuer"], row["state"]) == (issuer.url, "unchanged") and control_of(
            settings
        ).head == head
        issuer.keys = {"keys": [jwk("EdDSA", "k-2"), jwk("ES256", "k-3")]}
        assert "would change" in command("issuers", "refresh", "--dry-run", "-o", "json")
        command("issuers", "refresh", issuer.url)
        after = control_of(settings).issuers[issuer.url]
        assert control_of(settings).head == head + 1 and len(after.keys) == 2 and after.discover
        issuer.about = {"issuer": "https://login.example.com"}
        away = CliRunner().invoke(app, ["issuers", "refresh", "-o", "json"])
        assert (
            away.exit_code == 1
            and "kept" in away.stdout
            and control_of(settings).issuers[issuer.url] == after
        )
        with pytest.raises(Terminal, match="not asked"):
            command("issuers", "refresh", "https://b.example.com")
    finally:
        loop.run(context.__aexit__(None, None, None))
        loop.close()


# -- shadow agents -------------------------------------------------------------------------------------------------


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[EmbeddedClickHouse]:
    with EmbeddedClickHouse(tmp_path) as server:
        yield server


def haunted() -> Driver:
    """Three records of one shadow agent and one of another, among a known one's."""
    d = Driver()
    d.open_session()
    for agent in ("ghost-1", "ghost-2", "ghost-1", AGENT, "ghost-1"):
        d.call(agent=agent)
    return d


def seen(settings: Settings, driver: Driver) -> tuple[list[tuple[str, int]], str]:
    found, source = asyncio.run(shadow.unregistered(settings, driver.control.agents))
    assert [s.last_at for s in found] == sorted((s.last_at for s in found), reverse=True)
    return [(s.agent_id, s.records) for s in found], source


def test_shadow_agents_are_listed(settings: Settings) -> None:
    driver = haunted()
    asyncio.run(publish(settings, driver))
    assert seen(settings, driver) == ([("ghost-1", 3), ("ghost-2", 1)], "kafka")


def test_shadow_agents_are_counted_once_from_both_sources(
    settings: Settings, clickhouse: EmbeddedClickHouse
) -> None:
    """ClickHouse has the first half of the ledger, Kafka all of it."""
    driver = haunted()
    half = len(driver.records) // 2
    asyncio.run(publish(settings, driver, driver.records[:half]))

    async def project() -> None:
        assert settings.kafka
        projector = Projector(settings, settings.kafka, lambda: clickhouse.connect("sink"), driver.keys)  # type: ignore[arg-type]
        stop = asyncio.Event()
        task = asyncio.create_task(projector.run(stop))
        deadline = time.monotonic() + CATCH_UP_S
        while projector.rows < half:
            assert time.monotonic() < deadline, "the projector did not catch up"
            await asyncio.sleep(0.05)
        stop.set()
        await task

    asyncio.run(project())
    rest = haunted()
    rest.records = rest.records[half:]
    rest.control_records, rest.inputs, rest.dead_letters = [], {}, []
    asyncio.run(publish(settings, rest))
    assert seen(settings, driver) == ([("ghost-1", 3), ("ghost-2", 1)], "clickhouse, kafka")


# -- a signed environment by commands alone ------------------------------------------------------------------------


def test_a_signed_environment_by_commands_alone(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics, keys, release, roles, and a call that is signed, checked, executed and checked again."""
    base = Settings(env=f"t-{uuid.uuid4().hex[:8]}", home=tmp_path, kafka=kafka, partitions=2)
    folder = demo.examples()
    tools = demo.ToolServer(folder)
    running = stack.Stack(base, extra_env=tools.env())
    for name, value in {**stack.environment_of(base), "SLUICEGATE_PARTITIONS": "2"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if isinstance(done.exception, Exception):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    try:
        tools.wait_ready()
        run("topics", "create", "--signing", "signed")
        with pytest.raises(Terminal, match="for ever"):
            run("topics", "create", "--signing", "dev")
        assert (tmp_path / "keys" / "operator.jwk").stat().st_mode & 0o777 == 0o600
        run("agents", "register", "--file", str(folder / "release" / "agents.yaml"))
        run("keys", "new", BANKER, "--role", "agent", "--kid", "b-1")
        run("deploy", str(folder / "release"))
        for role in ("ledger", "executor"):
            running.start_role(role)
        running.wait_ready()
        demo.wait_for_head(running, control_of(base).head)
        key = str(tmp_path / "keys" / "b-1.jwk")
        answer = run("call", "banking.get_balance", "--agent", BANKER, "--key", key)
        assert json.loads(answer) is not None
        assert "unavailable" in run(
            "call", "banking.get_balance", "--agent", BANKER, "--timeout-s", "2", code=1
        ), "an unsigned record gets no reply, because nobody is known to have asked"
        # Without the operator's key nothing is written; written past the command, it has no effect.
        head = control_of(base).head
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("SLUICEGATE_OPERATOR_KEY", str(tmp_path / "none.jwk"))
            with pytest.raises(Terminal, match="operator"):
                run("agents", "suspend", BANKER)
            elsewhere.setattr(control_log.operators, "key_for", lambda *_: None)
            event: tuple[str, dict[str, object]] = ("agent.suspended", {"agent_id": BANKER})
            keys = Keys(tmp_path)
            asyncio.run(control_log.append(base, keys, [event], who=operators.operator(), why="forged"))
            keys.close()
        assert control_of(base).head == head + 1
        assert control_of(base).agents[BANKER].status == "active"
        with pytest.raises(Terminal, match="last operator"):
            run("keys", "revoke", next(k.kid for k in control_of(base).keys.values() if k.role == "operator"))
        run("keys", "revoke", "b-1")
        demo.wait_for_head(running, control_of(base).head)
        assert "unavailable" in run("call", "banking.get_balance", "--agent", BANKER, "--key", key, "--timeout-s", "2", code=1)  # fmt: skip
        said = run("ledger", "verify", "--no-clickhouse", code=1)
        assert said.count("BROKEN: ") == 1 and "BROKEN: authority:" in said, "nothing but the forged event"
        assert f"control event {head + 1} (`agent.suspended`) has no effect" in said
    finally:
        running.stop()
        tools.stop()
