"""OpenAI's shape: chat completions and the list of models, so that `base_url` is all that changes.

    POST /v1/chat/completions        model: a route or a model contract of the release; tools pass through
    GET  /v1/models                  those the agent may ask for at all

A completion is a model call like any other: routed, authorised, validated, recorded. What was decided is in the headers
`x-sluicegate-*` and in the answer's `sluicegate`; a refusal is an error whose message a model can read.
Never calls a model itself. Next: `model_calls.py`, `responses.py`, `processors/models/routes.py`.
"""

from __future__ import annotations

import time

from aiohttp import web
from sluicegate.gateway import openai_stream
from sluicegate.gateway.context import asked_by, body_of, gate_of, text_in
from sluicegate.gateway.doors import said
from sluicegate.gateway.model_calls import ModelCall, begin, models
from sluicegate.gateway.openai_shapes import about, calls_of, held_call, refused, usage_of
from sluicegate.gateway.problems import problem
from sluicegate.processors.control.api_keys import AGENT
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

LEFT_OUT = frozenset(
    (
        "model", "stream", "stream_options", "user", "store", "metadata", "n", "service_tier", "safety_identifier",
        "prompt_cache_key",
    )
)  # fmt: skip
"""Of a request: said otherwise, or for OpenAI's own books. `n` above 1 is refused."""


def add(app: web.Application) -> None:
    """Add the routes."""
    app.add_routes([web.post("/v1/chat/completions", _complete), web.get("/v1/models", _models)])


async def _models(request: web.Request) -> web.Response:
    gate = gate_of(request)
    caller = await asked_by(request, AGENT)
    owner = gate.release.name
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": owner}
        for name in models(gate, caller.agent)
    ]
    return said({"object": "list", "data": listed})


async def _complete(request: web.Request) -> web.StreamResponse:
    caller, body = await asked_by(request, AGENT), await body_of(request)
    model = text_in(body, "model", needed=True)
    if body.get("n", 1) not in (1, None):
        raise problem(400, "bad_request", "`n` must be 1: every completion is decided on its own")
    arguments = {name: value for name, value in body.items() if name not in LEFT_OUT and value is not None}
    if isinstance(tokens := arguments.pop("max_completion_tokens", None), int):
        arguments.setdefault("max_tokens", tokens)
    call = await begin(request, caller, "chat", model, body, arguments)
    try:
        if body.get("stream"):
            options = body.get("stream_options")
            usage = isinstance(options, dict) and options.get("include_usage") is True
            return await openai_stream.answer(request, call, usage=usage)
        answer = await call.answer()
    except NotReleased as error:
        return refused(error, call.headers, call.alias)
    if isinstance(answer, Held):
        return held_call(answer, call.headers)
    return said(_completion(call, answer), 200, **call.headers)


def _completion(call: ModelCall, answer: dict[str, Json]) -> dict[str, object]:
    """The released result as a chat completion."""
    message: dict[str, object] = {"role": "assistant", "content": answer.get("text"), "refusal": None}
    if calls := calls_of(answer):
        message["tool_calls"] = calls
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": answer.get("finish_reason") or "stop",
        "logprobs": None,
    }
    return {
        "id": f"chatcmpl-{call.step.ident}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.get("served_model") or call.alias,
        "choices": [choice],
        "usage": usage_of(answer),
        "sluicegate": about(call),
    }
