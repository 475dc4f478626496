"""An OpenAI-compatible server: chat completions, with faults by address (`faults.py`).

    python -m tests.servers.model_server PORT [JOURNAL_FILE]

It repeats the last message, counts words as tokens and obeys `max_tokens`. `say:` in the last message is a completion given
word by word, as JSON: `say:{"message": {...}, "model": "...", "finish_reason": "...", "logprob": -0.5}` replaces these parts.
With `stream` it says the same in parts, a word each; `chop:TEXT` in the last message is repeated in parts of three characters.
`GET /told` says what the last requests told which model.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from aiohttp import web

from tests.servers.faults import FaultyServer, Journal
from tests.servers.tool_server import serve

TOLD = 3
"""Requests that `GET /told` shows."""


def completion(body: object) -> dict[str, object]:
    """The answer to a request's body."""
    asked = cast("dict[str, object]", body)
    messages = cast("list[dict[str, str]]", asked["messages"])
    last = messages[-1]["content"]
    told = json.loads(last[4:]) if last.startswith("say:") else {}
    bound = int(cast("int", asked.get("max_tokens") or asked.get("max_completion_tokens") or 1_000))
    last = last.removeprefix("chop:")
    words = last.split()
    cut = len(words) > bound
    answer: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": asked["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " ".join(words[:bound])},
                "finish_reason": "length" if cut else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": sum(len(m["content"].split()) for m in messages),
            "completion_tokens": min(bound, len(words)),
            "total_tokens": 0,
        },
    }
    choice = cast("list[dict[str, object]]", answer["choices"])[0]
    choice.update({k: v for k, v in told.items() if k in ("message", "finish_reason")})
    if asked.get("logprobs"):
        sure = told.get("logprob", -0.1)
        choice["logprobs"] = {"content": [{"token": word, "logprob": sure} for word in words]}
    answer.update({k: v for k, v in told.items() if k in ("model", "usage", "choices")})
    return answer


def parts(answer: object, body: object) -> list[object]:
    """A completion as the chunks of a stream: text by words, arguments of tool calls by four characters."""
    whole = cast("dict[str, Any]", answer)
    asked = cast("dict[str, Any]", body)
    head = {
        "id": whole["id"],
        "object": "chat.completion.chunk",
        "created": whole["created"],
        "model": whole["model"],
    }
    choice = whole["choices"][0]
    message, logs = choice["message"], (choice.get("logprobs") or {}).get("content") or []
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}]
    chopped = str(asked["messages"][-1]["content"]).startswith("chop:") if asked.get("messages") else False
    words = re.findall(r".{1,3}" if chopped else r"\S+\s*", message.get("content") or "", re.DOTALL)
    deltas += [{"content": word} for word in words]
    if message.get("refusal"):
        deltas.append({"refusal": message["refusal"]})
    for index, call in enumerate(message.get("tool_calls") or []):
        function = call["function"]
        begun = {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": function["name"], "arguments": ""},
        }
        deltas.append({"tool_calls": [begun]})
        text = function["arguments"]
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 4]}}]}
            for at in range(0, len(text), 4)
        ]
    found: list[object] = []
    for at, delta in enumerate(deltas):
        said: dict[str, object] = {"index": 0, "delta": delta, "finish_reason": None}
        if 0 < at <= len(logs):
            said["logprobs"] = {"content": [logs[at - 1]]}
        found.append({**head, "choices": [said]})
    found.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if (asked.get("stream_options") or {}).get("include_usage"):
        found.append({**head, "choices": [], "usage": whole["usage"]})
    return found


def model_server(journal: Journal | None = None) -> FaultyServer:
    """The server."""

    async def answer(_: web.Request, body: object) -> object:
        return completion(body)

    server = FaultyServer(answer, journal=journal, parts=parts)

    async def told(_: web.Request) -> web.Response:
        last = [cast("dict[str, Any]", body) for body in list(server.journal.bodies)[-TOLD:]]
        lines = [f"{body['model']} was told: {body['messages'][0]['content']}".strip() for body in last]
        return web.Response(text="\n".join(lines) + "\n")

    server.app.router.add_get("/told", told)
    return server


if __name__ == "__main__":
    serve(model_server)
