"""Arguments that came by reference, fetched before the call: their digest is checked, and then that they are what was decided on.

Nothing was sent when they cannot be had, and that is said, so no call is in doubt for it. Never calls anything.
Next: `calls.py` (who asks), `processors/large_arguments.py`, docs/artifacts.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import orjson
from sluicegate.executors.adapter import Failed
from sluicegate.processors.large_arguments import REASON, reference_in
from sluicegate.processors.permits import same_call
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Dispatch
from sluicegate.schemas.topics import MAX_ARGUMENT_BYTES
from sluicegate.streams.archive.artifacts import Artifacts, fetch

AT_ONCE = 16
"""Calls with large arguments at a time in one executor: 64 MB of them, and about three times that as Python objects."""

Whole = Callable[[Dispatch, float], AbstractAsyncContextManager[Dispatch | Failed]]
"""(dispatch, seconds) -> the dispatch with its arguments, while the call lasts; or why they cannot be had."""


class Fetcher:
    """Of one executor process."""

    def __init__(self, store: Artifacts) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def whole(self, dispatch: Dispatch, limit_s: float) -> AsyncIterator[Dispatch | Failed]:
        """See `Whole`."""
        try:
            async with asyncio.timeout(limit_s):
                await self._slots.acquire()
        except TimeoutError:
            yield _unavailable(f"{AT_ONCE} calls with large arguments run here already")
            return
        try:
            yield await self._fetched(dispatch, limit_s)
        finally:
            self._slots.release()

    async def _fetched(self, dispatch: Dispatch, limit_s: float) -> Dispatch | Failed:
        reference = reference_in(dispatch.arguments_ref)
        if reference is None or reference.size > MAX_ARGUMENT_BYTES:
            return _unavailable("the dispatch refers to no arguments")
        try:
            async with asyncio.timeout(limit_s):
                content = await fetch(self._store, orjson.loads(dispatch.arguments_ref))
        except TimeoutError:
            return _unavailable("they could not be fetched in time, raise `timeout_ms`")
        except (SluicegateError, OSError) as error:
            return _unavailable(str(error))
        found = replace(dispatch, arguments=content, arguments_ref=b"")
        # INVARIANT: what is called has the digest that was decided (tests/unit/test_large_arguments.py).
        problem = same_call(found)
        return found if problem is None else _unavailable(problem.detail)


@asynccontextmanager
async def nothing(dispatch: Dispatch, limit_s: float) -> AsyncIterator[Dispatch | Failed]:
    """Of an executor without a store."""
    yield _unavailable("this executor has no artifact store")


def _unavailable(why: str) -> Failed:
    return Failed(REASON, f"the arguments are not at hand: {why}"[:300], sent=False)
