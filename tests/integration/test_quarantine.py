"""The kill switch on a real Kafka: what it stops, when, and what it leaves alone. Judged by the ledger's own times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import stack
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import quarantines
from typer.testing import CliRunner

from tests.driver import SESSION, Event, release_files
from tests.executor_fakes import dispatch
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, intent, until

BOUND_US = 5_000_000
"""No new permit and no new claim so long after the control event."""
LEASE_MS = 120_000
"""Of the tool whose call the commands find in flight: they read the ledger meanwhile, on a slow machine for many seconds."""


def files() -> dict[str, str]:
    found = release_files()
    contract = json.loads(found["contracts/desk.pay.json"])
    contract["x-sluicegate"]["timeout_ms"] = LEASE_MS
    return {**found, "contracts/desk.pay.json": json.dumps(contract)}


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("quarantine"))
    with gates.running(settings, files=files()) as pair:
        loop, gate = pair
        for agent in gate.everywhere():
            loop.run(gate.open_session(agent))
        yield pair


async def stop(gate: Gate, scope: str, value: str) -> int:
    """Quarantine; when, by the ledger's clock."""
    await quarantines.add(gate.settings, gate.keys, scope, value, "a test")
    return (await last_control(gate)).decided_at


def began_at(event: Event) -> int:
    """When a permit was decided, or a claim made: the ledger hears of that by a receipt, whenever it comes."""
    facts = event.facts
    return facts.started_at if isinstance(facts, r.ClaimFacts) else event.header.decided_at


async def last_control(gate: Gate) -> r.Header:
    from sluicegate.streams import kafka
    from sluicegate.streams.scan import places, scan, stretches

    consumer = await kafka.connect(kafka.consumer(gate.settings))
    try:
        [stretch] = await stretches(consumer, places(gate.settings.env, "control", [0]))
        found = [
            b async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end) for b in batch
        ]
    finally:
        await consumer.stop()
    return codec.decode_as(r.Header, codec.decode_as(r.Outcome, found[-1].value).header)


def test_no_new_permit_anywhere_within_the_bound(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared

    async def scenario() -> None:
        agents = gate.everywhere()
        stopping = asyncio.create_task(stop(gate, "tool", "desk.set"))
        refused: set[str] = set()
        asked: list[str] = []
        while refused != set(agents):  # on every partition, until each has said no
            for agent in agents:
                one = intent("desk.set", agent=agent)
                asked.append(one.intent_id)
                reply = await gate.ask(one)
                if reply.status == "refused" and reply.reason == "quarantined":
                    refused.add(agent)
                elif (
                    reply.reason != "control_stale"
                ):  # control was not heard of for so long: no permit either
                    assert agent not in refused, "once stopped, it stays stopped"
        stopped_at = await stopping
        late = [
            (e.header.status, began_at(e) - stopped_at)
            for _, e in gate.events
            if e.header.intent_id in asked and e.header.status in ("permitted", "dispatched", "claimed")
        ]
        assert all(after < BOUND_US for _, after in late), late
        await gate.good()  # another tool goes on
        await quarantines.lift(gate.settings, gate.keys, "tool", "desk.set", "over")
        head = (await last_control(gate)).seq
        await gate.service.control.wait_for(head)
        for agent in agents:
            assert (await gate.ask(intent("desk.set", agent=agent))).status == "released"
        await gate.intact()

    loop.run(scenario())


def test_what_a_ledger_offered_before_it_knew_is_not_called(shared: tuple[Loop, Gate]) -> None:
    """Dispatches of a ledger that was behind: written after the quarantine, read by executors that know of it."""
    loop, gate = shared

    async def scenario() -> None:
        agent = gate.everywhere()[0]
        await stop(gate, "session", "session-x")
        await gate.service.control.wait_for((await last_control(gate)).seq)
        found = [dispatch(n, agent=agent, tool_class=c, executor=b'{"kind":"http"}') for n, c in enumerate(("read_only", "irreversible"))]  # fmt: skip
        for one in found:
            one.session_id = "session-x"
            await gate.put("dispatches", codec.encode(one), agent=agent)
        # A good call behind them on the same partition: when it is done, they were looked at.
        assert (await gate.ask(intent("desk.pay", agent=agent))).status == "released"
        for one in found:
            assert gate.adapter.called[one.idempotency_key] == 0
        receipts = [e for _, e in gate.events if e.header.intent_id == found[1].intent_id]
        assert receipts == [], "the claimed class was not even claimed"
        await quarantines.lift(gate.settings, gate.keys, "session", "session-x", "over")
        told = {
            (scope, value): (await quarantines.add(gate.settings, gate.keys, scope, value, "", dry_run=True)).unknown
            for scope, value in (("tool", "desk.set"), ("tool", "desk.st"), ("session", "session-x"), ("agent", agent))
        }  # fmt: skip
        assert told["tool", "desk.set"] == told["agent", agent] == ""
        assert "did you mean `desk.set`" in told["tool", "desk.st"]
        assert "no open session `session-x`" in told["session", "session-x"]

    loop.run(scenario())


def test_the_commands(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, gate = shared
    for name, value in {**stack.environment_of(gate.settings), "SLUICEGATE_PARTITIONS": "2"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["quarantine", *arguments])
        if isinstance(done.exception, Exception):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    async def held_up(gate: Gate) -> str:
        started = asyncio.Event()

        async def behave(_: r.Dispatch) -> gates.Answer:
            started.set()
            await going_on.wait()
            return gates.Finished(gates.RESULT)

        before, gate.adapter._behave = gate.adapter._behave, behave
        one = intent("desk.pay", agent=gate.everywhere()[0])
        asking = asyncio.create_task(gate.ask(one))
        await started.wait()
        await until(lambda: "claimed" in gate.life(one.intent_id), "the claim")
        gate.adapter._behave = before
        tasks.append(asking)
        return one.intent_id

    tasks: list[asyncio.Task[r.Reply]] = []
    going_on = loop.run(_event())
    ident = loop.run(held_up(gate))
    head = loop.run(_head(gate))
    [row] = json.loads(run("add", "tool", "desk.pay", "--dry-run", "-o", "json"))
    assert (row["intent_id"], row["state"]) == (ident, "claimed")
    assert loop.run(_head(gate)) == head, "a dry run changes nothing"
    assert "1 call(s) in flight" in run("add", "tool", "desk.pay", "--why", "a test")
    [row] = json.loads(run("list", "-o", "json"))
    assert row == {"scope": "tool", "id": "desk.pay", "why": "a test", "in_flight": 1}
    [row] = json.loads(run("list", "--calls", "-o", "json"))
    assert row["session_id"] == SESSION
    loop.run(_set(going_on))
    assert loop.run(_of(tasks[0])).status == "released", "what was begun is not cut"
    for wrong in (["add", "planet", "earth"], ["add", "tool", ""], ["lift", "tool", "x"]):
        with pytest.raises(Terminal):
            run(*wrong)
    run("lift", "tool", "desk.pay")
    assert json.loads(run("list", "-o", "json")) == []


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _of(task: asyncio.Task[r.Reply]) -> r.Reply:
    return await task


async def _head(gate: Gate) -> int:
    return (await control_log.read(gate.settings)).control.head
