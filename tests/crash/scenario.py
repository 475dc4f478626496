"""The traffic of one cell of the crash matrix: calls of four classes side by side, from sessions on every partition.

A session hands every round of calls to an agent on the next partition, so that each round needs a transfer that arrives;
and every call is counted by a budget of the team, which the partitions lease from its home by transfers.

Seven of ten calls of a class meet a tool that works. The others meet one that acts and drops the connection, acts after
the deadline, or acts and answers 500: what a crash leaves unknown is mixed with what a tool leaves unknown.
Never judges. Next: `judge.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sluicegate.schemas.kinds import REPEATABLE
from sluicegate.schemas.records import Intent, Message, Reply
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.control.operations import Row
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.settings import Settings

CLASSES = ("read_only", "idempotent", "queryable", "irreversible")
TIMEOUT_MS = 1_000
"""Of a call: a claim's lease runs out this long and 2 s after it."""
FAULTS = {
    "works": "ok",
    "drops": "acts_then_drops,times=1",
    "late": f"acts_late,wait_s={1.5 * TIMEOUT_MS / 1000},times=1",
    "breaks": "error_after_acting,times=1",
}
"""Kind of tool -> what its address tells the server. A second request of the same key finds it well."""
TURNS = ("drops", "works", "works", "late", "works", "works", "works", "breaks", "works", "works")
"""Which kind each call of a class meets, in turn: three of ten a faulty one."""
SESSIONS = 40
"""Each asks for one call of every class at a time."""
RELEASE = """name: crash-matrix
version: "1"
budgets:
  - {id: calls-of-a-team, scope: team, match: "*", unit: calls, cap: 1500}
"""
"""A team is of one cell, so the cap is for 800 calls and what is repeated: a lease of a twelfth is asked for thrice by each
partition, and its home is on one of them."""
POLICIES = """@id("all") permit (principal, action, resource);
@id("hand-on") permit (principal, action == Action::"handoff", resource);
"""
ANSWER_LIMIT_S = 150.0
"""An answer may take a session time-out, a few leases and a busy machine; nothing may stay without one."""
AGENTS_EACH = 2
"""Agents of one partition."""


@dataclass(frozen=True)
class Call:
    """One call that was asked for. `kind`: of its tool, from `FAULTS`."""

    agent_id: str
    intent_id: str
    tool_class: str
    kind: str


@dataclass
class Traffic:
    """What was asked for, and the first answers. `handed`: ids of the hand-offs."""

    calls: list[Call] = field(default_factory=list)
    handed: list[str] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)


def write_release(folder: Path) -> Path:
    """A tool for each class and kind, permitted to everybody."""
    (folder / "contracts").mkdir(parents=True)
    (folder / "policies").mkdir()
    (folder / "release.yaml").write_text(RELEASE)
    (folder / "policies" / "all.cedar").write_text(POLICIES)
    for tool_class in CLASSES:
        for kind, fault in FAULTS.items():
            name = tool_of(tool_class, kind)
            (folder / "contracts" / f"{name}.json").write_text(
                json.dumps(_contract(name, tool_class, fault), indent=1)
            )
    return folder


def tool_of(tool_class: str, kind: str) -> str:
    """A tool's name."""
    return f"crash.{tool_class}_{kind}"


def _contract(name: str, tool_class: str, fault: str) -> Row:
    honours = ",keyed" if tool_class == "idempotent" else ""
    address = f"${{TOOLS_URL}}/{fault}{honours}/{name}"
    executor: Row = {"kind": "http", "method": "POST", "url": address}
    if tool_class in REPEATABLE:
        executor["retries"] = 2
    if tool_class == "queryable":
        executor["lookup"] = {"url": "${TOOLS_URL}/effects/{key}", "result": "/effects"}
    return {
        "name": name,
        "description": "Acts, and journals that it did.",
        "inputSchema": {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        },
        "x-sluicegate": {
            "version": "1",
            "class": tool_class,
            "executor": executor,
            "timeout_ms": TIMEOUT_MS,
        },
    }


