"""The budget proof: 10,000 calls at once of 50 agents against one team budget, by 8 processes, while workers are killed.

Each call reserves 100 and costs 40 to 90 in truth, 5 % cost 130; the tool journals what it charged. Two of three ledger
workers are killed in the middle and started again. A person lifts the freeze that overruns lead to, once a second; who was
refused for it asks again. Then the ledger is verified, and the tool's journal is added up: overshoot = what was charged
above the cap. `BENCH_BUDGET_CALLS` makes it smaller.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import TopicPartition
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import partition_of
from sluicegate.streams import kafka
from sluicegate.streams.broker import EmbeddedBroker
from sluicegate.streams.control import budgets
from sluicegate.streams.fleet import Fleet
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.lanes.recovery import read_range
from sluicegate.streams.settings import Settings
from sluicegate.streams.verify.ledger import Report, verify

from bench import common
from bench.common import Result
from tests.crash.harness import World, world
from tests.servers.tool_server import ToolProcess

CALLS = int(os.environ.get("BENCH_BUDGET_CALLS", "10000"))
AGENTS, PROCESSES, KILLED = 50, 8, 2
BOUND, OVERRUN = 100, 130
ACCOUNT = "team:desk/purse"
ASK_AGAIN = 60
"""How often a client asks again that was refused for a freeze, a second apart: then it gives up."""
ANSWER_LIMIT_S = float(os.environ.get("BENCH_BUDGET_WAIT", "280"))
LIFT_EVERY_S = 1.0


def cap_of(calls: int) -> int:
    """About two thirds of the calls fit."""
    return calls * 44


def cost_of(number: int) -> int:
    """What a call costs in truth."""
    return OVERRUN if number % 20 == 7 else 40 + number * 7 % 51


def write_release(folder: Path, calls: int) -> Path:
    """One tool that costs something, and one team's budget; 2 % are kept back for overruns."""
    (folder / "contracts").mkdir(parents=True)
    (folder / "policies").mkdir()
    cap = cap_of(calls)
    (folder / "release.yaml").write_text(
        'name: budget-proof\nversion: "1"\nbudgets:\n'
        f"  - {{id: purse, scope: team, match: desk, unit: money, cap: {cap}, headroom: {cap // 50}}}\n"
    )
    (folder / "policies" / "all.cedar").write_text('@id("all") permit (principal, action, resource);\n')
    number = {"type": "integer"}
    contract = {
        "name": "budget.spend",
        "description": "Charges something.",
        "inputSchema": {
            "type": "object", "properties": {"n": number, "cost": number}, "required": ["n", "cost"],
        },
        "x-sluicegate": {
            "class": "idempotent", "timeout_ms": 10_000, "max_cost": BOUND, "cost": "$.did.cost",
            "executor": {"kind": "http", "method": "POST", "url": "${TOOLS_URL}/ok,keyed/spend"},
        },
    }  # fmt: skip
    (folder / "contracts" / "budget.spend.json").write_text(json.dumps(contract))
    return folder


def agent_rows(count: int = AGENTS) -> list[dict[str, object]]:
    """The team."""
    return [
        {"agent_id": f"budget-agent-{n}", "tenant": "acme", "team": "desk", "roles": ["all"]}
        for n in range(count)
    ]


# -- one client process ---------------------------------------------------------------------------------------------


async def client(settings: Settings, index: int, processes: int, calls: int, agents: int) -> Counter[str]:
    """Its share of the calls, all at once."""
    told: Counter[str] = Counter()
    mine = [f"budget-agent-{n}" for n in range(agents) if n % processes == index]
    async with Fleet(settings, settings.partitions) as fleet:
        for agent in mine:
            opened = r.Message(f"{agent}-open", agent, f"{agent}-s", "session.open", _now())
            if await fleet.ask("messages", opened, opened.message_id, ANSWER_LIMIT_S) is None:
                told["no session"] += 1

        async def one(number: int) -> None:
            agent = mine[number % len(mine)]
            arguments = json.dumps({"n": number, "cost": cost_of(number)}).encode()
            for again in range(ASK_AGAIN):
                ident = f"call-{index}-{number}-{again}"
                intent = r.Intent(ident, agent, f"{agent}-s", "tool_call", "budget.spend", arguments, _now())
                reply = await fleet.ask("intents", intent, ident, ANSWER_LIMIT_S)
                if reply is None:
                    told["unanswered"] += 1
                    return
                if reply.reason not in ("budget_frozen", "grant_timeout"):
                    told[f"{reply.status} {reply.reason}".strip()] += 1
                    return
                await asyncio.sleep(LIFT_EVERY_S)
            told["gave up, frozen"] += 1

        await asyncio.gather(*(one(n) for n in range(index, calls, processes)))
    return told


