"""Calls that wait for people, for whoever asks by HTTP: as the CLI shows them, read from the ledger itself.

Reading folds every partition from its snapshot, in a thread beside the requests; so it is done once at a time, and its answer is good
for `FRESH_S`. Never decides. Next: `approvals.py`, `streams/inspect/pending.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

from sluicegate.processors.state import OpenIntent
from sluicegate.schemas.records import Review
from sluicegate.streams import reviewing
from sluicegate.streams.inspect import pending
from sluicegate.streams.inspect.find import LedgerEvent
from sluicegate.streams.inspect.pending import Pending
from sluicegate.streams.keys.store import Keys
from sluicegate.streams.settings import Settings

FRESH_S = 2.0
VISIBLE_S = 0.2
"""A reply may be read a moment before the record it tells of: a transaction's markers are written one after the other."""
MAX_AT_ONCE = 4
"""Calls that are shown, and words that are sent, at a time: each has clients of Kafka of its own, about 5 MB."""

Waiting = tuple[OpenIntent, str]
"""A held call, and why it is held."""
T = TypeVar("T")


class HeldCalls:
    """Those of one environment."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._reading = asyncio.Lock()
        self._some = asyncio.Semaphore(MAX_AT_ONCE)
        self._found: list[Waiting] = []
        self._at = float("-inf")

    async def all(self) -> list[Waiting]:
        """Every one, those that expire first before the others. Raises `Retryable` without Kafka."""
        if self._clock() - self._at > FRESH_S:
            await self._read(self._clock())
        return self._found

    async def named(self, intent_id: str) -> list[Waiting]:
        """Those with this id, of any agent; read anew when there is none, and again `VISIBLE_S` later."""
        # INVARIANT: who was told that a call is held finds it (tests/unit/test_held_calls.py).
        asked = self._clock()
        await self.all()
        if not self._of(intent_id):
            await self._read(asked)
        if not self._of(intent_id):
            await asyncio.sleep(VISIBLE_S)
            await self._read(self._clock())
        return self._of(intent_id)

    def _of(self, intent_id: str) -> list[Waiting]:
        return [w for w in self._found if w[0].intent_id == intent_id]

    async def _read(self, asked: float) -> None:
        async with self._reading:
            if self._at < asked:  # nobody else did meanwhile
                at = self._clock()
                self._found = await _beside(self._all)
                self._at = at

    async def _all(self) -> list[Waiting]:
        entries = await pending.held(self._settings)
        return list(zip(entries, await pending.reasons(self._settings, entries), strict=True))

    async def show(self, entry: OpenIntent, *, session: bool) -> Pending:
        """Everything people are shown of one. Raises `Retryable` without Kafka."""

        async def load() -> Pending:
            keys = Keys(self._settings.home)
            try:
                return await pending.load(self._settings, entry, keys.open, session=session)
            finally:
                keys.close()

        async with self._some:
            return await _beside(load)

    async def send(self, review: Review, follow_s: float) -> list[LedgerEvent]:
        """A person's word, sent as the CLI does. Raises as `reviewing.send`."""
        async with self._some:
            found = await reviewing.send(self._settings, review, follow_s=follow_s)
        self._at = float("-inf")
        return found


async def _beside(work: Callable[[], Coroutine[None, None, T]]) -> T:
    """Run in a thread with a loop of its own: folding takes the processor for seconds."""
    return await asyncio.to_thread(lambda: asyncio.run(work()))
