"""OpenAI's shapes for what is no completion, and for tokens. Never decides. Next: `openai.py`, `openai_stream.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import orjson
from aiohttp import web
from sluicegate.gateway.problems import JSON, status_of
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.once import Once
from sluicegate.streams.sdk.replies import Held

EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of a stream of events."""
SESSION, INTENT = "x-sluicegate-session", "x-sluicegate-intent"
ONCE = {"x-should-retry": "false"}
"""Of an answer to a call that was asked: OpenAI's clients repeat 409 and 5xx by themselves, without a key, and that were another call."""


REPLACED: dict[str, object] = {
    "error": {
        "message": "another answer begins, what came so far is void: ask again",
        "type": "sluicegate_replaced",
        "code": "message_replaced",
        "param": None,
    }
}


class Call(Protocol):
    """What is told of a model call."""

    @property
    def step(self) -> Once: ...
    @property
    def session_id(self) -> str: ...
    @property
    def alias(self) -> str: ...


def error_of(error: NotReleased) -> dict[str, dict[str, object]]:
    """In OpenAI's shape; the message is for the model."""
    return {
        "error": {
            "message": error.for_model or str(error), "type": f"sluicegate_{error.status}", "code": error.reason, "param": None,
            "sluicegate": {
                "developer": error.for_developer, "policies": list(error.policies), "intent_id": error.intent_id,
                "stage": error.stage, "status": error.status,
            },
        }
    }  # fmt: skip


def about(call: Call) -> dict[str, object]:
    """The extension of an answer: what the call is on the ledger."""
    return {"intent_id": call.step.ident, "session_id": call.session_id, "alias": call.alias}


def refused(error: NotReleased, headers: Mapping[str, str], alias: str) -> web.Response:
    """No completion. A model that is not there is 404 `model_not_found`, as at OpenAI."""
    status, body = status_of(error), error_of(error)
    if error.reason == "unknown_tool":
        status = 404
        body["error"] |= {
            "message": f"the model `{alias}` does not exist here: GET /v1/models lists those you may ask",
            "code": "model_not_found",
        }
    told = {
        **headers, "x-sluicegate-stage": error.stage, "x-sluicegate-reason": error.reason,
        "x-sluicegate-policies": ",".join(error.policies),
    }  # fmt: skip
    # INVARIANT: no client repeats by itself a call that was asked (tests/integration/test_gateway_models.py).
    told |= {"Retry-After": "1"} if status in (429, 503) else ONCE
    return web.Response(status=status, body=orjson.dumps(body), content_type=JSON, headers=told)


def held_call(held: Held, headers: Mapping[str, str]) -> web.Response:
    body = {
        "error": {
            "message": held.for_model or "A person has to agree to this first.", "type": "sluicegate_held", "code": "held",
            "param": None, "sluicegate": {"developer": held.why, "policies": list(held.policies), "intent_id": held.intent_id},
        }
    }  # fmt: skip
    return web.Response(status=409, body=orjson.dumps(body), content_type=JSON, headers={**headers, **ONCE})


def calls_of(answer: dict[str, Json]) -> list[dict[str, object]]:
    """Tool calls as OpenAI has them: the arguments are a text."""
    listed = cast("list[dict[str, Json]]", answer.get("tool_calls") or [])
    return [
        {
            "id": call.get("id") or f"call_{index}", "type": "function",
            "function": {"name": call.get("name"), "arguments": orjson.dumps(call.get("arguments")).decode()},
        }
        for index, call in enumerate(listed)
    ]  # fmt: skip


def usage_of(answer: dict[str, Json]) -> dict[str, int]:
    """Tokens, in OpenAI's words."""
    usage = cast("dict[str, int]", answer.get("usage") or {})
    given, made = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
