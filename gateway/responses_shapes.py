"""Shapes of OpenAI's Responses API: an answer, and the items of its output. Never decides. Next: `responses.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from sluicegate.gateway.openai_shapes import calls_of, usage_of
from sluicegate.streams.sdk.json import Json

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reason of a completion's end -> why a response is incomplete."""


def finished(response: Mapping[str, object], answer: dict[str, Json]) -> dict[str, object]:
    """A response with its answer."""
    ident = str(response["id"]).removeprefix("resp_")
    output = []
    calls = calls_of(answer)
    if answer.get("text") or not calls:
        output.append(message_item(f"msg_{ident}", str(answer.get("text") or "")))
    for index, call in enumerate(calls):
        function = cast("dict[str, str]", call["function"])
        output.append(
            call_item(f"fc_{ident}_{index}", str(call["id"]), function["name"], function["arguments"])
        )
    why = INCOMPLETE.get(str(answer.get("finish_reason")))
    counted = usage_of(answer)
    return {
        **response, "status": "incomplete" if why else "completed", "incomplete_details": {"reason": why} if why else None,
        "model": answer.get("served_model") or response["model"], "output": output,
        "usage": {
            "input_tokens": counted["prompt_tokens"], "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": counted["completion_tokens"], "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counted["total_tokens"],
        },
    }  # fmt: skip


def message_item(ident: str, text: str | None) -> dict[str, object]:
    """A message of the output; None: it begins."""
    content = (
        [] if text is None else [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    )
    status = "in_progress" if text is None else "completed"
    return {"id": ident, "type": "message", "role": "assistant", "status": status, "content": content}


def call_item(ident: str, call_id: str, name: str, arguments: str | None) -> dict[str, object]:
    """A function call of the output; None: it begins."""
    status = "in_progress" if arguments is None else "completed"
    return {
        "id": ident, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments or "", "status": status,
    }  # fmt: skip
