"""A rate limit for replays: so many records a second, counted from the start; never ahead by more than a batch.

Next: `copying.py`, `replay.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


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
