"""Deadlines at the ledger: which may be acted on before receipts were read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest
from sluicegate.processors.inputs import Input, Tick
from sluicegate.schemas import codec
from sluicegate.schemas.records import Receipt
from sluicegate.streams import ledger
from sluicegate.streams.lanes.service import LedgerService
from sluicegate.streams.ledger import Lane

from tests.driver import Driver

DAY_US = 86_400_000_000


class Service:
    """A partition whose `receipts` hold what the ledger has not read yet."""

    def __init__(self, driver: Driver, unread: list[Receipt]) -> None:
        self.settings = SimpleNamespace(env="t", space="t")
        self.sign_dispatch = self.sign_transfer = bytes
        self.control = SimpleNamespace(control=driver.control, stale=False)
        self.driver, self.unread = driver, unread
        self.log = SimpleNamespace()

    def clock(self) -> int:
        return self.driver.now

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Service]:
        yield self

    @property
    def _read(self) -> int:
        return self.driver.state.positions.get("receipts", 0)

    async def end_offsets(self, places: list[object]) -> dict[object, int]:
        return {place: self._read + len(self.unread) for place in places}

    async def position(self, place: object) -> int:
        return self._read

    async def poll(self, places: object, wait_ms: int, limit: int) -> dict[object, list[SimpleNamespace]]:
        place = next(p for p in places if p.topic.endswith(".receipts"))  # type: ignore[attr-defined]
        return {
            place: [
                SimpleNamespace(offset=self._read + n, value=codec.encode(r))
                for n, r in enumerate(self.unread)
            ]
        }


def driver_with_both() -> tuple[Driver, Receipt]:
    """A call that people hold, due first, and one that was offered; and the claim of that one."""
    d = Driver()
    d.open_session()
    assert d.call("desk.ask", {"value": "1000"}).outcomes[-1].status == "held"
    until = d.state.timers[0][0]
    d.now = until - 1_000_000
    [work] = d.call("desk.set").dispatches
    claim = Receipt(
        work.dispatch_id, work.intent_id, work.agent_id, work.session_id, "claimed", 1, "executor-1", d.now, 0
    )
    d.now = until + 60_000_000
    return d, claim


@pytest.mark.parametrize("unread", [True, False])
def test_a_held_call_that_is_due_first_brings_no_other_along(unread: bool) -> None:
    d, claim = driver_with_both()
    lane = Lane(0, cast(LedgerService, Service(d, [claim] if unread else [])))
    lane.state = d.state
    seen: list[str] = []

    async def steps() -> None:
        for source in await lane._fetch():
            assert isinstance(source, Tick)
            seen.extend(o.status for o in d._decide(source, d.control).outcomes)
        for source in await lane._fetch():
            seen.append(type(source).__name__ if isinstance(source, Input) else "offered again")
            break

    asyncio.run(steps())
    # With a claim on its way, that is read first; without one, the lease has run out.
    assert seen == ["expired", "Input" if unread else "offered again"]


def test_deadlines_that_are_acted_on_alone_let_inputs_through() -> None:
    _, claim = driver_with_both()
    d = Driver()
    d.open_session()
    for _ in range(ledger.BATCH_TICKS + 10):
        d.call("desk.ask", {"value": "1000"})
    d.now += 2 * DAY_US
    lane = Lane(0, cast(LedgerService, Service(d, [claim])))
    lane.state = d.state
    seen: list[str] = []

    async def steps() -> None:
        for _ in range(ledger.BATCH_TICKS):
            for source in await lane._fetch():
                seen.append(type(source).__name__)
                if isinstance(source, Tick):
                    d._decide(source, d.control)

    asyncio.run(steps())
    assert "Input" in seen
