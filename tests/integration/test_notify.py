"""The webhook on a real broker: told once a hold, again after a restart, later when it fails; the ledger never waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from sluicegate.executors.egress import Egress
from sluicegate.streams.watch import webhook as webhooks
from sluicegate.streams.watch.notify import Notifier
from sluicegate.streams.watch.webhook import Webhook, WebhookSettings

from tests.driver import PEOPLE
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, intent, now_us, until
from tests.unit.test_webhook import SECRET, Hook

DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("notify"))
    with gates.running(settings, control=[("people.registered", {"people": PEOPLE})]) as (loop, gate):
        for agent in gate.everywhere():
            loop.run(gate.open_session(agent))
        yield loop, gate


@asynccontextmanager
async def notifier(
    gate: Gate, hook: Hook, *, content: bool = False, ahead_us: int = 0
) -> AsyncIterator[Notifier]:
    """One process that tells, killed at the end of the block."""
    settings = WebhookSettings(hook.url, SECRET, content)
    one = Webhook(settings, Egress(hook.place), pause_s=0.001)
    made = Notifier(gate.settings, one, gate.keys.open if content else None, lambda: now_us() + ahead_us)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hold(gate: Gate, agent: str, value: str = "1") -> str:
    record = intent("desk.wire", {"value": value}, agent=agent)
    assert (await gate.ask(record)).status == "held"
    return record.intent_id


def ids(hook: Hook) -> list[str]:
    return [json.loads(body)["intent_id"] for _, body in hook.got]


def test_told_retried_given_up_and_told_again_after_a_restart(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared

    async def scenario() -> None:
        one, two = gate.everywhere()
        before = await hold(gate, one)  # nobody listened yet
        async with Hook(500, 500, 200) as hook:
            async with notifier(gate, hook) as made:
                await until(lambda: made.counters.told == 1, "the hold of before")
                assert ids(hook) == [before] * 3
                body = json.loads(hook.got[-1][1])
                assert (body["type"], body["tool"], body["quorum"]) == (
                    "ai.sluicegate.approval.requested", "desk.wire", 2
                )  # fmt: skip
                assert body["reviewers"] == ["desk", "treasury"] and body["policies"] == ["desk-wire"]
                assert "arguments" not in body and "why" not in body and body["agent_id"] == one
                headers, raw = hook.got[-1]
                at = int(headers["X-Sluicegate-Signature"].partition(",")[0].removeprefix("t="))
                assert headers["X-Sluicegate-Signature"] == webhooks.signature(SECRET, at, raw)
                assert headers["X-Sluicegate-Event"] == body["id"]
                second = await hold(gate, two)
                await until(lambda: made.counters.told == 2, "another partition's")
                assert ids(hook)[3:] == [second]
                await until(lambda: made.waiting == 0, "nothing waits")
            third = await hold(gate, one)  # while nobody listened
            async with notifier(gate, hook) as made:
                await until(lambda: third in ids(hook), "what came meanwhile")
        async with Hook(500) as broken, notifier(gate, broken) as made:
            lost = await hold(gate, one)
            await until(lambda: made.counters.given_up >= 1, "giving up")
            assert ids(broken).count(lost) == webhooks.ATTEMPTS
            reply = await gate.ask(intent("desk.read", {"value": "meanwhile"}))
            assert reply.status == "released"

    loop.run(scenario(), 120)


def test_killed_before_the_answer_it_tells_again(shared: tuple[Loop, Gate]) -> None:
    """The other side has it, and nobody knows: told twice rather than not at all."""
    loop, gate = shared

    async def scenario() -> None:
        [agent, *_] = gate.everywhere()
        stuck = Hook(200)
        answer, forever = stuck._answer, asyncio.Event()

        async def never(request: web.Request) -> web.Response:
            await answer(request)
            await forever.wait()
            return web.Response()

        stuck._answer = never  # type: ignore[method-assign]
        async with stuck, Hook(200) as well:
            async with notifier(gate, well) as made:
                first = await hold(gate, agent)
                await until(lambda: first in ids(well) and not made.waiting, "all that was before")
            async with notifier(gate, stuck):
                ident = await hold(gate, agent)
                await until(lambda: ident in ids(stuck), "the first telling")
            forever.set()
            async with notifier(gate, well):
                await until(lambda: ident in ids(well), "the second telling")
            [told] = [h for h, b in stuck.got if json.loads(b)["intent_id"] == ident]
            [again] = [h for h, b in well.got if json.loads(b)["intent_id"] == ident]
            assert told["X-Sluicegate-Event"] == again["X-Sluicegate-Event"]

    loop.run(scenario(), 120)


def test_content_is_told_where_it_is_asked_for_and_expired_holds_are_not(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared

    async def scenario() -> None:
        [agent, *_] = gate.everywhere()
        async with Hook(200) as hook:
            async with notifier(gate, hook, content=True) as made:
                ident = await hold(gate, agent, "for you")
                await until(lambda: ident in ids(hook), "the hold")
                body = json.loads(hook.got[-1][1])
                assert body["arguments"] == {"value": "for you"}
                assert body["why"] == "two people agree to this"
                await until(lambda: made.waiting == 0, "nothing waits")
            hook.got.clear()
            late = await hold(gate, agent)
            async with notifier(gate, hook, ahead_us=DAY_US) as made:
                await until(lambda: made.counters.expired >= 1, "the expired one")
                assert late not in ids(hook) and made.counters.told == 0

    loop.run(scenario(), 120)


def test_the_monitor_tells(shared: tuple[Loop, Gate], tmp_path: Path) -> None:
    """The role's own process, configured by its environment."""
    from sluicegate.streams.stack import Stack

    loop, gate = shared
    (tmp_path / "secret").write_bytes(SECRET)

    async def scenario() -> None:
        [agent, *_] = gate.everywhere()
        async with Hook(200) as hook:
            extra = {
                "SLUICEGATE_WEBHOOK_URL": hook.url, "SLUICEGATE_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
                "SLUICEGATE_EGRESS": hook.place,
            }  # fmt: skip
            stack = Stack(gate.settings, extra_env=extra)
            await asyncio.to_thread(stack.start_role, "monitor")
            try:
                await asyncio.to_thread(stack.wait_ready)
                ident = await hold(gate, agent)
                await until(lambda: ident in ids(hook), "the monitor to tell")
            finally:
                await asyncio.to_thread(stack.stop)

    loop.run(scenario(), 120)
