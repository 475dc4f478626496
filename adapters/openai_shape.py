"""OpenAI's client over a governed session: a request becomes a model call, the released answer a chat completion.

    client = openai_client(session)       # an `openai.AsyncOpenAI` for every framework that takes one; it opens no connection

What the client asks for besides chat completions is 404. A refusal is an error whose message a model can read, as the gateway
has it (docs/gateway.md). A stream comes whole, in one chunk: what is shown has been released. Never retries.
Needs the package `openai`. Next: `tools.py`, `openai_agents.py`, `pydantic_ai.py`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import cast

import httpx2
import openai
import orjson
from sluicegate.adapters.tools import HELD_FOR_MODEL, Calls, details, for_model
from sluicegate.schemas.kinds import MODEL_CALL
from sluicegate.streams.sdk.call_once import CallsOnce
from sluicegate.streams.sdk.errors import NotReleased
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held
from sluicegate.streams.sdk.session import CALL_TIMEOUT_S

LEFT_OUT = frozenset(("model", "stream", "stream_options", "user", "store", "metadata", "n", "service_tier"))
"""Of a request: said otherwise, or for OpenAI's own books; as in the gateway."""
REFUSED, HELD = 403, 409
ADDRESS = "http://sluicegate.invalid/v1"
"""Never resolved: the transport answers."""


def openai_client(
    session: CallsOnce | None = None, *, timeout_s: float = CALL_TIMEOUT_S
) -> openai.AsyncOpenAI:
    """A client whose models are those of the session's release."""
    transport = _Transport(Calls(session, timeout_s=timeout_s))
    return openai.AsyncOpenAI(
        base_url=ADDRESS, api_key="none", max_retries=0, http_client=httpx2.AsyncClient(transport=transport)
    )


class _Transport(httpx2.AsyncBaseTransport):
    """Answers requests from a session instead of a network."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request."""
        if not request.url.path.endswith("/chat/completions"):
            return _json(404, _error("only chat completions are governed here", "not_found", {}))
        body = cast("dict[str, Json]", orjson.loads(await request.aread()))
        asked = {name: value for name, value in body.items() if name not in LEFT_OUT and value is not None}
        model = str(body.get("model") or "")
        try:
            # Two equal requests are two: who runs a step again keeps its answer (LangGraph's checkpoints, a run's state).
            answer = await self._calls.ask(uuid.uuid4().hex, model, asked, None, MODEL_CALL)
        except NotReleased as error:
            return _json(REFUSED, _error(for_model(error), error.reason, details(error)))
        if isinstance(answer, Held):
            return _json(HELD, _error(answer.for_model or HELD_FOR_MODEL, "held", details(answer)))
        completion = _completion(model, cast("dict[str, Json]", answer))
        if body.get("stream"):
            return httpx2.Response(
                200, content=_chunks(completion), headers={"content-type": "text/event-stream"}
            )
        return _json(200, completion)


def _json(status: int, body: Mapping[str, object]) -> httpx2.Response:
    return httpx2.Response(status, content=orjson.dumps(body), headers={"content-type": "application/json"})


def _error(message: str, code: str, about: dict[str, Json]) -> dict[str, object]:
    return {
        "error": {
            "message": message, "type": "sluicegate_refused", "code": code, "param": None, "sluicegate": about,
        }
    }  # fmt: skip


def _completion(model: str, answer: dict[str, Json]) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": answer.get("text") or None}
    calls = cast("list[dict[str, Json]]", answer.get("tool_calls") or [])
    if calls:
        message["tool_calls"] = [
            {
                "id": call["id"], "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
            }
            for call in calls
        ]  # fmt: skip
    usage = cast("dict[str, int]", answer.get("usage") or {})
    given, made = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    finish = answer.get("finish_reason") or ("tool_calls" if calls else "stop")
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.get("served_model") or model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made},
    }


def _chunks(completion: dict[str, object]) -> bytes:
    """The completion as a stream of one message."""
    choice = cast("list[dict[str, object]]", completion["choices"])[0]
    message = dict(cast("dict[str, object]", choice["message"]))
    if "tool_calls" in message:
        calls = cast("list[dict[str, object]]", message["tool_calls"])
        message["tool_calls"] = [{"index": at, **call} for at, call in enumerate(calls)]
    head = {**completion, "object": "chat.completion.chunk"}
    del head["usage"]
    said = {**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]}
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    bill = {**head, "choices": [], "usage": completion["usage"]}
    return (
        b"".join(b"data: " + orjson.dumps(part) + b"\n\n" for part in (said, end, bill)) + b"data: [DONE]\n\n"
    )
