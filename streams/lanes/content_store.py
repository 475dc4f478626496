"""Large arguments beside the log: stored by who asks, fetched by ledger workers before they decide, and by replay.

    agent, gateway ▸ keep ▸ store ▸ fetch ▸ ledger worker (`processors/large_arguments.py`)

A partition waits while its worker fetches, so that has a bound, and a store that did not answer is not asked again at once: what is
not at hand in time is refused `content_unavailable`, and the partition goes on. Never decides, never keeps a key, never believes
what it fetched: `decide` checks the digest. Next: `archive/artifacts.py` (the stores), docs/artifacts.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sluicegate.processors.artifacts import Reference
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.large_arguments import referred
from sluicegate.processors.outcomes import Stored
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.archive.artifacts import VARIABLE, Artifacts, seal, store_of, unseal
from sluicegate.streams.settings import Settings

FETCH_LIMIT_S = 2.0
"""For one call's arguments, or to store what they became: 4 MB from an object store take some 0.2 s."""

AGAIN_AFTER_S = 10.0
"""A store that failed is not asked again before: a dead one costs a partition a sixth of its time at most."""

REPLAY_LIMIT_S = 30.0
"""Nobody waits for a replay."""

INTENTS = "intents"

Keep = Callable[[bytes], Awaitable[bytes]]
"""Arguments -> the reference to them, once they are stored."""

Read = Callable[[Reference], bytes | None]
"""What a reference names; None when it is gone."""

log = logging.getLogger("sluicegate.ledger")


class ContentStore:
    """The store as one ledger worker uses it."""

    def __init__(self, store: Callable[[], Artifacts]) -> None:
        self._open = store
        self._store: Artifacts | None = None
        self._not_before = 0.0

    async def arguments(
        self, source: Input | Tick, offset: int, load: Callable[[Place], Awaitable[bytes | None]]
    ) -> bytes | None:
        """What the intent at this offset refers to; None when it is not at hand."""
        here = isinstance(source, Input) and (source.topic, source.offset) == (INTENTS, offset)
        raw = source.value if here and isinstance(source, Input) else await load((INTENTS, offset))
        reference = referred(raw)
        return None if reference is None else await self._try(lambda store: _opened(store, reference))

    async def keep(self, stores: Iterable[Stored]) -> None:
        """Store what a decision offers by reference. What cannot be stored, its executor does not find, and says so."""
        for one in stores:
            await self._try(partial(_put, one=one))

    async def _try(self, use: Callable[[Artifacts], Awaitable[bytes | None]]) -> bytes | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            async with asyncio.timeout(FETCH_LIMIT_S):
                if self._store is None:
                    self._store = self._open()
                return await use(self._store)
        except Terminal as error:  # it is the reference's fault, or the settings': no other call has to wait
            log.warning("large arguments: %s", error)
        except (Retryable, OSError, TimeoutError) as error:
            log.warning("large arguments: %s", error or f"the store took more than {FETCH_LIMIT_S:g} s")
            self._not_before = time.monotonic() + AGAIN_AFTER_S
        return None


async def _put(store: Artifacts, one: Stored) -> None:
    await store.put(one.name, one.sealed)


async def _opened(store: Artifacts, reference: Reference) -> bytes | None:
    """The content, or None where it is not there. Raises as `unseal`."""
    sealed = await store.get(reference.stored)
    return None if sealed is None else await asyncio.to_thread(unseal, reference, sealed)


def reader(settings: Settings) -> Read:
    """For replay: fetches and waits, in a thread of its own. Raises `Retryable` when the store does not answer."""
    store = store_of(settings)
    pool = ThreadPoolExecutor(1, thread_name_prefix="large-arguments")

    def read(reference: Reference) -> bytes | None:
        return pool.submit(asyncio.run, _opened(store, reference)).result(REPLAY_LIMIT_S)

    return read


def keeper(settings: Settings, environ: Mapping[str, str] = os.environ) -> Keep | None:
    """How this process stores arguments; None where it was told of no store that workers have, too.

    Without `SLUICEGATE_ARTIFACTS` the store is in the state directory: workers have it where Kafka is embedded there.
    """
    if settings.kafka is not None and not environ.get(VARIABLE, "").strip():
        return None

    async def keep(content: bytes) -> bytes:
        store = store_of(settings, environ)
        reference, sealed = await asyncio.to_thread(seal, content)
        await store.put(reference.stored, sealed)
        return reference.as_json()

    return keep
