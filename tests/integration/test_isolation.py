"""Nothing that is written in one scope is ever told in another: the whole product on a real Kafka, looked at from outside.

50 agents of 3 tenants in 200 sessions, all with the same names for sessions, keys and intents, ask in a random order of a
seed: by HTTP through a gateway, and twelve of them by the SDK, too. Three ledger processes and an executor answer; one of
the ledgers is killed half-way, and another one takes its place. Every value is a token that names the scope it was written in;
whatever comes back (bodies, headers, event streams, errors, what the SDK returns or raises, artifacts, at last the
whole topic `replies`) is searched for tokens of other scopes.

Policies let every second agent into `shared:ops` and six into `shared:board`; all try both. Then a policy lets everybody in, and
the same question is answered. docs/memory.md tells what this shows. Run with `-s` to see it; `SLUICEGATE_TEST_SEED` is another order.
The same over `decide` and `apply`, thousands of times: `tests/properties/test_memory_isolation.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiokafka import TopicPartition
from sluicegate.gateway.server import Gateway
from sluicegate.processors.control.api_keys import token_of
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Reply
from sluicegate.schemas.topics import full_name, partition_of
from sluicegate.streams import kafka
from sluicegate.streams.archive import artifacts
from sluicegate.streams.client import AgentClient
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.recovery import read_range
from sluicegate.streams.sdk.session import Session
from sluicegate.streams.settings import Settings
from sluicegate.streams.stack import Stack
from sluicegate.streams.verify.ledger import verify

from tests.driver import release_files
from tests.integration import gate as gates
from tests.integration.gateway_served import key_of
from tests.integration.isolation_tools import AGENTS, TENANTS, tenant_of, token
from tests.unit.test_shared_memory import ACTIONS
from tests.unit.test_shared_memory import FILES as MEMORY
from tests.unit.test_transcript import CONTRACT as HISTORY

PARTITIONS = WORKERS = 3
NAMES = ("s0", "s1", "s2", "s3")
"""Of every agent's sessions."""
BY_SDK = AGENTS[:12]
"""They speak by the SDK in `s0` and `s1`, and through the gateway in the others."""
OPS = set(AGENTS[1::2])
BOARD = set(AGENTS[:6])
STEPS = 1_000
AT_ONCE = 24
STREAMS = 40
LIMIT_S = 60.0
SEED = int(os.environ.get("SLUICEGATE_TEST_SEED", "20261129"))
TOOLS = "tests.integration.isolation_tools"
TOKEN = re.compile(r"<([^<>|]+)\|([^<>|]+)\|\d+>")

SHARED = ("shared:ops", "shared:board")
KINDS = ("write", "write", "mark", "append", "read", "read", "read", "search", "find", "forget", "history", "note", "note",
         "report", "said", "again", "peek")  # fmt: skip


def tool(name: str, argument: str, **rules: object) -> str:
    """A contract of one of the test's own tools."""
    return json.dumps(
        {
            "name": f"desk.{name}",
            "inputSchema": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
            "x-sluicegate": {
                "class": "read_only", "executor": {"kind": "python", "entry": f"{TOOLS}:{name}"},
                "timeout_ms": 20_000, **rules,
            },
        }
    )  # fmt: skip


def files(board: str) -> dict[str, str]:
    """The release. `board`: who is let into `shared:board`."""
    return {
        **release_files(),
        **MEMORY,
        "contracts/memory.history.json": HISTORY,
        "contracts/desk.note.json": tool("note", "topic", cache={"scope": "tenant", "ttl_s": 3_600}),
        "contracts/desk.report.json": tool("report", "text", max_result_bytes=1_000_000),
        "policies/memory.cedar": f"""
@id("own") permit (principal, action in [{ACTIONS}], resource)
when {{ context.memory.scope == "session" || context.memory.scope == "agent" }};
@id("more") permit (principal, action in [Action::"memory.history", Action::"desk.note", Action::"desk.report"], resource);
@id("ops") permit (principal in Role::"retail", action in [{ACTIONS}], resource) when {{ context.memory.scope == "shared:ops" }};
@id("board") permit ({board}, action in [{ACTIONS}], resource) when {{ context.memory.scope == "shared:board" }};
""",
    }


