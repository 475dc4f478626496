"""What an OpenAI-compatible server says, in one shape: a completion, or the kind of its refusal.

A completion that breaks its promises is malformed: no choice, arguments of a tool call that are no JSON object or do not fit the
tool's parameters, JSON mode without JSON, a schema that was asked for and does not fit. Never guesses what was meant and
repairs nothing: the ledger asks once more (`processors/models/attempts.py`). Next: `model.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn, cast

import jsonschema_rs
import orjson
from sluicegate.executors.adapter import ErrorClass, Failed
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


REFUSALS: dict[str, ErrorClass] = {
    "rate_limit": "rate_limit", "quota": "rate_limit", "overload": "overload", "timeout": "timeout",
    "context_length": "context_length", "content_policy": "content_policy", "authentication": "authentication",
    "server_error": "server_error",
}  # fmt: skip
"""Kind of a refusal -> error class of the receipt; anything else was refused."""
SAID_CHARS = 300
"""Of a validator's words."""


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


def normalised(
    body: bytes, asked: Mapping[str, object], most: int = MAX_RESULT_BYTES
) -> dict[str, object] | Failed:
    """{text, tool_calls, finish_reason, served_model, usage} of a completion's bytes, and `confidence` where the request
    asked for log probabilities. `asked`: the request."""
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
    wrong = _unfit_arguments(calls, asked.get("tools"))
    if not wrong and not calls and finish == "stop" and not message.get("refusal"):
        wrong = _unfit_text(text, asked.get("response_format"))
    if wrong:
        return _malformed(wrong)
    served = value.get("model")
    answer: dict[str, object] = {
        "text": text,
        "tool_calls": calls,
        "finish_reason": finish if isinstance(finish, str) else "",
        "served_model": served if isinstance(served, str) else "",
        "usage": _usage(value.get("usage")),
    }
    if asked.get("logprobs"):
        answer["confidence"] = _confidence(choices[0].get("logprobs"))
    size = len(orjson.dumps(answer))
    if size > most:
        return Failed("result_too_large", f"the completion has {size} bytes, the limit is {most}")
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


def _confidence(raw: object) -> float | None:
    """The mean probability of the answer's tokens; None where the server does not say it of every one."""
    tokens = raw.get("content") if isinstance(raw, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    logs = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    if not all(isinstance(log, int | float) and not isinstance(log, bool) and log <= 0 for log in logs):
        return None
    return round(sum(math.exp(cast(float, log)) for log in logs) / len(logs), 3)


def _unfit_text(text: str, form: object) -> str:
    """Why a text is not of the form that was asked for, or an empty text."""
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in ("json_object", "json_schema"):
        return ""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return "json was asked for, and the text is none"
    if kind == "json_object":
        return "" if isinstance(value, dict) else "a json object was asked for, and the text is none"
    named = cast("dict[str, object]", form).get("json_schema")
    wrong = _misfit(named.get("schema") if isinstance(named, dict) else None, value)
    return f"the text does not fit the schema that was asked for: {wrong}" if wrong else ""


def _unfit_arguments(calls: list[dict[str, object]], tools: object) -> str:
    """The first tool call that the request's own tools do not allow, or an empty text."""
    schemas: dict[object, object] = {}
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict):
            schemas[function.get("name")] = function.get("parameters")
    for call in calls if schemas else ():
        if call["name"] not in schemas:
            return f"it calls `{str(call['name'])[:60]}`, which is not one of the tools"
        if wrong := _misfit(schemas[call["name"]], call["arguments"]):
            return f"the arguments of `{str(call['name'])[:60]}` do not fit its parameters: {wrong}"
    return ""


def _misfit(schema: object, value: object) -> str:
    """What speaks against a value, in a line; empty when it fits, or when the schema is none that can be read."""
    if not isinstance(schema, dict):
        return ""
    try:
        # Schemas are the agent's: no address in them is followed, and their patterns take linear time.
        validator = jsonschema_rs.validator_for(
            schema, retriever=_nowhere, pattern_options=jsonschema_rs.RegexOptions()
        )
        error = next(iter(validator.iter_errors(value)), None)
    except (ValueError, jsonschema_rs.ValidationError):
        return ""
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.instance_path)
    return f"`{where or 'value'}`: {error.message[:SAID_CHARS]}"


def _nowhere(uri: str) -> NoReturn:
    raise ValueError(f"`{uri[:80]}` is not followed")


def _malformed(said: str) -> Failed:
    return Failed("malformed_result", said)
