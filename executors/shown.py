"""What of a model's answer is shown while it is made: past the secrets, past the gate, into a message.

Never shows a secret of the call, however it is spread over chunks: what could be the beginning of one is held back until it is
known. Counts what was shown, so that its digest can be told. Next: `outlet.py`, `processors/models/stream_gate.py`.
"""

from __future__ import annotations

from typing import cast

import orjson
from sluicegate.executors.adapter import Streamed
from sluicegate.executors.model_chunks import Added
from sluicegate.executors.outlet import Message
from sluicegate.executors.secret_refs import HIDDEN, forms
from sluicegate.processors.conform import Json
from sluicegate.processors.models.stream_gate import StreamGate
from sluicegate.processors.models.streaming import message_digest


class Scrubber:
    """One text on its way. What comes out, put together, is the text with its secrets hidden, however it was cut."""

    def __init__(self, secrets: list[str]) -> None:
        self._forms = sorted({f for s in secrets for f in forms(s)}, key=len, reverse=True)
        self._held = ""

    def feed(self, more: str) -> str:
        """What is safe to show now."""
        text = self._held + more
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        keep = max((_overlap(text, form) for form in self._forms), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, form: str) -> int:
    """How many characters at the end of a text are the beginning of `form`."""
    return next((n for n in range(min(len(form) - 1, len(text)), 0, -1) if text.endswith(form[:n])), 0)


class Shown:
    """One answer as its reader sees it. `gate`: None for the mode `open`."""

    def __init__(self, message: Message | None, secrets: list[str], gate: StreamGate | None) -> None:
        self._message, self._gate, self._secrets = message, gate, secrets
        self._text = Scrubber(secrets)
        self._calls: dict[int, Scrubber] = {}
        self._begun = False
        self._told: list[str] = []
        self._told_calls: list[list[str]] = []

    def begin(self, model: str) -> None:
        """The model is known to be the one that may answer."""
        if self._message is not None and not self._begun:
            self._begun = True
            self._message.start(model)

    def add(self, added: Added) -> None:
        """More of the answer. Tool calls pass a gate whole, at the end."""
        if added.index < 0:
            text = self._text.feed(added.text)
            self._tell(self._gate.feed(text) if self._gate is not None else text)
        elif self._gate is None:
            scrub = self._calls.setdefault(added.index, Scrubber(self._secrets))
            self._call(added.index, added.call_id, added.name, scrub.feed(added.text))

    def finish(self, result: bytes) -> None:
        """The answer is whole."""
        if self._gate is None:
            self._tell(self._text.rest())
            for index, scrub in self._calls.items():
                self._call(index, "", "", scrub.rest())
            return
        rest, calls = self._gate.finish(cast("dict[str, Json]", orjson.loads(result)))
        self._tell(rest)
        for index, call in enumerate(calls):
            arguments = orjson.dumps(call.get("arguments")).decode()
            self._call(index, str(call.get("id", "")), str(call.get("name", "")), arguments)

    async def close(self, *, whole: bool) -> Streamed | None:
        """The last piece, and what the receipt says; None when nothing was shown."""
        if self._message is None or not self._begun:
            return None
        calls = [(name, _parsed(arguments)) for name, arguments in self._told_calls]
        digest = message_digest("".join(self._told), calls)
        await self._message.close(digest if whole else b"")
        return Streamed(self._message.name, self._message.pieces, digest)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self._message is not None:
            self._message.abandon()

    def _tell(self, text: str) -> None:
        if text and self._message is not None:
            self._told.append(text)
            self._message.text(text)

    def _call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        if self._message is None or not (call_id or name or arguments):
            return
        while len(self._told_calls) <= index:
            self._told_calls.append(["", ""])
        self._told_calls[index][0] += name
        self._told_calls[index][1] += arguments
        self._message.call(index, call_id, name, arguments)


def _parsed(arguments: str) -> Json:
    """As `model_answer.py` reads them: none are an empty object; what broke off stays its text."""
    try:
        return cast(Json, orjson.loads(arguments or "{}"))
    except orjson.JSONDecodeError:
        return arguments
