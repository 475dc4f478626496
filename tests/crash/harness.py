"""Real processes to kill: the stack of `streams/stack.py` in an environment of its own, traffic, and what came of it.

    with world(bootstrap, clickhouse, home, release, {"ledger": 2}, each=1) as w:
        victim = w.add("ledger", "ledger.4.appended:8")
        ...traffic by `w.play` or `w.ask_all`...
        w.died(victim)
        w.judge()

A projector runs beside them: what is judged is Kafka's ledger, ClickHouse against it, and the tool server's journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from sluicegate.schemas import codec
from sluicegate.schemas.records import Dispatch, Intent, Message, Reply
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import demo, kafka, stack
from sluicegate.streams.control import operations
from sluicegate.streams.fleet import Fleet, Script
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.recovery import read_range
from sluicegate.streams.settings import Settings
from sluicegate.streams.stack import Role, Stack
from sluicegate.streams.verify.ledger import Report, verify

from tests.servers.tool_server import ToolProcess

PARTITIONS = 3
LIMIT_S = 90.0
POLL_S = 0.05
REPEATS = 3
"""Times an answered intent is sent again with the same bytes: what makes a ledger load bytes (step 2)."""


def until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait for a condition; fails, with its name, when it does not come true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
        time.sleep(POLL_S)


def small_release(folder: Path, timeout_ms: int) -> Path:
    """Three of the example's banking tools, one a class, permitted to everybody and with a short time limit."""
    source = demo.examples() / "release" / "contracts"
    (folder / "contracts").mkdir(parents=True)
    (folder / "policies").mkdir()
    (folder / "release.yaml").write_text('name: crash\nversion: "1"\n')
    for name in TOOLS.values():
        contract = json.loads((source / f"{name}.json").read_text())
        contract["x-sluicegate"]["timeout_ms"] = timeout_ms
        (folder / "contracts" / f"{name}.json").write_text(json.dumps(contract))
    (folder / "policies" / "all.cedar").write_text('@id("all")\npermit (principal, action, resource);\n')
    return folder


TOOLS = {
    "read_only": "banking.get_balance",
    "idempotent": "banking.update_user_info",
    "irreversible": "banking.send_money",
}
ARGUMENTS: dict[str, dict[str, object]] = {
    "read_only": {},
    "idempotent": {"street": "Dalton Street 123", "city": "New York, NY 10001"},
    "irreversible": {
        "recipient": "US133000000121212121212",
        "amount": 1.0,
        "subject": "iPhone 3GS",
        "date": "2022-03-07",
    },
}
"""Recorded calls, so that the tool server has an answer."""


