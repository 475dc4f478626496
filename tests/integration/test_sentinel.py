"""A fault on a real Kafka and ClickHouse: alarm, action, every worker decides accordingly; then the commands.

One story, told in order: two workers, a good release, a bad one that is rolled back by itself, a broken tool that is quarantined
by itself, the bound that is reached, people who look, acknowledge and ask what other rules would have done.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sluicegate.executors.adapter import Answer, Failed, Finished
from sluicegate.executors.egress import Egress
from sluicegate.schemas.records import Dispatch, Reply
from sluicegate.streams.cli import app
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control import releases
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.roles import ProjectorRole
from sluicegate.streams.watch.alarm_notify import AlarmNotifier
from sluicegate.streams.watch.channels import WebhookChannel
from sluicegate.streams.watch.sentinel_service import SentinelService
from sluicegate.streams.watch.webhook import Webhook, WebhookSettings
from typer.testing import CliRunner

from tests.driver import PEOPLE, release_files
from tests.integration import gate as gates
from tests.integration.gate import RESULT, Command, Gate, Loop, intent, until
from tests.unit.test_webhook import SECRET, Hook

RULES = """
drift:
  bucket_s: 1
  reference: 100
  blind_after_s: 60
  alarms:
    - {id: misuse, stream: refused, per: release, action: rollback}
    - {id: broken, stream: failed, per: tool, tools: [desk.set], action: quarantine, expected: 0.02}
"""
STEPS_MAX = 60
"""Rounds of 20 calls until the sentinel must have acted."""


def files(edition: str) -> dict[str, str]:
    found = dict(release_files(edition=edition))
    found["release.yaml"] += RULES
    return found


@pytest.fixture(scope="module")
def shared(
    kafka: str, clickhouse: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Loop, Gate]]:
    settings = replace(gates.new_settings(kafka, tmp_path_factory.mktemp("sentinel")), clickhouse=clickhouse)
    people = [("people.registered", {"people": PEOPLE})]
    with gates.running(settings, files=files("good"), control=people) as pair:
        loop, gate = pair
        for agent in gate.everywhere():  # both partitions have begun before a second worker takes one
            loop.run(gate.open_session(agent))
        yield pair


@pytest.fixture
def command(shared: tuple[Loop, Gate], monkeypatch: pytest.MonkeyPatch) -> Command:
    return gates.commands(shared[1], monkeypatch)


class World:
    """What runs beside the gate: a second worker, the projector, the sentinel, and a webhook."""

    def __init__(self, gate: Gate, hook: Hook) -> None:
        self.gate, self.hook = gate, hook
        self.service = SentinelService(gate.settings)
        self.told: list[dict[str, object]] = []

    async def calls(
        self, count: int, tool: str, value: str, every: int = 1, other: str = "good"
    ) -> list[Reply]:
        """Calls of both partitions' agents at once; each `every`th says `value`, the others `other`."""
        agents = self.gate.everywhere()
        records = [
            intent(tool, {"value": value if n % every == 0 else other}, agent=agents[n % len(agents)])
            for n in range(count)
        ]
        return list(await asyncio.gather(*(self.gate.ask(record) for record in records)))

    async def until_acted(self, what: Callable[[], object], step: Callable[[], object]) -> None:
        """Traffic and looks in turn, until something is so."""
        for _ in range(STEPS_MAX):
            await step()  # type: ignore[misc]
            await self.service.look()
            await self.known()
            if what():
                return
        sentinel = self.service.sentinel
        assert sentinel is not None and sentinel.feed is not None
        raise AssertionError((sentinel.blind, sentinel.feed.watch.runs, sentinel.metrics()))

    async def known(self) -> None:
        """This gate's worker has read all of control."""
        head = (await control_log.read(self.gate.settings)).control.head
        await self.gate.service.control.wait_for(head)

    @property
    def control(self):  # type: ignore[no-untyped-def]
        return self.gate.service.control.control


@asynccontextmanager
async def world(gate: Gate) -> AsyncIterator[World]:
    projector = ProjectorRole(gate.settings)
    second = LedgerService(gate.settings, gate.keys)
    async with Hook(204) as hook:
        made = World(gate, hook)
        channel = WebhookChannel(
            Webhook(WebhookSettings(hook.url, SECRET), Egress(hook.place), pause_s=0.001)
        )
        notifier = AlarmNotifier(gate.settings, [channel])
        telling = asyncio.create_task(notifier.run())
        await projector.start()
        await second.start()
        await until(lambda: len(second.lanes) == len(gate.service.lanes) == 1, "a partition each")
        try:
            yield made
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await made.service.stop()
            await second.stop()
            await projector.stop()


def test_a_fault_is_seen_and_undone_by_itself(shared: tuple[Loop, Gate], command: Command) -> None:
    loop, gate = shared
    loop.run(story(gate), 300.0)
    report(command)


