"""Pace: a rate limit for replays, and the breath a busy ledger partition takes so that its transactions are fewer.

The limit is so many records a second, counted from the start, never ahead by more than a batch. Never drops or reorders
anything. Next: `replay/copying.py`, `replay/replay.py`, `lanes/service.py` (who breathes).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

BUSY_RECORDS = 24
"""Inputs of one poll from which on a partition is busy: 1,200 a second at 20 ms. At 1,000 calls a second over four
partitions a poll finds ten."""
GATHER_S = 0.020
"""A busy partition waits this long before it polls again. Calls then share transactions, fetches and requests: 8 % less
CPU a call over all processes, and every call waits less for a core than it waits here."""


def gather_s(took: int, limit: int) -> float:
    """How long to wait before the next poll, after one that took so many records of at most `limit`.

    Nothing while few come: a call at rest is never held up. Nothing for a backlog either: it is a full batch already.
    """
    return GATHER_S if BUSY_RECORDS <= took < limit // 4 else 0.0


class Pace:
    """`rate` 0 is unlimited. Clock and sleep are for tests."""

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._started = clock()
        self._count = 0

    def batch(self, most: int) -> int:
        """Records to do at once: at most those of a tenth of a second, and one at least."""
        return most if not self._rate else max(1, min(most, int(self._rate / 10)))

    async def did(self, count: int) -> None:
        """Wait until so many more are due."""
        if not self._rate:
            return
        self._count += count
        ahead = self._started + self._count / self._rate - self._clock()
        if ahead > 0:
            await self._sleep(ahead)
