"""Orders to roll agents back, taken in by the owner of their partition: the values at the cut, from its own ledger.

    control `agent.rolled_back` ▸ fold up to the cut, beside the loop ▸ a tick with the values (`processors/agents/restore.py`)

While it reads, the partition goes on with everybody else; that agent is refused `rolling_back`. A worker that dies in
between has done nothing: the next owner sees that the order waits and reads again. It begins at the partition's snapshot
where that is older than the cut. Never decides and never writes. Next: `ledger.py` (who asks), `processors/agents/fold.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.agents.fold import AgentFold, Cuts
from sluicegate.processors.agents.orders import AgentOrder, waiting_orders
from sluicegate.processors.control.control import Control
from sluicegate.processors.state import PartitionState
from sluicegate.processors.verify.reading import split_two
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import full_name
from sluicegate.streams.lanes.recovery import load_snapshot, read_range

log = logging.getLogger("sluicegate.ledger")

AGAIN_S = 1.0
"""After a read that failed, and while the marker of the last transaction is not visible yet."""

Reader = Callable[[], AbstractAsyncContextManager[AIOKafkaConsumer]]


class Restoring:
    """The orders one partition has to take in."""

    def __init__(self, env: str, partition: int, reader: Reader) -> None:
        self._place = TopicPartition(full_name(env, "outcomes"), partition)
        self._env, self._reader = env, reader
        self._seen: Control | None = None
        self._orders: list[AgentOrder] = []
        self._task: asyncio.Task[None] | None = None
        self._values: dict[int, bytes] = {}

    def ready(self, state: PartitionState, control: Control, now: int) -> int | None:
        """The order that can be taken in now, or None. Begins to read for the first one that waits."""
        if control is not self._seen:
            self._seen = control
            self._orders = waiting_orders(state, control) if control.agent_orders else []
        if not self._orders:
            return None
        order = self._orders[0]
        if order.event in self._values or not _in_the_past(order, state, now):
            self._seen = None  # what follows is looked up anew, once this one was decided
            return order.event
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read(order, state.seq - 1), name=f"restore-{order.event}")
        return None

    def values(self, event: int) -> bytes | None:
        """The agent's values at the cut of an order."""
        return self._values.pop(event, None)

    async def close(self) -> None:
        """Stop reading."""
        self._seen, self._orders = None, []
        self._values.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _read(self, order: AgentOrder, end: int) -> None:
        """Fold the agent's records up to the cut; `end` is the last seq that stands."""
        try:
            async with self._reader() as consumer:
                self._values[order.event] = await self._at_cut(consumer, order, end)
        except (KafkaError, SluicegateError, OSError, TimeoutError) as error:
            log.warning(
                "partition %d could not read for order %d: %s", self._place.partition, order.event, error
            )
            await asyncio.sleep(AGAIN_S)

    async def _at_cut(self, consumer: AIOKafkaConsumer, order: AgentOrder, end: int) -> bytes:
        fold = AgentFold(self._place.partition, order.agent_id)
        cuts = Cuts([order], 0, 1)
        found = await load_snapshot(consumer, self._env, self._place)
        offset = 0
        if found is not None and not _passed_by(order, found[0]):
            fold.begin_at(found[0])
            offset = found[1]
        while fold.state.seq <= end:  # the last transaction's marker may not be visible yet
            async for batch in read_range(consumer, self._place, offset):
                for record in batch:
                    fold.add(*split_two(record.value), cuts)
                    if order.event in cuts.values:
                        return cuts.values[order.event]
                offset = batch[-1].offset + 1
                await asyncio.sleep(0)
        cuts.before(fold.state, 1 << 62)
        return cuts.values[order.event]


def _in_the_past(order: AgentOrder, state: PartitionState, now: int) -> bool:
    """Whether its cut is before the ledger's end; else the decision says so by itself."""
    return order.cut < state.seq if order.cut is not None else (order.at or 0) < now


def _passed_by(order: AgentOrder, snapshot: PartitionState) -> bool:
    """Whether a snapshot was taken after the cut."""
    return snapshot.seq - 1 > order.cut if order.cut is not None else snapshot.now > (order.at or 0)
