"""What an OpenAI-compatible server says, in one shape: a completion, or the kind of its refusal.

A completion that breaks its own promises is malformed: no choice, arguments of a tool call that are no JSON object, JSON
mode without JSON. Never guesses what was meant and repairs nothing. Next: `model.py`.
"""

from __future__ import annotations

import orjson
from sluicegate.executors.adapter import Failed
from sluicegate.schemas.topics import MAX_RESULT_BYTES

MAX_TOOL_CALLS = 128
"""Of one completion; as many as OpenAI takes tools."""
_KINDS = {
    400: "invalid_request", 401: "authentication", 403: "authentication", 408: "timeout", 413: "context_length",
    429: "rate_limit", 503: "overload", 529: "overload",
}  # fmt: skip
_BY_CODE = {
    "context_length_exceeded": "context_length", "content_filter": "content_policy",
    "content_policy_violation": "content_policy", "insufficient_quota": "quota", "model_not_found": "unknown_model",
}  # fmt: skip
"""`error.code` of OpenAI and Azure that say more than the status."""


def refusal_kind(status: int, body: bytes) -> str:
    """The kind of a refusal, one word: `rate_limit`, `overload`, `context_length`, `content_policy`, ..."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    error = value.get("error") if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code in _BY_CODE:
        return _BY_CODE[code]
    return _KINDS.get(status, "server_error" if status >= 500 else "refused")


def normalised(body: bytes, *, json_mode: bool) -> dict[str, object] | Failed:
    """{text, tool_calls, finish_reason, served_model, usage} of a completion's bytes."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _malformed("the answer is not json")
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return _malformed("the answer has not exactly one choice")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        return _malformed("the answer's choice has no message")
    text = message.get("content")
    if text is None:
        text = message.get("refusal") if isinstance(message.get("refusal"), str) else ""
    if not isinstance(text, str):
        return _malformed("the message's content is no text")
    calls = _tool_calls(message.get("tool_calls"))
    if isinstance(calls, Failed):
        return calls
    finish = choices[0].get("finish_reason")
    if json_mode and not calls and finish == "stop" and not message.get("refusal") and not _is_json(text):
        return _malformed("json was asked for, and the text is none")
    served = value.get("model")
    answer: dict[str, object] = {
        "text": text,
        "tool_calls": calls,
        "finish_reason": finish if isinstance(finish, str) else "",
        "served_model": served if isinstance(served, str) else "",
        "usage": _usage(value.get("usage")),
    }
    size = len(orjson.dumps(answer))
    if size > MAX_RESULT_BYTES:
        return Failed("result_too_large", f"the completion has {size} bytes, the limit is {MAX_RESULT_BYTES}")
    return answer


def _tool_calls(raw: object) -> list[dict[str, object]] | Failed:
    """[{id, name, arguments}], the arguments as an object."""
    if raw is None:
        return []
    if not isinstance(raw, list) or len(raw) > MAX_TOOL_CALLS:
        return _malformed("`tool_calls` is no list that could be used")
    found: list[dict[str, object]] = []
    for call in raw:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return _malformed("a tool call names no function")
        try:
            arguments = orjson.loads(str(function.get("arguments") or "{}"))
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            return _malformed("the arguments of a tool call are no json object")
        found.append({"id": str(call.get("id", "")), "name": function["name"], "arguments": arguments})
    return found


def _usage(raw: object) -> dict[str, int | None]:
    """Tokens as the server counted them; None where it did not say, which is not none."""
    usage = raw if isinstance(raw, dict) else {}
    return {
        "input_tokens": _count(usage.get("prompt_tokens")),
        "output_tokens": _count(usage.get("completion_tokens")),
    }


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _malformed(said: str) -> Failed:
    return Failed("malformed_result", said)
