"""An OpenAI-compatible server: chat completions, with faults by address (`faults.py`).

    python -m tests.servers.model_server PORT [JOURNAL_FILE]

It repeats the last message, counts words as tokens and obeys `max_tokens`. `say:` in the last message is a completion given
word by word, as JSON: `say:{"message": {...}, "model": "...", "finish_reason": "...", "logprob": -0.5}` replaces these parts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

from aiohttp import web

from tests.servers.faults import FaultyServer, Journal


def completion(body: object) -> dict[str, object]:
    """The answer to a request's body."""
    asked = cast("dict[str, object]", body)
    messages = cast("list[dict[str, str]]", asked["messages"])
    last = messages[-1]["content"]
    told = json.loads(last[4:]) if last.startswith("say:") else {}
    bound = int(cast("int", asked.get("max_tokens") or asked.get("max_completion_tokens") or 1_000))
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


def model_server(journal: Journal | None = None) -> FaultyServer:
    """The server."""

    async def answer(_: web.Request, body: object) -> object:
        return completion(body)

    return FaultyServer(answer, journal=journal)


if __name__ == "__main__":
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    web.run_app(model_server(Journal(path=place)).app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
