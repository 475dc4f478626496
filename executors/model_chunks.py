"""The chunks of a streamed chat completion: what each adds, and the whole completion at the end.

    {"model": "...", "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": null}], "usage": null}

What they add up to has the shape of a completion that was not streamed, so that one reader (`model_answer.py`) judges both.
Never guesses: what is no chunk is malformed, and a stream that ends before a `finish_reason` broke off. Next: `model_stream.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
from sluicegate.executors.adapter import Failed
from sluicegate.executors.model_answer import MAX_TOOL_CALLS, REFUSALS, refusal_kind
from sluicegate.executors.secret_refs import redact
from sluicegate.schemas.topics import MAX_RESULT_BYTES

DONE = b"[DONE]"
MAX_TOKENS_SAID = 65_536
"""Log probabilities kept of one answer: a token has a byte or more, and an answer 64 kB."""


@dataclass(slots=True)
class Added:
    """What a chunk adds: `text`, or to the tool call at `index` some arguments, its id and its name."""

    text: str = ""
    index: int = -1
    call_id: str = ""
    name: str = ""


@dataclass(slots=True)
class _Call:
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Chunks:
    """One answer. `secrets` are cut out of every chunk; what is spread over several, `model_stream.py` finds.

    Attributes:
        model: as the server names it, empty until it does.
        finished: why the answer ended, empty until it did.
        over: whether nothing else comes.
    """

    def __init__(self, secrets: list[str]) -> None:
        self.model = ""
        self.finished = ""
        self.over = False
        self._secrets = secrets
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._usage: object = None
        self._logs: list[object] = []
        self._size = 0

    def take(self, data: bytes) -> list[Added] | Failed:
        """What one event adds."""
        if data == DONE:
            self.over = True
            return []
        data = redact(data, self._secrets)
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return Failed("malformed_result", "a chunk of the stream is not json")
        if not isinstance(value, dict):
            return Failed("malformed_result", "a chunk of the stream is no object")
        if value.get("error"):
            kind = refusal_kind(500, data)
            said = value["error"].get("message") if isinstance(value["error"], dict) else ""
            return Failed(REFUSALS.get(kind, "server_error"), f"{kind} in the stream: {str(said)[:200]}")
        if isinstance(value.get("model"), str) and value["model"]:
            self.model = value["model"]
        self._usage = value.get("usage") or self._usage
        choices = value.get("choices") or []
        if not isinstance(choices, list) or len(choices) > 1:
            return Failed("malformed_result", "a chunk of the stream has no choices, or several")
        return self._choice(choices[0]) if choices else []

    def _choice(self, choice: object) -> list[Added] | Failed:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(delta, dict):
            return Failed("malformed_result", "a chunk of the stream has no delta")
        if isinstance(choice.get("finish_reason"), str):
            self.finished = choice["finish_reason"]
        logs = choice.get("logprobs")
        if isinstance(logs, dict) and isinstance(logs.get("content"), list):
            self._logs += logs["content"][: MAX_TOKENS_SAID - len(self._logs)]
        found: list[Added] = []
        for name, kept in (("content", self._text), ("refusal", self._refusal)):
            text = delta.get(name)
            if text is None or text == "":
                continue
            if not isinstance(text, str):
                return Failed("malformed_result", "the text of a chunk is no text")
            kept.append(text)
            found.append(Added(text))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            added = self._call(call)
            if isinstance(added, Failed):
                return added
            found.append(added)
        self._size += sum(len(a.text.encode()) + len(a.name) for a in found)
        if self._size > MAX_RESULT_BYTES:
            return Failed("result_too_large", f"the completion has more than {MAX_RESULT_BYTES} bytes")
        return found

    def _call(self, raw: object) -> Added | Failed:
        index = raw.get("index") if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not isinstance(index, int) or not 0 <= index <= len(self._calls):
            return Failed(
                "malformed_result", "a tool call of the stream stands at no place that could be used"
            )
        if index == len(self._calls):
            if index >= MAX_TOOL_CALLS:
                return Failed("malformed_result", f"the stream has more than {MAX_TOOL_CALLS} tool calls")
            self._calls.append(_Call())
        call, function = self._calls[index], raw.get("function")
        function = function if isinstance(function, dict) else {}
        added = Added("", index)
        if isinstance(raw.get("id"), str) and not call.call_id:
            call.call_id = added.call_id = raw["id"]
        if isinstance(function.get("name"), str) and not call.name:
            call.name = added.name = function["name"]
        if isinstance(function.get("arguments"), str):
            added.text = function["arguments"]
            call.arguments.append(added.text)
        return added

    def completion(self) -> bytes:
        """The whole of it, as a completion that was not streamed."""
        message: dict[str, object] = {"role": "assistant", "content": "".join(self._text) or None}
        if self._refusal:
            message["refusal"] = "".join(self._refusal)
        if self._calls:
            message["tool_calls"] = list(self._rows())
        choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": self.finished}
        if self._logs:
            choice["logprobs"] = {"content": self._logs}
        whole = {"model": self.model, "choices": [choice], "usage": self._usage}
        return redact(orjson.dumps(whole), self._secrets)

    def _rows(self) -> Iterator[dict[str, object]]:
        for call in self._calls:
            function = {"name": call.name, "arguments": "".join(call.arguments)}
            yield {"id": call.call_id, "type": "function", "function": function}
