"""Gates of gated answers: the release a call was decided under, fetched by its digest, and its rules over results.

Content-addressed like everywhere else: what does not have the digest that the dispatch names is no release. Kept for a few
releases, since a deployment has two or three at a time. Never decides a call: the ledger asks the same rules of the whole answer.
Next: `processors/models/stream_gate.py`, `streams/control/releases.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import orjson
from sluicegate.processors.conform import Json
from sluicegate.processors.models.stream_gate import StreamGate
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import Dispatch
from sluicegate.streams.control import releases
from sluicegate.streams.settings import Settings

KEPT = 4
"""Compiled releases in one process; the examples' has 4 MB."""


class ReleaseGates:
    """Gates by release. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loading: dict[str, asyncio.Task[CompiledRelease]] = {}
        self._log = logging.getLogger("sluicegate.executor")

    async def gate(self, dispatch: Dispatch, limit_s: float) -> StreamGate | None:
        """See `model.Gates`."""
        release = await self.release(dispatch.release, limit_s)
        if release is None or dispatch.tool not in release.tools:
            return None
        around = cast("dict[str, Json]", orjson.loads(dispatch.around or b"{}"))
        return StreamGate(release, dispatch.tool, around)

    async def release(self, digest: str, limit_s: float) -> CompiledRelease | None:
        """The release of this digest, or None when it is not at hand in time."""
        task = self._loading.pop(digest, None)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._load(digest), name="load-release")
        self._loading[digest] = task  # the newest last
        while len(self._loading) > KEPT:
            self._loading.pop(next(iter(self._loading)))
        done, _ = await asyncio.wait([task], timeout=limit_s)
        if not done or task.cancelled() or (error := task.exception()) is not None:
            why = error if done and not task.cancelled() else "it takes too long"
            self._log.warning("release `%s` is not at hand: %s", digest, why)
            return None
        return task.result()

    async def _load(self, digest: str) -> CompiledRelease:
        try:
            files = await releases.fetch(self._settings, digest)
            return await asyncio.to_thread(compile_release, files, proven=True)
        except (OSError, ValueError) as error:
            raise SluicegateError(f"it cannot be read: {error}") from error
