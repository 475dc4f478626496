"""A request of OpenAI's Responses API as the arguments of a model call, and what of it is not served here.

Nothing is left out silently that would change the answer: what cannot be passed on is refused by its name.
Pure: never calls anything. Next: `responses.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from aiohttp import web
from sluicegate.gateway.problems import problem
from sluicegate.streams.sdk.json import Json

MAX_ITEMS = 2_000
"""Of one input; its bytes are bounded anyway."""
PASSED = ("temperature", "top_p", "parallel_tool_calls")
"""Options with the same name and meaning."""
BOOKS = frozenset(
    (
        "model", "input", "instructions", "tools", "tool_choice", "max_output_tokens", "text", "reasoning", "stream", *PASSED,
        "stream_options", "store", "metadata", "user", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "include",
    )
)  # fmt: skip
"""What is understood here, or is for OpenAI's own books and changes no answer."""
_NEUTRAL: dict[str, tuple[Json, ...]] = {
    "background": (False,), "truncation": ("disabled",), "top_logprobs": (0,), "n": (1,), "max_tool_calls": (),
}  # fmt: skip
"""Options that are taken at these values only, which are their defaults."""
WHY = {
    "previous_response_id": "responses are not kept here: send the whole conversation as `input`",
    "conversation": "conversations are not kept here: send the whole conversation as `input`",
    "prompt": "stored prompts are the release's: name one by a route or by `prompt` of /v1/intents",
    "background": "answers come while you wait: ask /v1/intents with `wait: false` for the others",
}

Item = Mapping[str, Json]


def refusal(name: str, why: str = "") -> web.HTTPException:
    """What says that a part of the request is not served."""
    message = why or f"`{name[:80]}` is not served here: leave it out"
    return problem(400, "unsupported", message, param=name[:80], type="invalid_request_error")


def arguments_of(body: Mapping[str, Json]) -> dict[str, Json]:
    """The arguments of the model call. Raises a problem."""
    for name, value in body.items():
        if name not in BOOKS and value is not None and value not in _NEUTRAL.get(name, ()):
            raise refusal(name, WHY.get(name, ""))
    found: dict[str, Json] = {"messages": messages_of(body.get("instructions"), body.get("input", ""))}
    for name in PASSED:
        if body.get(name) is not None:
            found[name] = body[name]
    if body.get("max_output_tokens") is not None:
        found["max_tokens"] = body["max_output_tokens"]
    tools = [_tool(tool) for tool in _listed(body.get("tools") or [], "tools")]
    if tools:
        found["tools"] = cast(Json, tools)
        if body.get("tool_choice") is not None:
            found["tool_choice"] = _choice(body["tool_choice"])
    effort = _object(body.get("reasoning") or {}, "reasoning").get("effort")
    if effort is not None:
        found["reasoning_effort"] = effort
    form = _object(_object(body.get("text") or {}, "text").get("format") or {}, "text.format")
    if form.get("type", "text") != "text":
        found["response_format"] = _format(form)
    return found


def messages_of(instructions: Json, given: Json) -> list[Json]:
    """Messages of a chat completion. Raises a problem."""
    messages: list[dict[str, Json]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": _text(instructions, "instructions")})
    if isinstance(given, str):
        return cast("list[Json]", [*messages, {"role": "user", "content": given}])
    items = _listed(given, "input")
    if len(items) > MAX_ITEMS:
        raise refusal("input", f"`input` has more than {MAX_ITEMS} items")
    for item in items:
        kind = item.get("type") or "message"
        make = _ITEMS.get(str(kind))
        if make is None:
            raise refusal(f"input item {kind}")
        make(item, messages)
    return cast("list[Json]", messages)


def _message(item: Item, messages: list[dict[str, Json]]) -> None:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise refusal("input.role", "a message's `role` is user, assistant, system or developer")
    content = item.get("content")
    parts = content if isinstance(content, str) else [_part(p) for p in _listed(content, "input.content")]
    if isinstance(parts, list) and all(p["type"] == "text" for p in parts):
        parts = "\n".join(str(p["text"]) for p in parts)
    messages.append({"role": "system" if role == "developer" else role, "content": cast(Json, parts)})


def _part(part: Item) -> dict[str, Json]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": _text(part.get("text"), "input.content.text")}
    if kind == "refusal":
        return {"type": "text", "text": _text(part.get("refusal"), "input.content.refusal")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return {
            "type": "image_url",
            "image_url": {"url": part["image_url"], "detail": part.get("detail") or "auto"},
        }
    raise refusal(f"input content {kind}")


def _call(item: Item, messages: list[dict[str, Json]]) -> None:
    call: dict[str, Json] = {
        "id": _text(item.get("call_id"), "input.call_id"), "type": "function",
        "function": {"name": _text(item.get("name"), "input.name"), "arguments": _text(item.get("arguments"), "input.arguments")},
    }  # fmt: skip
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    calls = messages[-1].setdefault("tool_calls", [])
    cast("list[Json]", calls).append(call)


def _output(item: Item, messages: list[dict[str, Json]]) -> None:
    output = item.get("output")
    if not isinstance(output, str):
        parts = [_part(p) for p in _listed(output, "input.output")]
        if any(p["type"] != "text" for p in parts):
            raise refusal("input.output", "the output of a function is text here")
        output = "\n".join(str(p["text"]) for p in parts)
    messages.append(
        {"role": "tool", "tool_call_id": _text(item.get("call_id"), "input.call_id"), "content": output}
    )


def _nothing(item: Item, messages: list[dict[str, Json]]) -> None:
    """Reasoning of before: it was OpenAI's own, and no other model reads it."""


_ITEMS: dict[str, Callable[[Item, list[dict[str, Json]]], None]] = {
    "message": _message, "function_call": _call, "function_call_output": _output, "reasoning": _nothing,
}  # fmt: skip


def _tool(tool: Item) -> dict[str, Json]:
    kind = tool.get("type")
    if kind != "function":
        why = f"tool `{str(kind)[:40]}` runs at the provider, where nothing is decided: pass a function, or a tool of the release"
        raise refusal("tools", why)
    function: dict[str, Json] = {"name": _text(tool.get("name"), "tools.name")}
    for name in ("description", "parameters", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _choice(choice: Json) -> Json:
    if isinstance(choice, str):
        return choice
    named = _object(choice, "tool_choice")
    if named.get("type") != "function":
        raise refusal("tool_choice")
    return {"type": "function", "function": {"name": _text(named.get("name"), "tool_choice.name")}}


def _format(form: Item) -> Json:
    if form.get("type") == "json_object":
        return {"type": "json_object"}
    if form.get("type") != "json_schema":
        raise refusal("text.format")
    schema = {
        name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None
    }
    return {"type": "json_schema", "json_schema": schema}


def _listed(value: Json, name: str) -> list[Item]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise refusal(name, f"`{name}` must be a list of objects")
    return cast("list[Item]", value)


def _object(value: Json, name: str) -> Item:
    if not isinstance(value, dict):
        raise refusal(name, f"`{name}` must be an object")
    return value


def _text(value: Json, name: str) -> str:
    if not isinstance(value, str):
        raise refusal(name, f"`{name}` must be a text")
    return value
