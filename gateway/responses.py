"""OpenAI's Responses API: the same model calls as `openai.py`, in the newer shape.

    POST /v1/responses        model: a route or a model contract of the release; functions pass through

Nothing is kept between responses: `previous_response_id`, conversations, background work and tools that run at the provider are
refused by name. What was decided is in the headers `x-sluicegate-*` and in the answer's `sluicegate`.
Never calls a model itself. Next: `responses_input.py` (what is asked), `responses_stream.py` (an answer as it comes).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiohttp import web
from sluicegate.gateway import responses_stream
from sluicegate.gateway.context import asked_by, body_of, text_in
from sluicegate.gateway.doors import said
from sluicegate.gateway.model_calls import ModelCall, begin
from sluicegate.gateway.openai_shapes import about, held_call, refused
from sluicegate.gateway.responses_input import arguments_of
from sluicegate.gateway.responses_shapes import finished
from sluicegate.processors.control.api_keys import AGENT
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

_ECHOED = ("instructions", "metadata", "temperature", "top_p", "max_output_tokens", "reasoning", "user")


def add(app: web.Application) -> None:
    """Add the route."""
    app.add_routes([web.post("/v1/responses", _respond)])


async def _respond(request: web.Request) -> web.StreamResponse:
    caller, body = await asked_by(request, AGENT), await body_of(request)
    model = text_in(body, "model", needed=True)
    call = await begin(request, caller, "response", model, body, arguments_of(body))
    try:
        if body.get("stream"):
            return await responses_stream.answer(request, call, frame(call, body))
        answer = await call.answer()
    except NotReleased as error:
        return refused(error, call.headers, call.alias)
    if isinstance(answer, Held):
        return held_call(answer, call.headers)
    return said(finished(frame(call, body), answer), 200, **call.headers)


def frame(call: ModelCall, body: Mapping[str, Json]) -> dict[str, object]:
    """A response before its end."""
    ident = call.step.ident
    return {
        "id": f"resp_{ident}", "object": "response", "created_at": int(time.time()), "status": "in_progress", "error": None,
        "incomplete_details": None, "model": call.alias, "output": [], "usage": None, "previous_response_id": None,
        "parallel_tool_calls": body.get("parallel_tool_calls", True), "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [], "text": body.get("text") or {"format": {"type": "text"}}, "truncation": "disabled",
        "store": False, "background": False, **{name: body.get(name) for name in _ECHOED}, "sluicegate": about(call),
    }  # fmt: skip