async def story(gate: Gate) -> None:
    async with world(gate) as here:
        await here.known()
        good = here.control.deployed
        await here.calls(160, "desk.read", "good")
        bad = await releases.publish(gate.settings, files("bad"))
        about = {"digest": bad, "name": "bad", "version": "2"}
        events = [("release.published", about), ("release.deployed", {"digest": bad, "now": True})]
        await control_log.append(gate.settings, gate.keys, events, who="olga", why="better, we hope")  # type: ignore[arg-type]
        await here.known()
        assert here.control.deployed == bad

        # Under the bad release two of five calls misuse an argument.
        await here.until_acted(
            lambda: here.control.deployed == good, lambda: here.calls(20, "desk.pay", "no", 2, "fine")
        )
        [alarm] = [a for a in here.control.alarms.values() if a.rule == "misuse"]
        assert (alarm.action, alarm.release, alarm.acted) == ("rollback", bad, alarm.raised + 1)
        replies = await here.calls(4, "desk.read", "after")
        assert {r.status for r in replies} == {"released"}
        seen = {r.intent_id for r in replies}
        under = {(p, e.header.release) for p, e in gate.events if e.header.intent_id in seen}
        assert under == {(0, good), (1, good)}  # both workers

        # The tool breaks.
        async def broken(dispatch: Dispatch) -> Answer:
            return Failed("tool_error", "it is broken") if dispatch.tool == "desk.set" else Finished(RESULT)

        gate.adapter._behave = broken
        stopped = ("tool", "desk.set")
        await here.until_acted(
            lambda: stopped in here.control.quarantines, lambda: here.calls(10, "desk.set", "x")
        )
        replies = await here.calls(4, "desk.set", "x")
        assert {(r.status, r.reason) for r in replies} == {("refused", "quarantined")}
        raised = [a for a in here.control.alarms.values() if a.acted >= 0]
        assert [a.rule for a in sorted(raised, key=lambda a: a.raised)] == ["misuse", "broken"]

        # A person stops all of it: the next alarm tells only, and says why.
        await control_log.append(
            gate.settings, gate.keys, [("alarms.bounded", {"unacknowledged": 0})], who="olga", why="enough"
        )
        bodies = [json.loads(body) for _, body in here.hook.got]
        await until(lambda: len(here.hook.got) >= 2, "both alarms told")
        bodies = [json.loads(body) for _, body in here.hook.got]
        assert {b["rule"] for b in bodies} >= {"misuse", "broken"}
        assert all(b["type"] == "ai.sluicegate.alarm.raised" for b in bodies)
        await gate.intact()


def report(command: Command) -> None:
    """What people do about it."""
    listed = json.loads(command("alarms", "list", "-o", "json"))
    by_rule = {row["stream"].split()[0]: row for row in listed}
    assert {"misuse", "broken"} <= by_rule.keys()
    misuse = by_rule["misuse"]["id"]
    shown = json.loads(command("alarms", "show", misuse, "-o", "json"))
    assert (shown["computed_again"], shown["differences"]) == ("the same", [])
    assert shown["evidence"]["log_e"] >= shown["evidence"]["threshold"]
    assert "executions fail" in command("alarms", "show", by_rule["broken"]["id"])
    assert f"alarm {misuse}" in command("status")
    assert "would be acknowledged" in command("alarms", "ack", misuse, "--dry-run")
    command("alarms", "ack", misuse, "--why", "it refunds twice")
    assert "was acknowledged by" in command("alarms", "ack", misuse, code=1)
    assert misuse not in command("alarms", "list")
    assert misuse in command("alarms", "list", "--all")
    assert command("alarms", "bounds") == "unacknowledged 0, per day 10"
    assert "is no alarm" in command("alarms", "show", "ffff", code=1)

    agent = gates.AGENT
    command("review", "begin", agent, "--why", "odd")
    assert agent in command("review", "list")
    assert "under review already" in command("review", "begin", agent, code=1)
    command("review", "end", agent)
    assert "not under review" in command("review", "end", agent, code=1)


def test_what_other_rules_would_have_done(
    shared: tuple[Loop, Gate], command: Command, tmp_path: Path
) -> None:
    loop, gate = shared
    control = loop.run(control_log.read(gate.settings, keep_history=True))
    assert control.history is not None
    bad = next(c for c in control.history if c.published.get(c.deployed) == "bad 2")
    start = datetime.fromtimestamp(control.history[0].at / 1e6, UTC).isoformat()
    incident = datetime.fromtimestamp(bad.at / 1e6, UTC).isoformat()
    rules = tmp_path / "candidate.yaml"
    rules.write_text(RULES, "utf-8")
    words = (
        "alarms",
        "backtest",
        "--rules",
        str(rules),
        "--from",
        start,
        "--incident",
        incident,
        "-o",
        "json",
    )
    found = json.loads(command(*words))
    rules_fired = {row["stream"].split()[0]: row for row in found["alarms"]}
    assert {"misuse", "broken"} <= rules_fired.keys()
    assert (rules_fired["misuse"]["action"], rules_fired["misuse"]["verdict"]) == ("rollback", "hit")
    [labelled] = found["incidents"]
    assert 0 < labelled["late_s"] < 300  # what the whole story may take
    assert (found["false"], found["missing_outcomes"]) == (0, 0)
    rules.write_text(RULES.replace("per: release", "per: release, at_least: 0.9").replace("expected: 0.02", "expected: 0.999"), "utf-8")  # fmt: skip
    deaf = json.loads(command(*words, code=1))
    assert deaf["incidents"][0]["late_s"] is None
    outside = CliRunner().invoke(app, [*words, "--incident", "2020-01-01T00:00:00"])
    assert "is not between" in str(outside.exception)
