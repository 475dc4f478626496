"""A streamed completion: what the SDK shows of an answer, as OpenAI's chunks.

What was shown can be void: another model answers, or what was streamed is not what was released. A client of this protocol puts
pieces together and cannot take any back, so then the stream ends with an error (`message_replaced`), and the client asks again.
Never decides. Next: `streamed.py` (who hands it on), `openai.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

import orjson
from aiohttp import web
from sluicegate.gateway import streamed
from sluicegate.gateway.model_calls import ModelCall
from sluicegate.gateway.openai_shapes import REPLACED, about, usage_of
from sluicegate.streams.sdk.assembly import Part, Started, Text, ToolCall
from sluicegate.streams.sdk.json import Json


async def answer(request: web.Request, call: ModelCall, *, usage: bool = False) -> web.StreamResponse:
    """Answer with what comes. Raises `NotReleased` as long as nothing was said; afterwards it is an error in the stream.

    `usage`: tokens in a last chunk without choices, which only who asked for it expects.
    """
    return await streamed.answer(request, call, lambda response: _Writer(response, call, usage))


class _Writer:
    """Chunks of one completion."""

    def __init__(self, response: web.StreamResponse, call: ModelCall, usage: bool) -> None:
        self._response, self._usage = response, usage
        self._about = about(call)
        self._common: dict[str, object] = {
            "id": f"chatcmpl-{call.step.ident}", "object": "chat.completion.chunk", "created": int(time.time()),
            "model": call.alias,
        }  # fmt: skip
        self._said = False

    async def begin(self) -> None:
        """The first part begins it."""

    async def fail(self, said: Mapping[str, object]) -> None:
        """No answer: an error that a model can read."""
        await _event(self._response, said)

    async def end(self) -> None:
        """As this protocol ends."""
        await self._response.write(b"data: [DONE]\n\n")

    async def part(self, part: Part) -> bool:
        """Write one part; False when nothing may follow."""
        if isinstance(part, Started):
            if part.replaces and self._said:
                await _event(self._response, REPLACED)
                return False
            self._common["model"] = part.model or self._common["model"]
            await self._delta({"role": "assistant", "content": ""})
        elif isinstance(part, Text):
            self._said = True
            await self._delta({"content": part.text})
        elif isinstance(part, ToolCall):
            self._said = True
            call: dict[str, object] = {"index": part.index, "function": {"arguments": part.arguments}}
            if part.name:
                call |= {
                    "id": part.call_id,
                    "type": "function",
                    "function": {"name": part.name, "arguments": part.arguments},
                }
            await self._delta({"tool_calls": [call]})
        else:
            await self._end(cast("dict[str, Json]", part.result))
        return True

    async def _delta(self, delta: dict[str, object]) -> None:
        await _event(
            self._response, {**self._common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        )

    async def _end(self, result: dict[str, Json]) -> None:
        reason = result.get("finish_reason") or "stop"
        last = {"index": 0, "delta": {}, "finish_reason": reason}
        await _event(self._response, {**self._common, "choices": [last], "sluicegate": self._about})
        if self._usage:
            await _event(self._response, {**self._common, "choices": [], "usage": usage_of(result)})


async def _event(response: web.StreamResponse, value: Mapping[str, object]) -> None:
    await response.write(b"data: " + orjson.dumps(value) + b"\n\n")
