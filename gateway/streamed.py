"""A streamed answer, whatever the protocol: what the SDK shows of it is handed to a writer, part by part.

Raises as long as nothing was said; what fails afterwards is an event of the stream. Never decides.
Next: `openai_stream.py`, `responses_stream.py` (the writers), `streams/sdk/assembly.py` (what is shown).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from aiohttp import web
from sluicegate.gateway.model_calls import ModelCall
from sluicegate.gateway.openai_shapes import EVENTS, error_of, held_call
from sluicegate.streams.sdk.assembly import Ended, Part
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.replies import Held


class Writer(Protocol):
    """Writes one answer as a protocol has it."""

    async def begin(self) -> None:
        """Something will be said."""

    async def part(self, part: Part) -> bool:
        """Write one part; False when nothing may follow."""

    async def fail(self, said: Mapping[str, object]) -> None:
        """No answer: an error that a model can read."""

    async def end(self) -> None:
        """Nothing more comes."""


async def answer(
    request: web.Request, call: ModelCall, make: Callable[[web.StreamResponse], Writer]
) -> web.StreamResponse:
    """Answer with what comes. Raises `NotReleased` as long as nothing was said; afterwards the writer says it."""
    # INVARIANT: a client that goes away leaves nobody waiting for it (tests/integration/test_gateway.py).
    async with aclosing(call.parts()) as parts:
        first = await anext(parts)
        if isinstance(first, Ended) and isinstance(first.result, Held):
            return held_call(first.result, call.headers)
        response = web.StreamResponse(headers={**call.headers, **EVENTS})
        await response.prepare(request)
        writer = make(response)
        await writer.begin()
        try:
            await writer.part(first)
            async for part in parts:
                if not await writer.part(part):
                    break
        except NotReleased as error:
            await writer.fail(error_of(error))
    await writer.end()
    await response.write_eof()
    return response
