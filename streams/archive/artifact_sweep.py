"""The retention of artifacts: what is older than `SLUICEGATE_ARTIFACTS_DAYS` is deleted, so that the store does not grow for ever.

Every executor process sweeps once an hour; two at once do each other no harm. Age is counted from the write, by the clock of the
store. What an agent still refers to and is gone, `agent.artifact` says to be gone. Never touches the ledger: it keeps digest and
size. Next: `archive/artifacts.py` (the stores), docs/artifacts.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping

from sluicegate.schemas.errors import SluicegateError, Terminal
from sluicegate.streams.archive.artifacts import Artifacts

log = logging.getLogger("sluicegate.artifacts")

VARIABLE = "SLUICEGATE_ARTIFACTS_DAYS"
DEFAULT_DAYS = 30
"""As long as Kafka keeps the receipts that hold the references."""
EVERY_S = 3_600.0
DAY_S = 86_400
MAX_DAYS = 36_500


def days_of(environ: Mapping[str, str] = os.environ) -> int:
    """How long artifacts are kept; 0: for ever. Raises `Terminal`."""
    text = environ.get(VARIABLE, "").strip() or str(DEFAULT_DAYS)
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_DAYS:
        raise Terminal(
            f"`{text[:40]}` in {VARIABLE} is no number of days, write 1 to {MAX_DAYS}, or 0 to keep artifacts for ever"
        )
    return int(text)


class Sweeper:
    """The retention of one process. `swept`: artifacts deleted since it began."""

    def __init__(self, store: Artifacts, days: int) -> None:
        self._store, self._days = store, days
        self._task: asyncio.Task[None] | None = None
        self.swept = 0

    def start(self) -> None:
        """Sweep now, and every hour; nothing where artifacts are kept for ever."""
        if self._days:
            self._task = asyncio.create_task(self._run(), name="artifact sweeper")

    async def stop(self) -> None:
        """Stop where it is: what is deleted is deleted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def once(self, now_s: float) -> int:
        """One sweep; how many it deleted. A store that does not answer is asked again in an hour."""
        try:
            found = await self._store.sweep(now_s - self._days * DAY_S)
        except (SluicegateError, OSError) as error:
            log.warning("old artifacts could not be deleted, trying again in an hour: %s", error)
            return 0
        self.swept += found
        if found:
            log.info("%d artifact(s) older than %d days deleted", found, self._days)
        return found

    async def _run(self) -> None:
        while True:
            await self.once(time.time())
            await asyncio.sleep(EVERY_S)