ROWS: list[dict[str, object]] = [
    {
        "agent_id": name,
        "tenant": tenant_of(name),
        "team": "",
        "roles": ["banking"] + ["retail"] * (name in OPS) + ["slack"] * (name in BOARD),
    }
    for name in AGENTS
]


def may(agent: str, scope: str) -> bool:
    """What the policies say."""
    return scope not in SHARED or agent in (OPS if scope == "shared:ops" else BOARD)


def owner(agent: str, session: str, scope: str) -> str:
    """Who may be told what is written in a scope."""
    if scope == "session":
        return f"{agent}/{session}"
    return agent if scope == "agent" else f"{tenant_of(agent)}/{scope}"


def within_reach(agent: str, session: str) -> set[str]:
    """All that a session may ever be told."""
    scopes = [scope for scope in ("session", "agent", "cache", *SHARED) if may(agent, scope)]
    return {owner(agent, session, scope) for scope in scopes}


@dataclass
class Step:
    """One thing to do: what, where, and what alone may come back."""

    agent: str
    session: str
    kind: str
    scope: str = "session"
    arguments: dict[str, object] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)
    ident: str = ""

    @property
    def tool(self) -> str:
        """Whom to ask."""
        name = {"find": "search", "mark": "write"}.get(self.kind, self.kind)
        return f"desk.{name}" if name in ("note", "report") else f"memory.{name}"


