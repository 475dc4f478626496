"""Every intent that has not ended, from the ledger itself: each partition folded from its snapshot to its committed end.

Slower than ClickHouse and never behind: for lists somebody acts on at once. Never writes.
Next: `recovery.py` (the fold), `commands/quarantine.py` and `commands/in_doubt.py` (who lists).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from sluicegate.processors.state import OpenIntent
from sluicegate.streams import kafka, topics
from sluicegate.streams.recovery import recover
from sluicegate.streams.settings import Settings

IN_FLIGHT = ("dispatched", "claimed")
"""Offered to an executor, or taken by one."""


async def open_intents(settings: Settings, states: Collection[str] = ()) -> list[OpenIntent]:
    """Those in one of `states` (any when empty), the oldest first."""
    found: list[OpenIntent] = []
    count = await topics.partitions_of(settings)
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=5))
    try:
        for partition in range(count):
            state = (await recover(consumer, settings.env, partition)).state
            found += [entry for entry in state.intents.objects() if type(entry) is OpenIntent]
    finally:
        await consumer.stop()
    wanted = [entry for entry in found if not states or entry.state in states]
    return sorted(wanted, key=lambda entry: (entry.issued_at, entry.agent_id, entry.intent_id))


def iso(micros: int) -> str:
    """UTC to the second, or an empty text for no time."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="seconds") if micros else ""
