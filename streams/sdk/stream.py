"""Streams of the agent SDK: an intent is asked as ever, and meanwhile its pieces are shown.

The reply ends it, whatever pieces came by then: they travel beside the ledger and count for nothing. A reader that is slow holds up
nobody: what it leaves waiting is bounded, and beyond the bound it gets the rest with the reply. Where pieces cannot be read (no such topic
in an older environment, no right), the answer comes whole. Next: `sdk/assembly.py` (what is shown), `sdk/asking.py`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.kinds import MODEL_STREAM
from sluicegate.streams.sdk.asking import Asker
from sluicegate.streams.sdk.assembly import Assembly, Ended, Part
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

LISTEN_LIMIT_S = 5.0
"""For the first stream of a client to find the end of topic `pieces`."""

log = logging.getLogger("sluicegate.client")


async def stream(
    asker: Asker,
    session_id: str,
    alias: str,
    arguments: Mapping[str, Json],
    timeout_s: float,
    intent_id: str | None,
    traceparent: str,
    request: str = "",
    opened: Callable[[Json], Awaitable[Json]] | None = None,
) -> AsyncGenerator[Part, None]:
    """See `Session.stream_model`. `opened`: what a result that is a reference refers to; default: the reference itself."""
    intent_id = uuid.uuid4().hex if intent_id is None else intent_id
    try:
        async with asyncio.timeout(min(timeout_s, LISTEN_LIMIT_S)):
            await asker.transport.listen(asker.feeds.deliver)
    except (TimeoutError, SluicegateError) as error:
        log.warning("the answer of `%s` comes whole, its pieces cannot be read: %s", intent_id, error)
    assembly = Assembly()
    with asker.feeds.of(intent_id) as feed:
        asking = asyncio.create_task(
            asker.call_tool(
                session_id, alias, arguments, timeout_s, intent_id, traceparent, None, MODEL_STREAM, request
            )
        )
        try:
            while not asking.done():
                arrived = asyncio.create_task(feed.arrived.wait())
                try:
                    await asyncio.wait((asking, arrived), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    arrived.cancel()
                for piece in feed.drain():
                    for part in assembly.take(piece):
                        yield part
            result = await asking
        finally:
            # Whoever stops reading stops waiting; the call itself goes on and is settled by its receipt.
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    if isinstance(result, Held):
        yield Ended(result, True)
        return
    if opened is not None:
        result = await opened(result)
    for part in assembly.end(result):
        if isinstance(part, Ended) and not part.matched:
            log.warning("what was shown of `%s` is not what was released, which is shown now", intent_id)
        yield part
