"""OpenAI's shape: chat completions and the list of models, so that `base_url` is all that changes.

    POST /v1/chat/completions        model: a route or a model contract of the release; tools pass through
    GET  /v1/models

A completion is a model call like any other: routed, authorised, validated, recorded. It stands in the session that the header
`x-sluicegate-session` names, else in one that this key's completions share for a while. What was decided is in the headers
`x-sluicegate-*` and in the answer's `sluicegate`; a refusal is an error whose message a model can read.
Never calls a model itself. Next: `doors.py`, `processors/model_routes.py`.
"""

from __future__ import annotations

import time
import uuid
from typing import cast

from aiohttp import web
from sluicegate.gateway import openai_stream
from sluicegate.gateway.access import Caller
from sluicegate.gateway.context import (
    Gate,
    asked_by,
    body_of,
    gate_of,
    seconds_in,
    session_of,
    text_in,
)
from sluicegate.gateway.doors import said
from sluicegate.gateway.openai_shapes import INTENT, SESSION, calls_of, held_call, refused, usage_of
from sluicegate.gateway.problems import problem
from sluicegate.processors.api_keys import AGENT
from sluicegate.schemas.kinds import MODEL
from sluicegate.streams.client_errors import NotReleased
from sluicegate.streams.client_json import Json
from sluicegate.streams.replies import Held

SHARED_S = 900
"""How long completions without a session of their own share one. An agent's new session begins with all that the agent ever saw,
so sharing washes nothing and taints nothing more."""
TIMEOUT_S = 120.0

LEFT_OUT = frozenset(("model", "stream", "stream_options", "user", "store", "metadata", "n", "service_tier"))
"""Of a request: said otherwise, or for OpenAI's own books. `n` above 1 is refused."""


def add(app: web.Application) -> None:
    """Add the routes."""
    app.add_routes([web.post("/v1/chat/completions", _complete), web.get("/v1/models", _models)])


async def _models(request: web.Request) -> web.Response:
    gate = gate_of(request)
    asked_by(request, AGENT)
    release = gate.release
    names = [name for name, tool in release.tools.items() if tool.executor_kind == MODEL]  # routes, too
    return said(
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 0, "owned_by": release.name} for name in names
            ],
        }
    )


async def _complete(request: web.Request) -> web.StreamResponse:
    gate, caller, body = gate_of(request), asked_by(request, AGENT), await body_of(request)
    model = text_in(body, "model", needed=True)
    if body.get("n", 1) not in (1, None):
        raise problem(400, "bad_request", "`n` must be 1: every completion is decided on its own")
    arguments = {name: value for name, value in body.items() if name not in LEFT_OUT and value is not None}
    intent_id = request.headers.get(INTENT, "") or uuid.uuid4().hex
    session_id = request.headers.get(SESSION, "") or await _shared(gate, caller)
    timeout_s = seconds_in(request.headers.get("x-sluicegate-timeout"), TIMEOUT_S)
    headers = {INTENT: intent_id, SESSION: session_id}
    session = await session_of(gate, caller, session_id)
    messages = cast("list[dict[str, Json]]", arguments.pop("messages", []))
    asked = {
        **arguments,
        "timeout_s": timeout_s,
        "intent_id": intent_id,
        "traceparent": request.headers.get("traceparent", "")[:100],
    }
    try:
        if body.get("stream"):
            return await openai_stream.answer(
                request, session.stream_model(model, messages, **asked), {"alias": model, **headers}  # type: ignore[arg-type]
            )  # fmt: skip
        answer = await session.call_model(model, messages, **asked)  # type: ignore[arg-type]
    except NotReleased as error:
        return refused(error, headers)
    if isinstance(answer, Held):
        return held_call(answer, headers)
    completion = _completion(intent_id, model, cast("dict[str, Json]", answer), session_id)
    return said(completion, 200, **headers)


async def _shared(gate: Gate, caller: Caller) -> str:
    """The session that this key's completions share; opened by whoever comes first, in any gateway."""
    session_id = f"gateway-{caller.key.key_id}-{int(time.time()) // SHARED_S}"
    if gate.opened.get(caller.key.key_id) == session_id:
        return session_id
    try:
        await session_of(gate, caller, session_id, goal="chat completions", new=True)
    except NotReleased as error:
        if error.reason != "id_conflict":  # another gateway was first
            raise
    gate.remember(caller.key.key_id, session_id)
    return session_id


def _completion(intent_id: str, model: str, answer: dict[str, Json], session_id: str) -> dict[str, object]:
    """The released result as a chat completion."""
    message: dict[str, object] = {"role": "assistant", "content": answer.get("text"), "refusal": None}
    if calls := calls_of(answer):
        message["tool_calls"] = calls
    return {
        "id": f"chatcmpl-{intent_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.get("served_model") or model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": answer.get("finish_reason") or "stop",
                "logprobs": None,
            }
        ],
        "usage": usage_of(answer),
        "sluicegate": {"intent_id": intent_id, "session_id": session_id, "alias": model},
    }
