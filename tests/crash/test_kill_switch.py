"""The kill switch with three ledgers and three executors, one of each asleep when it is thrown."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sluicegate.processors.control.quarantine import REASON
from sluicegate.schemas.records import Header, Intent, Message, Reply
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import quarantines
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.inspect.find import decode
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.scan import places, scan, stretches
from sluicegate.streams.verify.ledger import verify

from tests.crash.harness import ARGUMENTS, PARTITIONS, TOOLS, World, small_release, world

BOUND_US = 5_000_000
"""No new permit and no new claim so long after the control event, by the ledger's own times."""
TOOL = TOOLS["irreversible"]
TIMEOUT_MS = 5_000
"""Of a call: a busy machine's tool server needs its time."""


@pytest.fixture(scope="module")
def running(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("kill-switch")
    release = small_release(home / "release", TIMEOUT_MS)
    with world(kafka, "", home, release, {"ledger": 3, "executor": 3}, each=2) as made:
        yield made


@dataclass
class Traffic:
    """Every agent asks for the stopped tool, again and again.

    Attributes:
        asked: intents that the quarantine is about.
        refused: agents that were told `quarantined`.
    """

    world: World
    fleet: Fleet
    sessions: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    async def open(self) -> None:
        """A session of every agent."""
        for agent in self.world.agents:
            name = self.sessions[agent] = f"s-{uuid.uuid4().hex[:8]}"
            opened = Message(name, agent, name, "session.open", time.time_ns() // 1000)
            assert await self.fleet.ask("messages", opened, name) is not None

    async def one(self, agent: str, tool: str = TOOL) -> Reply:
        """One call."""
        ident = uuid.uuid4().hex[:12]
        name = next(c for c, t in TOOLS.items() if t == tool)
        raw = json.dumps(ARGUMENTS[name]).encode()
        intent = Intent(ident, agent, self.sessions[agent], "tool_call", tool, raw, time.time_ns() // 1000)
        if tool == TOOL:
            self.asked.append(ident)
        reply = await self.fleet.ask("intents", intent, ident)
        assert reply is not None, f"{tool} of {agent} got no answer"
        if tool == TOOL and (reply.status, reply.reason) == ("refused", REASON):
            self.refused.add(agent)
        return reply

    async def until_refused(self, agent: str) -> None:
        """One call after the other, before, while and after it is thrown."""
        while agent not in self.refused:
            await self.one(agent)

    async def goes_through(self, agent: str) -> None:
        """Until a call is released: on a busy machine one may fail at its tool."""
        while (await self.one(agent)).status != "released":
            pass


async def ledger(world: World) -> list[Header]:
    """Every header on the ledger."""
    consumer = await kafka.connect(kafka.consumer(world.settings, fetch_wait_ms=20))
    try:
        found: list[Header] = []
        for stretch in await stretches(consumer, places(world.settings.env, "outcomes", range(PARTITIONS))):
            async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
                found += [decode(stretch.place.partition, b.offset, b.value).header for b in batch]
        return found
    finally:
        await consumer.stop()


async def thrown_at(world: World, head: int) -> int:
    """When a control event was recorded."""
    consumer = await kafka.connect(kafka.consumer(world.settings))
    try:
        [stretch] = await stretches(consumer, places(world.settings.env, "control", [0]))
        found = [
            b async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end) for b in batch
        ]
    finally:
        await consumer.stop()
    headers = [decode(0, b.offset, b.value).header for b in found]
    return next(h.decided_at for h in headers if h.seq == head)


def value_of(world: World, scope: str, traffic: Traffic, deployed: str) -> str:
    agent = world.agents[0]
    return {"tool": TOOL, "agent": agent, "session": traffic.sessions[agent], "release": deployed}[scope]


@pytest.mark.parametrize("scope", ["tool", "release", "agent", "session"])
def test_no_permit_and_no_claim_after_the_bound(running: World, scope: str) -> None:
    sleepers = [next(r for r in running.running.roles if r.name == name) for name in ("ledger", "executor")]

    async def scenario() -> None:
        keys = Keys(running.settings.home)
        async with Fleet(running.settings, PARTITIONS) as fleet:
            traffic = Traffic(running, fleet)
            await traffic.open()
            await asyncio.gather(*(traffic.goes_through(agent) for agent in running.agents))
            deployed = (await control_log.read(running.settings)).control.deployed
            value = value_of(running, scope, traffic, deployed)
            wide = scope in ("tool", "release")
            stopped = set(running.agents if wide else running.agents[:1])
            asking = [asyncio.create_task(traffic.until_refused(agent)) for agent in sorted(stopped)]
            for role in sleepers:
                role.process.send_signal(signal.SIGSTOP)  # some of what is asked waits for them
            head = (await quarantines.add(running.settings, keys, scope, value, "a test")).head
            at = await thrown_at(running, head)
            while time.time_ns() // 1000 < at + BOUND_US:
                await asyncio.sleep(0.05)
            for role in sleepers:
                role.process.send_signal(signal.SIGCONT)
            await asyncio.gather(*asking)
            assert {r.reason for r in await asyncio.gather(*map(traffic.one, sorted(stopped)))} == {REASON}
            last = {"permitted": 0, "claimed": 0}
            for h in await ledger(running):
                if h.intent_id in traffic.asked and h.agent_id in stopped and h.status in last:
                    last[h.status] = max(last[h.status], h.decided_at - at)
            print(f"{scope}: microseconds from the control event to the last permit and claim: {last}")
            assert max(last.values()) < BOUND_US
            others = [a for a in running.agents if a not in stopped]
            await asyncio.gather(*(traffic.goes_through(agent) for agent in others))
            assert not traffic.refused & set(others), "who is not stopped goes on"
            await quarantines.lift(running.settings, keys, scope, value, "a test")
            await traffic.goes_through(running.agents[0])
        keys.close()

    try:
        asyncio.run(scenario())
    finally:
        for role in sleepers:
            role.process.send_signal(signal.SIGCONT)
    running.wait_members("ledger", 3)
    running.wait_members("executor", 3)
    report = asyncio.run(verify(running.settings, clickhouse=False))
    assert report.ok, report.as_json()
