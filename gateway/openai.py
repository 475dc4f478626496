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

import orjson
from aiohttp import web
from sluicegate.gateway.access import Caller
from sluicegate.gateway.context import (
    Gate,
    asked_by,
    asker_of,
    body_of,
    gate_of,
    seconds_in,
    session_of,
    text_in,
)
from sluicegate.gateway.doors import said
from sluicegate.gateway.problems import JSON, problem, status_of
from sluicegate.processors.api_keys import AGENT
from sluicegate.schemas.kinds import MODEL, MODEL_CALL
from sluicegate.streams.client_errors import NotReleased
from sluicegate.streams.client_json import Json
from sluicegate.streams.replies import Held

SESSION, INTENT = "x-sluicegate-session", "x-sluicegate-intent"
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
    asker = await asker_of(gate, caller)
    trace = request.headers.get("traceparent", "")[:100]
    headers = {INTENT: intent_id, SESSION: session_id}
    try:
        answer = await asker.call_tool(
            session_id, model, arguments, seconds_in(request.headers.get("x-sluicegate-timeout"), TIMEOUT_S), intent_id,
            trace, None, MODEL_CALL,
        )  # fmt: skip
    except NotReleased as error:
        return refused(error, headers)
    if isinstance(answer, Held):
        return _held(answer, headers)
    completion = _completion(intent_id, model, cast("dict[str, Json]", answer), session_id)
    if body.get("stream"):
        return await _streamed(request, completion, headers)
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


def refused(error: NotReleased, headers: dict[str, str]) -> web.Response:
    """No completion, in OpenAI's shape; the message is for the model."""
    status = status_of(error)
    told = {
        **headers, "x-sluicegate-stage": error.stage, "x-sluicegate-reason": error.reason,
        "x-sluicegate-policies": ",".join(error.policies),
    }  # fmt: skip
    body = {
        "error": {
            "message": error.for_model or str(error), "type": f"sluicegate_{error.status}", "code": error.reason, "param": None,
            "sluicegate": {"developer": error.for_developer, "policies": list(error.policies), "intent_id": error.intent_id},
        }
    }  # fmt: skip
    return web.Response(status=status, body=orjson.dumps(body), content_type=JSON, headers=told)


def _held(held: Held, headers: dict[str, str]) -> web.Response:
    body = {
        "error": {
            "message": held.for_model or "A person has to agree to this first.", "type": "sluicegate_held", "code": "held",
            "param": None, "sluicegate": {"developer": held.why, "policies": list(held.policies), "intent_id": held.intent_id},
        }
    }  # fmt: skip
    return web.Response(status=409, body=orjson.dumps(body), content_type=JSON, headers=headers)


def _completion(intent_id: str, model: str, answer: dict[str, Json], session_id: str) -> dict[str, object]:
    """The released result as a chat completion."""
    usage = cast("dict[str, int]", answer.get("usage") or {})
    message: dict[str, object] = {"role": "assistant", "content": answer.get("text"), "refusal": None}
    if answer.get("tool_calls"):
        message["tool_calls"] = answer["tool_calls"]
    given, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
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
        "usage": {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made},
        "sluicegate": {"intent_id": intent_id, "session_id": session_id, "alias": model},
    }


async def _streamed(
    request: web.Request, completion: dict[str, object], headers: dict[str, str]
) -> web.StreamResponse:
    """The whole completion as a stream of one piece: it was validated before anybody may see any of it."""
    choice = cast("list[dict[str, object]]", completion["choices"])[0]
    message = cast("dict[str, object]", choice["message"])
    delta: dict[str, object] = {"role": "assistant", "content": message["content"]}
    calls = cast("list[dict[str, object]]", message.get("tool_calls") or [])
    if calls:
        delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls)]
    common = {k: completion[k] for k in ("id", "created", "model", "sluicegate")} | {
        "object": "chat.completion.chunk"
    }
    pieces = [
        {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
        {**common, "choices": [], "usage": completion["usage"]},
    ]
    response = web.StreamResponse(
        headers={**headers, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    for piece in pieces:
        await response.write(b"data: " + orjson.dumps(piece) + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