def plan(rng: random.Random) -> list[Step]:
    """What all of them do, in an order of its own for each seed. Every agent's intents are called op-1, op-2, ..."""
    steps: list[Step] = []
    of: dict[str, list[Step]] = {name: [] for name in AGENTS}
    for n in range(STEPS):
        agent, session = (
            (AGENTS[n // 4], NAMES[n % 4])
            if n < 200
            else (rng.choice(rng.choice((AGENTS, AGENTS, sorted(BOARD)))), rng.choice(NAMES))
        )
        step = Step(agent, session, "write" if n < 200 else rng.choice(KINDS))
        mine = [scope for scope in SHARED if may(agent, scope)]
        step.scope = rng.choice(("session", "agent", *SHARED, *mine, *mine))
        scope = owner(agent, session, step.scope)
        value, key = token(scope, agent, n), rng.choice(("k", "l"))
        step.allowed = {scope}
        if step.kind == "mark":  # a search tells keys
            key = token(scope, agent, rng.randrange(3))
        if step.kind == "find":
            step.arguments = {"words": rng.choice(("shared", agent, rng.choice(AGENTS)))}
        elif step.kind in ("write", "mark", "append", "read", "forget"):
            step.arguments = {"key": key}
        if step.kind in ("write", "mark"):
            step.arguments["value"] = [value]
        elif step.kind == "append":
            step.arguments["value"] = value
        elif step.kind == "note":
            step.arguments, step.allowed = {"topic": rng.choice("ab")}, {owner(agent, session, "cache")}
        elif step.kind in ("report", "said"):
            text = token(f"{agent}/{session}", agent, n)
            step.arguments, step.allowed = {"text": text}, {f"{agent}/{session}"}
        elif step.kind == "history":
            step.allowed = within_reach(agent, session)
        elif step.kind in ("again", "peek"):  # how an intent of this name ended: one's own, or nobody's
            step.ident = (
                rng.choice(of[agent]).ident if step.kind == "again" and of[agent] else f"op-{9_000 + n}"
            )
            step.allowed = next((one.allowed for one in of[agent] if one.ident == step.ident), set())
        if step.tool.startswith("memory.") and step.kind != "history":
            step.arguments["scope"] = step.scope
        if step.kind not in ("said", "again", "peek") and not by_sdk(step):
            step.ident = f"op-{len(of[agent]) + 1}"
            of[agent].append(step)
        steps.append(step)
    return steps


def by_sdk(step: Step) -> bool:
    """Whether the SDK asks: it has no door for what a channel says, and its ids are its own."""
    return step.agent in BY_SDK and step.session in NAMES[:2] and step.kind not in ("said", "again", "peek")


@dataclass
class Town:
    """Everybody's connections, and what was seen."""

    settings: Settings
    gateway: Gateway
    http: aiohttp.ClientSession
    sdk: dict[tuple[str, str], Session] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)
    streams: list[asyncio.Task[None]] = field(default_factory=list)

    def look(self, where: str, allowed: set[str], text: str, reader: str = "") -> None:
        """Search what came back."""
        self.seen["searched"] += 1
        self.seen["bytes"] += len(text)
        for found in TOKEN.finditer(text):
            self.seen["tokens"] += 1
            if found[1] not in allowed:
                self.leaks.append(f"{where}: {found[0]}, allowed {sorted(allowed)}")
            elif reader and found[2] != reader:
                self.seen[f"of others {found[1].partition('/')[2]}"] += 1

    async def call(
        self, agent: str, method: str, path: str, body: object, allowed: set[str]
    ) -> tuple[int, dict[str, object]]:
        """One request with the agent's own key; its whole answer is searched."""
        headers = {"Authorization": f"Bearer {token_of(self.settings.env, agent, f'secret-{agent}')}"}
        url = self.gateway.url + path
        async with self.http.request(method, url, data=json.dumps(body), headers=headers) as answer:
            raw = await answer.read()
            self.look(f"{agent} {method} {path}", allowed, f"{dict(answer.headers)} {raw.decode()}", agent)
            return answer.status, json.loads(raw)

    async def do(self, step: Step) -> None:
        """One step, by its own door."""
        if by_sdk(step):
            await self._by_sdk(step)
            return
        where, status = f"/v1/sessions/{step.session}/messages", 0
        if step.kind == "said":
            status, _ = await self.call(step.agent, "POST", where, step.arguments, set())
        elif step.kind in ("again", "peek"):
            path = (
                f"/v1/intents/{step.ident}?wait_s={LIMIT_S if step.kind == 'again' and step.allowed else 0.5}"
            )
            status, _ = await self.call(step.agent, "GET", path, {}, step.allowed)
        else:
            body = {
                "session_id": step.session, "tool": step.tool, "arguments": step.arguments, "intent_id": step.ident,
                "timeout_s": LIMIT_S,
            }  # fmt: skip
            status, said = await self.call(step.agent, "POST", "/v1/intents", body, step.allowed)
            self._judge(step, status == 200)
            if step.kind == "report" and status == 200:
                await self._open(step, said["result"])
        self.seen[f"{'asked again' if step.kind in ('again', 'peek') else 'http'} {status}"] += 1

    async def _by_sdk(self, step: Step) -> None:
        session = self.sdk[step.agent, step.session]
        try:
            found = await session.call_tool(step.tool, step.arguments, timeout_s=LIMIT_S)  # type: ignore[arg-type]
        except SluicegateError as error:
            said = (
                f"{error!r} {error} {getattr(error, 'for_model', '')} {getattr(error, 'for_developer', '')}"
            )
            self.look(f"{step.agent} sdk {step.kind}", step.allowed, said, step.agent)
            self._judge(step, False)
            self.seen[f"sdk {getattr(error, 'reason', type(error).__name__)}"] += 1
            return
        self.look(
            f"{step.agent} sdk {step.kind}", step.allowed, json.dumps(found, ensure_ascii=False), step.agent
        )
        self._judge(step, True)
        self.seen["sdk answers"] += 1
        if step.kind == "report":
            await self._open(step, found)

    async def _open(self, step: Step, reference: object) -> None:
        """An artifact: what a reference opens to."""
        content = (await artifacts.fetch(artifacts.store_of(self.settings), reference)).decode()
        assert token(f"{step.agent}/{step.session}", step.agent, 0) in content
        self.look(f"{step.agent} artifact", step.allowed, content, step.agent)
        self.seen["artifacts"] += 1

    def _judge(self, step: Step, answered: bool) -> None:
        if step.tool.startswith("memory.") and not may(step.agent, step.scope) and step.kind != "history":
            if answered:
                self.leaks.append(f"{step.agent} {step.kind} {step.scope} was answered without a policy")
            self.seen["not permitted"] += 1
        elif answered:
            self.seen[f"{step.kind} {step.scope}"] += 1

    async def listen(self, agent: str, session: str) -> None:
        """All events of one session, for as long as it is played."""
        headers = {"Authorization": f"Bearer {token_of(self.settings.env, agent, f'secret-{agent}')}"}
        async with self.http.get(
            f"{self.gateway.url}/v1/sessions/{session}/events", headers=headers
        ) as answer:
            assert answer.status == 200
            heard: list[bytes] = []
            try:
                async for piece in answer.content.iter_any():
                    heard.append(piece)
            except asyncio.CancelledError:
                pass
            text = b"".join(heard).decode()
            self.seen["events"] += text.count("\ndata:") + text.startswith("data:")
            self.look(f"{agent} events of {session}", within_reach(agent, session), text, agent)

    async def replies(self) -> None:
        """The topic itself, from its beginning: whatever any client could be told in `s0` to `s3`."""
        reader = await kafka.connect(kafka.consumer(self.settings, fetch_wait_ms=20))
        try:
            for index in range(PARTITIONS):
                place = TopicPartition(full_name(self.settings.env, "replies"), index)
                async for batch in read_range(reader, place, 0):
                    for record in batch:
                        reply = codec.decode_as(Reply, record.value)
                        assert record.key == reply.agent_id.encode()
                        text = f"{reply!r} {(reply.result or b'').decode()}"
                        self.look(
                            f"reply to {reply.agent_id}",
                            within_reach(reply.agent_id, reply.session_id),
                            text,
                        )
                        self.seen["replies"] += 1
        finally:
            await reader.stop()


def start(settings: Settings) -> Iterator[Stack]:
    """Three ledger processes and an executor, ready."""
    stack = Stack(settings, extra_env={"SLUICEGATE_PYTHON_TOOLS": TOOLS, "PYTHONPATH": str(Path.cwd())})
    try:
        for name in ["ledger"] * WORKERS + ["executor"]:
            stack.start_role(name)
        stack.wait_ready()
        yield stack
    finally:
        stack.stop()


@contextlib.asynccontextmanager
async def town(settings: Settings) -> AsyncIterator[Town]:
    """A gateway, and all sessions open."""
    async with contextlib.AsyncExitStack() as stack:
        gateway = Gateway(settings)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        await stack.enter_async_context(http)
        made = Town(settings, gateway, http)

        async def one(agent: str) -> None:
            if agent in BY_SDK:
                client = await stack.enter_async_context(AgentClient(agent, settings=settings))
                for name in NAMES[:2]:
                    made.sdk[agent, name] = await client.session(
                        session_id=name, timeout_s=LIMIT_S
                    ).__aenter__()
            for name in NAMES[2:] if agent in BY_SDK else NAMES:
                status, said = await made.call(agent, "POST", "/v1/sessions", {"session_id": name}, set())
                assert status == 201, said

        await asyncio.gather(*map(one, AGENTS))
        yield made


async def play(t: Town, running: Stack, rng: random.Random) -> None:
    """All steps, `AT_ONCE` at a time; a ledger dies in the middle of them, and a new one begins."""
    listened = rng.sample([(agent, name) for agent in AGENTS for name in NAMES], STREAMS)
    t.streams = [asyncio.create_task(t.listen(*one)) for one in listened]
    steps = plan(rng)
    left, victim = iter(enumerate(steps)), running.roles[rng.randrange(WORKERS)]

    async def runner() -> None:
        for n, step in left:
            if n == STEPS // 2:
                victim.process.send_signal(signal.SIGKILL)
                running.start_role("ledger")
            await t.do(step)

    await asyncio.gather(*(runner() for _ in range(AT_ONCE)))
    assert victim.process.wait(LIMIT_S) == -signal.SIGKILL


async def deploy_open(settings: Settings) -> None:
    """A release whose policy lets everybody into `shared:board`."""
    digest = await releases.publish(settings, files("principal"))
    keys = Keys(settings.home)
    try:
        await control_log.append(
            settings,
            keys,
            [
                ("release.published", {"digest": digest, "name": "open", "version": "1"}),
                ("release.deployed", {"digest": digest}),
            ],
            who="a test",
            why="a test",
        )
    finally:
        keys.close()


async def let_in(t: Town) -> None:
    """What nobody was told without a policy is told with one, in the tenant it was written in and in no other."""
    outside = {
        tenant: [a for a in AGENTS if a not in BOARD and tenant_of(a) == tenant][:2] for tenant in TENANTS
    }
    writer = {tenant: next(a for a in sorted(BOARD) if tenant_of(a) == tenant) for tenant in TENANTS}

    async def ask(agent: str, session: str, op: str, **more: object) -> tuple[int, dict[str, object]]:
        body = {
            "session_id": session,
            "tool": f"memory.{op}",
            "arguments": {"scope": "shared:board", "key": "open", **more},
        }
        return await t.call(agent, "POST", "/v1/intents", body, {owner(agent, session, "shared:board")})

    for tenant, name in writer.items():
        said = token(f"{tenant}/shared:board", name, 7)
        assert (await ask(name, "s3", "write", value=said))[0] == 200
        for agent in outside[tenant]:
            status, refused = await ask(agent, "s3", "read")
            assert status == 403, refused
    await deploy_open(t.settings)
    for tenant, name in writer.items():
        said = token(f"{tenant}/shared:board", name, 7)
        for agent in outside[tenant]:
            deadline = time.monotonic() + LIMIT_S
            for n in range(10_000):
                session = f"late-{n}"
                assert (await t.call(agent, "POST", "/v1/sessions", {"session_id": session}, set()))[0] == 201
                status, told = await ask(agent, session, "read")
                if status == 200:
                    break
                assert status == 403 and time.monotonic() < deadline, told
            result = told["result"]
            assert isinstance(result, dict) and result["value"] == said, told
            t.seen["let in"] += 1


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Settings:
    made = gates.new_settings(kafka, tmp_path, PARTITIONS)
    assert {partition_of(agent, PARTITIONS) for agent in AGENTS} == set(range(PARTITIONS))
    keys = Keys(made.home)
    registered = ("agents.registered", {"agents": ROWS})

    async def prepare() -> None:
        await gates.prepare(made, keys, files=files('principal in Role::"slack"'))
        control = [registered, *(key_of(agent, agent, "agent", "channel") for agent in AGENTS)]
        await control_log.append(made, keys, control, who="a test", why="a test")

    asyncio.run(prepare())
    keys.close()
    return made


@pytest.fixture
def running(settings: Settings) -> Iterator[Stack]:
    yield from start(settings)


def test_no_value_is_told_in_another_scope(settings: Settings, running: Stack) -> None:
    began = time.monotonic()
    seen: Counter[str] = Counter()

    async def everything() -> None:
        async with town(settings) as t:
            seen["open after s"] = round(time.monotonic() - began)
            await play(t, running, random.Random(SEED))
            seen["played after s"] = round(time.monotonic() - began)
            for stream in t.streams:
                stream.cancel()
            await asyncio.gather(*t.streams)
            await t.replies()
            assert t.leaks == [], f"{len(t.leaks)} leaks, seed {SEED}: {t.leaks[:5]}"
            await let_in(t)
            seen.update(t.seen)
            seen["ended after s"] = round(time.monotonic() - began)
            assert t.leaks == [], f"{len(t.leaks)} leaks, seed {SEED}: {t.leaks[:5]}"
        report = await verify(settings, clickhouse=False)
        assert report.ok, report.as_json()

    asyncio.run(everything())
    print(f"\nseed {SEED}: {json.dumps(dict(sorted(seen.items())), indent=1)}")
    # It looked at something: each door, each scope, values of other agents where a policy lets them through.
    assert seen["let in"] == 6 and seen["not permitted"] > 100 and seen["artifacts"] > 20
    assert seen["sdk answers"] > 80 and seen["http 200"] > 400 and seen["events"] > 100
    assert seen["asked again 200"] > 20 and seen["asked again 504"] > 20
    assert seen["replies"] > STEPS * 0.8 and seen["tokens"] > 500
    assert all(seen[f"of others {scope}"] > 15 for scope in (*SHARED, "cache")), seen
    lost = sum(
        count for name, count in seen.items() if name.startswith("http 5") or name == "sdk unavailable"
    )
    assert lost < STEPS * 0.02, seen
