"""Class `queryable` on a real Kafka: a call whose answer nobody heard has one effect for its key, whether it arrived or not."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from sluicegate.executors.adapter import Answer, Finished
from sluicegate.schemas.records import Dispatch
from sluicegate.streams import control_log, releases

from tests.driver import release_files
from tests.executor_fakes import FakeAdapter
from tests.integration import gate as gates
from tests.integration.gate import Gate, Loop, intent
from tests.unit.test_lookup import PATH, contract

CALLS = 6
"""Half of them reach the tool, half do not; nobody hears of either."""


class Bank(FakeAdapter):
    """Journals effects by key. The first request of every key is never answered; even ones act before that."""

    def __init__(self) -> None:
        super().__init__(self._pay)
        self.journal: Counter[str] = Counter()
        self.numbers: dict[str, int] = {}

    async def _pay(self, dispatch: Dispatch) -> Answer:
        key = dispatch.idempotency_key
        number = int(json.loads(dispatch.arguments)["value"])
        if self.called[key] == 1:
            if number % 2 == 0:
                self.journal[key] += 1
            await asyncio.Event().wait()  # cut by the executor: the request was sent, and no answer came
        self.journal[key] += 1
        return Finished(b'{"paid":true}')

    async def look_up(self, dispatch: Dispatch, timeout_s: float) -> Answer | None:
        return Finished(b'{"paid":true}') if self.journal[dispatch.idempotency_key] else None


@pytest.fixture(scope="module")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Gate]]:
    settings = gates.new_settings(kafka, tmp_path_factory.mktemp("lookup"))
    with gates.running(settings) as pair:
        loop, gate = pair
        loop.run(_deploy(gate))
        for agent in gate.everywhere():
            loop.run(gate.open_session(agent))
        yield pair


async def _deploy(gate: Gate) -> None:
    digest = await releases.publish(gate.settings, {**release_files(), PATH: contract()})
    about = {"digest": digest, "name": "with a lookup", "version": "1"}
    events: list[tuple[str, dict[str, object]]] = [("release.published", about), ("release.deployed", {"digest": digest})]  # fmt: skip
    head = await control_log.append(gate.settings, gate.keys, events, who="a test", why="a test")
    await gate.service.control.wait_for(head)


def test_one_effect_for_every_key(shared: tuple[Loop, Gate]) -> None:
    loop, gate = shared
    bank = Bank()

    async def scenario() -> None:
        gate.adapter._behave, gate.adapter.look_up = bank._behave, bank.look_up  # type: ignore[attr-defined]
        bank.called = gate.adapter.called
        asked = [
            intent("desk.look", {"value": str(n)}, agent=agent)
            for agent in gate.everywhere()
            for n in range(CALLS)
        ]
        replies = await asyncio.gather(*(gate.ask(one) for one in asked))
        assert [(r.status, r.result) for r in replies] == [("released", b'{"paid":true}')] * len(asked)
        assert sorted(bank.journal.values()) == [1] * len(asked), bank.journal
        calls = Counter(bank.called.values())
        assert calls == {1: len(asked) // 2, 2: len(asked) // 2}, "what arrived was not called again"
        await gate.intact()

    loop.run(scenario())
