"""The AgentDojo bench on the real stack: Kafka, ledger, and the python executor's processes running the tools.

One environment is started for the whole bench; each suite deploys its release into it. The environments of the episodes
stay in this process, behind a small HTTP server that only the tools know. Messages come from the channel, intents from
the agent, approvals from a registered person, each on its own topic.
Next: `agentdojo_tools.py` (what the executor runs), `agentdojo_gates.py` (the gates without a stack).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import orjson
import rfc8785
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.validate import action_digest
from sluicegate.schemas.records import Intent, Message, Reply, Review
from sluicegate.streams import demo, stack, topics
from sluicegate.streams.control import operations, releases
from sluicegate.streams.fleet import REPLY_LIMIT_S, Fleet
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

from bench.agentdojo_agent import Gate
from bench.agentdojo_gates import RELEASES, World
from bench.agentdojo_tools import WORLD
from bench.agentdojo_world import ToolFailed
from bench.partition import REVIEWER, Answer

T = TypeVar("T")
AGENTS = 4
"""Agents a suite, so that its sessions spread over partitions."""
AT_ONCE = 16
"""Sessions side by side."""
ROOT = Path(__file__).parent.parent


class WorldServer:
    """`World.run` over HTTP, for the executor's processes on this machine."""

    def __init__(self) -> None:
        self.world = World()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            """POST {session, tool, arguments} -> {result} or {error}."""

            def do_POST(self) -> None:
                """Run one tool."""
                call = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                try:
                    answer = {"result": outer.world.run(call["session"], call["tool"], call["arguments"])}
                except (ToolFailed, KeyError) as error:
                    answer = {"error": str(error)}
                body = orjson.dumps(answer)
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class StackGate:
    """One suite's release on the running stack."""

    def __init__(self, fleet: Fleet, suite: str) -> None:
        self._fleet, self._suite = fleet, suite
        release = compile_release(releases.read_folder(RELEASES / suite))
        self._tools, self._release = release.tools, release.digest
        self._agents = itertools.cycle(agents_of(suite))
        self._agent_of: dict[str, str] = {}
        self._ids = itertools.count()

    async def open(self, session: str, goal: str) -> None:
        """The channel opens it and reports the user's words."""
        self._agent_of[session] = next(self._agents)
        await self._message(session, "session.open", goal=goal, on_behalf_of="user")
        await self._message(session, "session.user_said", text=goal)

    async def close(self, session: str) -> None:
        """The channel closes it."""
        await self._message(session, "session.close")

    async def call(self, session: str, tool: str, arguments: dict[str, object]) -> Answer:
        """Publish the intent and wait for its end, or for its being held."""
        ident, agent, now = self._id(session), self._agent_of[session], _now()
        name = f"{self._suite}.{tool}"
        intent = Intent(ident, agent, session, "tool_call", name, orjson.dumps(arguments), now, now + int(REPLY_LIMIT_S * 1e6))  # fmt: skip
        reply = await self._fleet.ask("intents", intent, ident)
        return _fill(Answer(session, ident, name, arguments, ""), reply)

    async def approve(self, held: Answer) -> Answer:
        """Publish a person's review, and wait for the call's end."""
        tool, canonical = self._tools[held.tool], rfc8785.dumps(held.arguments)  # type: ignore[arg-type]
        digest = action_digest(tool.name, tool.version, canonical)
        agent = self._agent_of[held.session]
        review = Review(
            self._id(held.session),
            agent,
            held.intent_id,
            "approve",
            digest,
            REVIEWER,
            _now(),
            "bench",
            self._release,
        )
        return _fill(held, await self._fleet.ask("reviews", review, held.intent_id))  # type: ignore[arg-type]

    async def _message(self, session: str, kind: str, **more: str) -> None:
        ident = self._id(session)
        message = Message(ident, self._agent_of[session], session, kind, _now(), **more)
        reply = await self._fleet.ask("messages", message, ident)
        if reply is None or reply.status not in ("opened", "heard", "closed"):
            raise RuntimeError(f"`{kind}` was answered with {reply}")

    def _id(self, session: str) -> str:
        return f"{session}:{next(self._ids)}"


def _fill(answer: Answer, reply: Reply | None) -> Answer:
    if reply is None:
        answer.status, answer.reason = "unanswered", "unavailable"
        return answer
    answer.status, answer.reason, answer.detail = reply.status, reply.reason, reply.for_developer
    answer.policies = reply.policies or answer.policies
    answer.held = answer.held or reply.status == "held"
    answer.result = orjson.loads(reply.result) if reply.result is not None else None
    return answer


def agents_of(suite: str) -> list[str]:
    """The bench's agents of a suite."""
    return [f"agentdojo-{suite}-{n}" for n in range(AGENTS)]


Open = Callable[[World, str], AbstractAsyncContextManager[tuple[Gate, int]]]


def on_stack(work: Callable[[Open], T]) -> T:
    """Start everything, do the work, and stop everything."""
    server = WorldServer()
    env = {
        "SLUICEGATE_PYTHON_TOOLS": "bench.agentdojo_tools",
        WORLD: server.url,
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
    }
    with tempfile.TemporaryDirectory(prefix="sluicegate-agentdojo-") as home:
        settings = Settings.from_env({"SLUICEGATE_HOME": home, "SLUICEGATE_ENV": "bench"})
        running = stack.start(
            settings, roles=("ledger", "executor"), extra_env=env, say=lambda m: print(f"· {m}")
        )
        try:

            @asynccontextmanager
            async def opened(world: World, suite: str) -> AsyncIterator[tuple[Gate, int]]:
                server.world = world
                head = await _deploy(running.settings, suite)
                await asyncio.to_thread(demo.wait_for_head, running, head)
                async with Fleet(running.settings, await topics.partitions_of(running.settings)) as fleet:
                    yield StackGate(fleet, suite), AT_ONCE

            return work(opened)
        finally:
            running.stop()
            server.stop()


async def _deploy(settings: Settings, suite: str) -> int:
    """Register the suite's agents and the person who approves, and deploy its release; the control head."""
    keys = Keys(settings.home)
    why = f"bench: AgentDojo {suite}"
    try:
        rows: list[operations.Row] = [
            {"agent_id": a, "tenant": "bench", "team": suite, "roles": [suite]} for a in agents_of(suite)
        ]
        await operations.register_agents(settings, keys, rows, why)
        person: operations.Row = {"person_id": REVIEWER, "name": "the bench", "roles": ["reviewer"]}
        await operations.register_people(settings, keys, [person], why)
        _, head = await operations.deploy(settings, keys, RELEASES / suite, why)
        return head
    finally:
        keys.close()


def _now() -> int:
    return time.time_ns() // 1000