@dataclass
class World:
    """A running environment.

    Attributes:
        sent: ids of every tool call sent, by whoever sent it.
        in_doubt: ids of calls that ended in doubt, as agents were told.
    """

    running: Stack
    tools: demo.ToolServer | ToolProcess
    agents: list[str]
    sent: set[str] = field(default_factory=set)
    replies: dict[str, Reply] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.running.settings

    # -- processes ----------------------------------------------------------------------------------------------

    def add(self, name: str, failpoint: str = "") -> Role:
        """Start one more worker of a role and wait until it shares the partitions."""
        members = 1 + sum(r.name == name and r.process.poll() is None for r in self.running.roles)
        role = self.running.start_role(name, {"SLUICEGATE_FAILPOINT": failpoint} if failpoint else None)
        self.wait_ready()
        self.wait_members(name, members)
        return role

    def wait_ready(self) -> None:
        for role in self.running.roles:
            if role.process.poll() is None:
                until(
                    lambda role=role: stack.healthy(role.announce) or role.process.poll() is not None,
                    f"{role.name} is ready",
                )

    def wait_members(self, name: str, count: int) -> None:
        """Until the role's group has exactly so many members, and is at rest."""
        env = self.settings.env
        group = f"{env}.projector" if name == "projector" else f"sluicegate.{env}.{name}"

        async def look() -> None:
            admin: AIOKafkaAdminClient = await kafka.connect(kafka.admin(self.settings))
            try:
                deadline = time.monotonic() + LIMIT_S
                while True:
                    [answer] = await admin.describe_consumer_groups([group])
                    _, _, state, _, _, members = answer.groups[0][:6]
                    if state == "Stable" and len(members) == count:
                        return
                    assert time.monotonic() < deadline, (
                        f"{group}: {state}, {len(members)} not {count} members"
                    )
                    await asyncio.sleep(POLL_S)
            finally:
                await admin.close()

        asyncio.run(look())

    def died(self, role: Role) -> None:
        """The worker was killed by its failpoint, and by nothing else."""
        until(lambda: role.process.poll() is not None, f"{role.name} died of its failpoint")
        assert role.process.returncode == -signal.SIGKILL, role.log.read_text()[-2_000:]

    def stopped(self, role: Role) -> None:
        """The worker stands still at its failpoint."""
        process = psutil.Process(role.process.pid)
        until(lambda: process.status() == psutil.STATUS_STOPPED, f"{role.name} stopped at its failpoint")

    # -- traffic ------------------------------------------------------------------------------------------------

    async def play(self, scripts: list[Script]) -> None:
        """Recorded sessions, and beside them agents who repeat themselves; nothing may stay without an answer."""
        async with Fleet(self.settings, PARTITIONS) as fleet:
            await asyncio.gather(
                fleet.play(scripts, lambda _: None), *(self._repeat(fleet, a) for a in self.agents)
            )
        unanswered = [r.tool for r in fleet.results if r.reply is None]
        assert not unanswered, f"{len(unanswered)} calls got no answer: {unanswered[:5]}"
        for result in fleet.results:
            assert result.reply is not None
            self._note(result.reply)
        assert len(fleet.results) == sum(not s.text for script in scripts for s in script.steps)

    async def _repeat(self, fleet: Fleet, agent: str) -> None:
        for _ in range(REPEATS):
            [(intent, first)] = await self._calls(fleet, agent, ["read_only"])
            again = await fleet.ask("intents", intent, intent.intent_id)
            assert again is not None, "a repeated intent got no answer"
            assert again.duplicate and (again.status, again.result) == (first.status, first.result)

    async def ask_all(self, classes: list[str]) -> dict[str, list[Reply]]:
        """Every agent asks at once for one call of each class named; replies by class. None may stay without one."""
        found: dict[str, list[Reply]] = {c: [] for c in classes}
        async with Fleet(self.settings, PARTITIONS) as fleet:
            for pairs in await asyncio.gather(*(self._calls(fleet, a, classes) for a in self.agents)):
                for name, (_, reply) in zip(classes, pairs, strict=True):
                    found[name].append(reply)
        return found

    async def _calls(self, fleet: Fleet, agent: str, classes: list[str]) -> list[tuple[Intent, Reply]]:
        session = uuid.uuid4().hex[:8]
        now = time.time_ns() // 1000
        opened = Message(session, agent, session, "session.open", now)
        assert await fleet.ask("messages", opened, session) is not None, "session.open got no answer"
        intents = [
            Intent(
                f"{session}:{n}",
                agent,
                session,
                "tool_call",
                TOOLS[c],
                json.dumps(ARGUMENTS[c]).encode(),
                now,
            )
            for n, c in enumerate(classes)
        ]
        replies = await asyncio.gather(*(fleet.ask("intents", i, i.intent_id) for i in intents))
        pairs: list[tuple[Intent, Reply]] = []
        for intent, reply in zip(intents, replies, strict=True):
            assert reply is not None, f"{intent.tool} got no answer"
            self._note(reply)
            pairs.append((intent, reply))
        return pairs

    def _note(self, reply: Reply) -> None:
        self.sent.add(f"{reply.agent_id}/{reply.intent_id}")
        self.replies[f"{reply.agent_id}/{reply.intent_id}"] = reply

    # -- judgement ----------------------------------------------------------------------------------------------

    def judge(self) -> Counter[str]:
        """The ledger is intact, every intent has one end, nothing irreversible ran twice. Returns calls by intent."""
        report = self.verified()
        told = Counter(reply.status for reply in self.replies.values())
        seen: Counter[str] = Counter()
        for part in report.partitions:
            counts = part.intents
            assert counts["in"] == counts["accounted"]
            seen["in"] += counts["in"]  # type: ignore[operator]
            for status in ("refused", "expired", "released", "withheld", "failed"):
                seen[status] += counts[status]  # type: ignore[operator]
            seen.update(counts["open"])  # type: ignore[arg-type]
        # What stands on the ledger is what agents were told, one end each, and nothing else is open.
        assert seen.pop("in") == len(self.sent)
        assert +seen == told
        return self._effects()

    def verified(self) -> Report:
        """`ledger verify` finds nothing, and ClickHouse has every row of the ledger once the sink has caught up."""
        reports: list[Report] = []

        def same() -> bool:
            reports[:] = [asyncio.run(verify(self.settings))]
            assert reports[0].ok, reports[0].as_json()
            return not reports[0].pending

        until(same, "ClickHouse has all of the ledger")
        [report] = reports
        assert report.verdict == "intact", report.verdict  # and not "not compared"
        verdicts = {part.clickhouse["verdict"] for part in (report.control, *report.partitions)}
        assert verdicts == {"same"}, report.as_json()
        return report

    def _effects(self) -> Counter[str]:
        with urllib.request.urlopen(f"{self.tools.url}/journal", timeout=5) as answer:
            journal: dict[str, int] = json.load(answer)
        calls: Counter[str] = Counter()
        known: set[str] = set()
        for dispatch in asyncio.run(self._dispatches()):
            ident, key = f"{dispatch.agent_id}/{dispatch.intent_id}", dispatch.idempotency_key
            calls[ident] = journal.get(key, 0)
            known.add(key)
            if dispatch.tool_class == "irreversible":
                assert calls[ident] <= 1, f"{dispatch.tool} ran {calls[ident]} times: {ident}"
            if self.replies[ident].status in ("released", "failed"):
                assert calls[ident] >= 1, f"{ident} has an end, and was never called"
        assert known >= journal.keys()  # nothing ran without a permit
        return calls

    async def _dispatches(self) -> list[Dispatch]:
        reader = await kafka.connect(kafka.consumer(self.settings, fetch_wait_ms=20))
        try:
            found: list[Dispatch] = []
            for index in range(PARTITIONS):
                place = TopicPartition(f"{self.settings.env}.dispatches", index)
                async for batch in read_range(reader, place, 0):
                    found += [codec.decode_as(Dispatch, r.value) for r in batch]
            return found
        finally:
            await reader.stop()


