"""A streamed response: what the SDK shows of an answer, as events of OpenAI's Responses API.

What was shown can be void: another model answers, or what was streamed is not what was released. A client of this protocol cannot take
pieces back, so then the response fails (`message_replaced`), and the client asks again. Never decides.
Next: `streams/sdk/assembly.py` (what is shown), `responses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import orjson
from aiohttp import web
from sluicegate.gateway import responses_shapes, streamed
from sluicegate.gateway.model_calls import ModelCall
from sluicegate.gateway.openai_shapes import REPLACED
from sluicegate.streams.sdk.assembly import Part, Started, Text, ToolCall
from sluicegate.streams.sdk.json import Json


async def answer(request: web.Request, call: ModelCall, frame: dict[str, object]) -> web.StreamResponse:
    """Answer with what comes. Raises `NotReleased` as long as nothing was said; afterwards the response fails."""
    return await streamed.answer(request, call, lambda response: _Writer(response, call.step.ident, frame))


class _Item:
    """One item of the output as it grows."""

    def __init__(self, index: int, ident: str, call: ToolCall | None) -> None:
        self.index, self.ident, self.call = index, ident, call
        self.text: list[str] = []

    def shape(self, *, ended: bool) -> dict[str, object]:
        text = "".join(self.text) if ended else None
        if self.call is None:
            return responses_shapes.message_item(self.ident, text)
        return responses_shapes.call_item(
            self.ident, self.call.call_id or f"call_{self.call.index}", self.call.name, text
        )


class _Writer:
    """Events of one response."""

    def __init__(self, response: web.StreamResponse, ident: str, frame: dict[str, object]) -> None:
        self._response, self._ident, self._frame = response, ident, frame
        self._number = 0
        self._items: list[_Item] = []
        self._open: _Item | None = None

    async def begin(self) -> None:
        """The response is there."""
        await self._event("response.created", response=self._frame)
        await self._event("response.in_progress", response=self._frame)

    async def part(self, part: Part) -> bool:
        """Write one part; False when nothing may follow."""
        if isinstance(part, Started):
            if part.replaces and self._items:
                await self.fail(REPLACED)
                return False
            self._frame["model"] = part.model or self._frame["model"]
        elif isinstance(part, Text):
            await self._text(part.text)
        elif isinstance(part, ToolCall):
            await self._call(part)
        else:
            await self._close()
            done = responses_shapes.finished(self._frame, cast("dict[str, Json]", part.result))
            await self._event(f"response.{done['status']}", response=done)
        return True

    async def fail(self, said: Mapping[str, object]) -> None:
        """No answer: an error that a model can read."""
        error = cast("dict[str, object]", said["error"])
        about = {
            **cast("dict[str, object]", self._frame["sluicegate"]),
            **cast("dict[str, object]", error.get("sluicegate") or {}),
        }
        await self._event("error", code=error["code"], message=error["message"], param=None, sluicegate=about)
        failed = {
            **self._frame,
            "status": "failed",
            "error": {"code": error["code"], "message": error["message"]},
        }
        await self._event("response.failed", response={**failed, "sluicegate": about})

    async def end(self) -> None:
        """The last event was the end."""

    async def _text(self, text: str) -> None:
        item = self._open
        if item is None or item.call is not None:
            item = await self._add(f"msg_{self._ident}", None)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            await self._event("response.content_part.added", **self._at(item), content_index=0, part=part)
        item.text.append(text)
        await self._event(
            "response.output_text.delta", **self._at(item), content_index=0, delta=text, logprobs=[]
        )

    async def _call(self, part: ToolCall) -> None:
        item = self._open
        if item is None or item.call is None or item.call.index != part.index:
            item = await self._add(f"fc_{self._ident}_{part.index}", part)
        if part.arguments:
            item.text.append(part.arguments)
            await self._event(
                "response.function_call_arguments.delta", **self._at(item), delta=part.arguments
            )

    async def _add(self, ident: str, call: ToolCall | None) -> _Item:
        await self._close()
        self._open = item = _Item(len(self._items), ident, call)
        self._items.append(item)
        await self._event("response.output_item.added", output_index=item.index, item=item.shape(ended=False))
        return item

    async def _close(self) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        text = "".join(item.text)
        if item.call is None:
            await self._event(
                "response.output_text.done", **self._at(item), content_index=0, text=text, logprobs=[]
            )
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            await self._event("response.content_part.done", **self._at(item), content_index=0, part=part)
        else:
            await self._event(
                "response.function_call_arguments.done", **self._at(item), name=item.call.name, arguments=text
            )
        await self._event("response.output_item.done", output_index=item.index, item=item.shape(ended=True))

    @staticmethod
    def _at(item: _Item) -> dict[str, object]:
        return {"item_id": item.ident, "output_index": item.index}

    async def _event(self, kind: str, **value: object) -> None:
        body = orjson.dumps({"type": kind, "sequence_number": self._number, **value})
        self._number += 1
        await self._response.write(b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n")
