"""Every intent that has not ended and every open session, from the ledger itself: each partition folded from its
snapshot to its committed end.

Slower than ClickHouse and never behind: for lists somebody acts on at once. Never writes.
Next: `lanes/recovery.py` (the fold), `commands/quarantine.py`, `commands/in_doubt.py` and `commands/sessions.py` (who lists).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from sluicegate.processors.sessions.session import Session
from sluicegate.processors.state import OpenIntent, PartitionState
from sluicegate.streams import kafka, topics
from sluicegate.streams.lanes.recovery import recover
from sluicegate.streams.settings import Settings

IN_FLIGHT = ("dispatched", "claimed", "parked")
"""Offered to an executor, or taken by one."""


async def open_intents(settings: Settings, states: Collection[str] = ()) -> list[OpenIntent]:
    """Those in one of `states` (any when empty), the oldest first."""
    found: list[OpenIntent] = []
    async for state in folded_partitions(settings):
        found += [entry for entry in state.intents.values() if type(entry) is OpenIntent]
    wanted = [entry for entry in found if not states or entry.state in states]
    return sorted(wanted, key=lambda entry: (entry.issued_at, entry.agent_id, entry.intent_id))


async def open_sessions(settings: Settings, *, halted: bool = False) -> list[Session]:
    """Open sessions, or only those that were halted; the one that was used last at the end."""
    found: list[Session] = []
    async for state in folded_partitions(settings):
        found += [one for one in state.sessions.values() if one.halted or not halted]
    return sorted(found, key=lambda one: (one.last_at, one.agent_id, one.session_id))


async def folded_partitions(settings: Settings) -> AsyncIterator[PartitionState]:
    """The state of each partition, one after the other."""
    count = await topics.partitions_of(settings)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=5))
    try:
        for partition in range(count):
            yield (await recover(consumer, settings.space, partition)).state
    finally:
        await consumer.stop()
