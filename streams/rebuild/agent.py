"""One agent's state as of a moment, from either store: `rebuild --agent`, and what `rollback agent` would change.

From ClickHouse only that agent's events are read, and the first one of every hour, since idle sessions are forgotten by
the hour; from Kafka the whole partition is passed over. Both give the same. Reads only.
Next: `processors/agents/fold.py`, `stores.py`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.processors.agents.fold import AgentFold
from sluicegate.processors.verify.reading import head, rest
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import partition_of
from sluicegate.streams.rebuild.rebuild import AsOf
from sluicegate.streams.stores import EVERY_SEQ, ClickHouseStore, Event, Store

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Until:
    """Where a partition is cut: the last seq, or the last moment."""

    cut: int | None = None
    until: int | None = None

    def passed(self, seq: int, decided_at: int) -> bool:
        """Whether this record is after it."""
        if self.cut is not None:
            return seq > self.cut
        return self.until is not None and decided_at > self.until


def until_of(as_of: AsOf, partition: int) -> Until:
    """What an `--as-of` means for one partition. Raises `Terminal` when it names others only."""
    if as_of.cut and partition not in as_of.cut:
        raise Terminal(
            f"`--as-of` says nothing of partition {partition}, where the agent is: add {partition}:SEQ"
        )
    return Until(as_of.cut.get(partition), as_of.until)


async def fold_agent(
    store: Store, agent_id: str, partitions: int, as_of: AsOf, advance: Advance = lambda _: None
) -> AgentFold:
    """One agent's fold from an open store, standing behind the cut."""
    partition = partition_of(agent_id, partitions)
    until = until_of(as_of, partition)
    fold = AgentFold(partition, agent_id)
    if isinstance(store, ClickHouseStore):
        await _from_rows(store, fold, partition, until, advance)
    else:
        await _from_all(store, fold, partition, until, advance)
    return fold


async def _from_all(store: Store, fold: AgentFold, partition: int, until: Until, advance: Advance) -> None:
    decided_at, tail = 0, b""
    async for batch in store.events(partition):
        for header, facts in batch.events:
            h = head(header)
            if h.rest != tail:
                tail, decided_at = h.rest, rest(h.rest).decided_at
            if until.passed(h.seq, decided_at):
                return
            fold.add(header, facts)
        advance(len(batch.events))


async def _from_rows(
    store: ClickHouseStore, fold: AgentFold, partition: int, until: Until, advance: Advance
) -> None:
    last, _ = await store.cut(partition, EVERY_SEQ if until.until is None else until.until)
    cut = last if until.cut is None else min(until.cut, last)
    hours = await store.hours(partition, cut)
    events: list[Event] = await store.of_agent(partition, fold.agent_id, cut)
    at = 0
    gc.freeze()
    gc.disable()  # as in `rebuild.fold`
    try:
        for header, facts in events:
            while at < len(hours) and hours[at][0] < head(header).seq:
                fold.pass_time(hours[at][1])
                at += 1
            fold.add(header, facts)
    finally:
        gc.enable()
        gc.unfreeze()
    for _, decided_at in hours[at:]:
        fold.pass_time(decided_at)
    fold.state.seq = cut + 1
    advance(len(events))