def _now() -> int:
    return time.time_ns() // 1000


# -- the proof ------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What came of a run. Amounts in micro-units."""

    cap: int
    told: Counter[str] = field(default_factory=Counter)
    charged: int = 0
    row: budgets.Row | None = None
    report: Report | None = None
    granted_most: int = 0
    waits_ms: list[float] = field(default_factory=list)
    overruns: int = 0
    lifted: int = 0
    seconds: float = 0.0

    @property
    def overshoot(self) -> int:
        """What was charged above the cap."""
        return max(0, self.charged - self.cap)


def run(
    running: World, calls: int, *, processes: int = PROCESSES, agents: int = AGENTS, kill: int = KILLED
) -> Found:
    """Play it against a running world whose release is `write_release`'s."""
    found, settings = Found(cap_of(calls)), running.settings
    started, over = time.monotonic(), threading.Event()
    lifter = threading.Thread(target=_lift, args=(settings, over, found))
    lifter.start()
    command = [sys.executable, "-m", "bench.budget", "client"]
    about = {
        "env": settings.env,
        "kafka": settings.kafka,
        "home": str(settings.home),
        "partitions": settings.partitions,
    }
    clients = [
        subprocess.Popen(
            [*command, json.dumps({**about, "index": n, "processes": processes, "calls": calls, "agents": agents})],
            stdout=subprocess.PIPE,
        )
        for n in range(processes)
    ]  # fmt: skip
    try:
        for _ in range(kill):
            _wait_for_spending(running, calls // 10 * (1 + _))
            victim = next(x for x in running.running.roles if x.name == "ledger" and x.process.poll() is None)
            victim.process.send_signal(signal.SIGKILL)
            victim.process.wait()
            running.running.start_role("ledger")
        for one in clients:
            out, _err = one.communicate(timeout=600)
            found.told.update(json.loads(out))
    finally:
        for one in clients:
            one.kill()
        over.set()
        lifter.join()
    found.seconds = time.monotonic() - started
    asyncio.run(_judge(running, found))
    return found


def _journal(running: World) -> dict[str, int]:
    with urllib.request.urlopen(f"{running.tools.url}/journal", timeout=30) as answer:
        effects: dict[str, int] = json.load(answer)["effects"]
    return effects


def _wait_for_spending(running: World, effects: int, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while len(_journal(running)) < effects and time.monotonic() < deadline:
        time.sleep(0.1)


def _lift(settings: Settings, over: threading.Event, found: Found) -> None:
    """A person who lifts the freeze, again and again."""
    keys = Keys(settings.home)
    while not over.wait(LIFT_EVERY_S):
        try:
            asyncio.run(budgets.lift(settings, keys, ACCOUNT, "a bench"))
            found.lifted += 1
        except SluicegateError as error:  # a person would try again, too
            print(f"not lifted: {error}", file=sys.stderr)
    keys.close()


async def _judge(running: World, found: Found) -> None:
    settings, effects = running.settings, _journal(running)
    [found.row] = [row for row in await budgets.look(settings) if row.account == ACCOUNT]
    found.report = await verify(settings, clickhouse=False)
    reader = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=20))
    known: set[str] = set()
    try:
        for partition in range(settings.partitions):
            place = TopicPartition(f"{settings.env}.dispatches", partition)
            async for batch in read_range(reader, place, 0):
                for record in batch:
                    dispatch = codec.decode_as(r.Dispatch, record.value)
                    if dispatch.idempotency_key not in known:
                        known.add(dispatch.idempotency_key)
                        cost = int(json.loads(dispatch.arguments)["cost"])
                        found.charged += cost * effects.get(dispatch.idempotency_key, 0)
            await _grants(reader, TopicPartition(f"{settings.env}.outcomes", partition), found)
    finally:
        await reader.stop()
    assert known >= effects.keys(), "something ran without a permit"