async def _deploy(settings: Settings, release: Path, rows: list[operations.Row] | None) -> None:
    keys = Keys(settings.home)
    try:
        rows = rows or operations.read_agents(demo.examples() / "release" / "agents.yaml")
        await operations.register_agents(settings, keys, rows, "a test")
        await operations.deploy(settings, keys, release, "a test")
    finally:
        keys.close()


def agents_by_partition(each: int) -> list[str]:
    """Registered banking agents, the same number on every partition."""
    rows = operations.read_agents(demo.examples() / "release" / "agents.yaml")
    chosen: dict[int, list[str]] = {p: [] for p in range(PARTITIONS)}
    for row in rows:
        name = str(row["agent_id"])
        if name.startswith("banking-"):
            chosen[partition_of(name, PARTITIONS)].append(name)
    found = [name for names in chosen.values() for name in names[:each]]
    assert len(found) == each * PARTITIONS, "the example registry has too few banking agents"
    return found


@contextlib.contextmanager
def world(
    bootstrap: str,
    clickhouse: str,
    home: Path,
    release: Path,
    workers: dict[str, int],
    each: int = 0,
    *,
    tools: demo.ToolServer | ToolProcess | None = None,
    agents: list[operations.Row] | None = None,
) -> Iterator[World]:
    """An environment with `workers` of each role, and a projector where there is a ClickHouse.

    Its agents are `agents`, or else `each` of the example's a partition. It ends the tool server it is given.
    """
    if clickhouse:
        workers = {**workers, "projector": 1}
    settings = Settings(
        env=f"crash-{uuid.uuid4().hex[:8]}",
        home=home,
        kafka=bootstrap,
        clickhouse=clickhouse or None,
        partitions=PARTITIONS,
    )
    tools = tools or demo.ToolServer(demo.examples())
    running = Stack(settings, extra_env=tools.env())
    try:
        asyncio.run(stack.prepare(settings))
        asyncio.run(_deploy(settings, release, agents))
        for name, count in workers.items():
            for _ in range(count):
                running.start_role(name)
        tools.wait_ready()
        named = [str(row["agent_id"]) for row in agents or ()]
        made = World(running, tools, named or agents_by_partition(each))
        made.wait_ready()
        for name, count in workers.items():
            made.wait_members(name, count)
        yield made
    finally:
        for role in running.roles:  # one that stands still would not hear SIGTERM
            if role.process.poll() is None:
                role.process.send_signal(signal.SIGCONT)
        running.stop()
        tools.stop()