def agent_rows(partitions: int, teams: int) -> list[list[Row]]:
    """For each team the same number of agents for every partition, in the order of partitions."""
    return [_team(f"team-{number}", partitions) for number in range(teams)]


def _team(team: str, partitions: int) -> list[Row]:
    found: dict[int, list[str]] = {p: [] for p in range(partitions)}
    number = 0
    while any(len(names) < AGENTS_EACH for names in found.values()):
        name = f"{team}-agent-{number}"
        if len(names := found[partition_of(name, partitions)]) < AGENTS_EACH:
            names.append(name)
        number += 1
    return [
        {"agent_id": name, "tenant": "acme", "team": team, "roles": ["all"]}
        for names in found.values()
        for name in names
    ]


async def play(
    settings: Settings,
    agents: list[str],
    mark: str,
    per_class: int,
    traffic: Traffic,
    on_answer: Callable[[int], None],
) -> None:
    """`per_class` calls of every class, noted in `traffic`; `mark` makes their ids unique."""
    async with Fleet(settings, settings.partitions) as fleet:
        sessions = [
            _Session(fleet, agents[n % len(agents)], agents[(n + AGENTS_EACH) % len(agents)], f"{mark}-{n}", traffic, on_answer)
            for n in range(SESSIONS)
        ]  # fmt: skip
        await asyncio.gather(*(s.play(range(n, per_class, SESSIONS)) for n, s in enumerate(sessions)))


@dataclass
class _Session:
    """One session, of an agent that hands its work to another one."""

    fleet: Fleet
    agent: str
    other: str
    name: str
    traffic: Traffic
    on_answer: Callable[[int], None]

    async def play(self, numbers: range) -> None:
        """A round for each number."""
        if not numbers:
            return
        opened = Message(f"{self.name}:open", self.agent, self.name, "session.open", _now())
        if await self._ask("messages", opened, opened.message_id) is None:
            return
        for number in numbers:
            session = f"{self.name}:{number}"
            if await self._hand_on(session):
                await self._round(session, number)
            else:
                self.on_answer(len(CLASSES))

    async def _hand_on(self, session: str) -> bool:
        terms = json.dumps({"agent": self.other, "session": session, "max_calls": len(CLASSES)}).encode()
        intent = Intent(f"{session}:hand-on", self.agent, self.name, "handoff", "", terms, _now())
        self.traffic.handed.append(intent.intent_id)
        reply = await self._ask("intents", intent, intent.intent_id)
        return reply is not None and reply.status == "opened"

    async def _round(self, session: str, number: int) -> None:
        # The kinds take turns by round and class, so that they are not the same for all calls of one.
        kinds = [TURNS[(number + number // SESSIONS + 3 * at) % len(TURNS)] for at in range(len(CLASSES))]
        calls = [
            Call(self.other, f"{session}:{tool_class}", tool_class, kind)
            for tool_class, kind in zip(CLASSES, kinds, strict=True)
        ]
        self.traffic.calls += calls
        intents = [_intent(session, call, number) for call in calls]
        await asyncio.gather(*(self._call(intent) for intent in intents))
        # The same bytes again: what makes a ledger load bytes (step 2), and never a second call.
        await self._ask("intents", intents[0], intents[0].intent_id)

    async def _call(self, intent: Intent) -> None:
        await self._ask("intents", intent, intent.intent_id)
        self.on_answer(1)

    async def _ask(self, topic: str, record: Intent | Message, ident: str) -> Reply | None:
        reply = await self.fleet.ask(topic, record, ident, ANSWER_LIMIT_S)
        if reply is None:
            self.traffic.unanswered.append(ident)
        else:
            self.traffic.replies.setdefault(ident, reply)
        return reply


def _intent(session: str, call: Call, number: int) -> Intent:
    arguments = json.dumps({"n": number}).encode()
    return Intent(
        call.intent_id,
        call.agent_id,
        session,
        "tool_call",
        tool_of(call.tool_class, call.kind),
        arguments,
        _now(),
    )


def _now() -> int:
    return time.time_ns() // 1000