async def _grants(reader: object, place: TopicPartition, found: Found) -> None:
    """How long calls waited for a grant, and how large grants were."""
    since: dict[str, int] = {}
    leases: Counter[int] = Counter()
    async for batch in read_range(reader, place, 0):  # type: ignore[arg-type]
        for record in batch:
            parts = reading.split(record.value)
            head = reading.head(parts.header)
            if head.status == "waiting" or (head.status == "dispatched" and since):
                rest = reading.rest(head.rest)
                at = rest.decided_at
                if head.status == "waiting":
                    since[rest.intent_id] = at
                elif rest.intent_id in since:
                    found.waits_ms.append((at - since.pop(rest.intent_id)) / 1000)
            elif head.stage == "budget" and head.reason == "overrun":
                found.overruns += 1
            elif head.stage == "transfer":
                facts = codec.decode(parts.facts)
                assert isinstance(facts, r.ExchangeFacts)
                if facts.kind == "budget.request" and facts.home == ACCOUNT:
                    granted = dict(zip(facts.names, facts.amounts, strict=True)).get("granted", 0)
                    more = granted - leases[facts.from_partition]
                    leases[facts.from_partition] = max(granted, leases[facts.from_partition])
                    found.granted_most = max(found.granted_most, more)


def main() -> None:
    """Run and write the results; ends with 1 when the cap did not hold."""
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home) / "kafka") as broker:
        release = write_release(Path(home) / "release", CALLS)
        roles = {"ledger": 3, "executor": 2}
        rows = agent_rows()
        with world(
            broker.bootstrap, "", Path(home) / "state", release, roles, tools=ToolProcess(), agents=rows
        ) as running:
            found = run(running, CALLS)
            partitions = running.settings.partitions
    assert found.row is not None and found.report is not None
    at = [partition_of(str(row["agent_id"]), partitions) for row in rows]
    conditions = (
        f"{CALLS:,} calls at once of {AGENTS} agents on {len(set(at))} partitions by {PROCESSES} processes, 3 ledger workers of "
        f"which {KILLED} were killed, {found.overruns} overruns lifted by a person, {found.seconds:.0f} s, {common.machine()}"
    )
    print(f"told: {dict(found.told)}\n{found.row}\nledger verify: {found.report.verdict}")
    waits = found.waits_ms or [0.0]
    common.write(
        "budget",
        [
            Result("budget.overshoot", found.overshoot, "micro-units", conditions),
            Result("budget.charged", found.charged, "micro-units", conditions, "the cap", found.charged / found.cap),
            Result("budget.spent", found.row.spent + found.row.overran, "micro-units", conditions, "the cap",
                   (found.row.spent + found.row.overran) / found.cap),
            Result("budget.largest_grant", found.granted_most, "micro-units", conditions, "cap / (4 x partitions)",
                   found.granted_most / (found.cap / (4 * partitions))),
            Result("budget.grant_wait_p50", common.quantile(waits, 0.5), "ms", f"{len(waits)} waits; {conditions}"),
            Result("budget.grant_wait_p95", common.quantile(waits, 0.95), "ms", f"{len(waits)} waits; {conditions}"),
        ],
    )  # fmt: skip
    if found.overshoot or not found.report.ok:
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        told = json.loads(sys.argv[2])
        mine = Settings(
            env=told["env"], kafka=told["kafka"], home=Path(told["home"]), partitions=told["partitions"]
        )
        print(
            json.dumps(
                asyncio.run(client(mine, told["index"], told["processes"], told["calls"], told["agents"]))
            )
        )
    else:
        main()
