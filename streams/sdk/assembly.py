"""Assembly: pieces as they come in, and at the end the released answer, into what the caller of `stream_model` is shown.

    Started      a message begins; `replaces` names the one shown before it, which is void now
    Text         more of its text
    ToolCall     more of a tool call: its name and id first, then arguments as JSON text
    Ended        the released answer, always the last

Pieces may be lost, doubled, late, or of an attempt that was given up; what is shown stays a message that began at its beginning
and has no hole. INVARIANT: from the last `Started` on, what was shown is, put together, exactly the released answer
(tests/properties/test_streams.py): what is missing at the end is shown then, and what differs is begun anew.
Pure: never waits, never reads a topic. Next: `sdk/stream.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import orjson
from sluicegate.processors.models.streaming import message_digest
from sluicegate.schemas.kinds import BUFFERED
from sluicegate.schemas.records import Piece
from sluicegate.streams.sdk.json import Json
from sluicegate.streams.sdk.replies import Held

MAX_CALLS = 128
"""Tool calls of one message, as executors bound them."""
MAX_MESSAGE_CHARS = 262_144
"""Of one message: four times what a result may have; beyond, only the reply counts."""


@dataclass(frozen=True, slots=True)
class Started:
    """A message begins.

    Attributes:
        message: its name; empty for an answer that comes whole.
        model: who answers, as its server names it; empty when it does not.
        mode: `buffered`, `gated` or `open`; what is open was looked at by nobody yet.
        replaces: the name of the message that was shown before and is void now; empty when there was none.
    """

    message: str
    model: str
    mode: str
    attempt: int = 0
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """More of a tool call. `arguments`: JSON text to be put behind what came before for this `index`."""

    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer, released.

    Attributes:
        result: as `call_model` returns it; `Held` when a person has to agree first.
        matched: what had been shown is the beginning of it, or all of it. Else it was shown again, from its beginning.
    """

    result: Json | Held
    matched: bool


Part = Started | Text | ToolCall | Ended


@dataclass(slots=True)
class _Call:
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Assembly:
    """One answer at its reader's side."""

    _message: str = ""
    _attempt: int = 0
    _next: int = 0
    _broken: bool = False
    _ended: bool = False
    _text: list[str] = field(default_factory=list)
    _calls: list[_Call] = field(default_factory=list)
    _chars: int = 0
    _void: set[str] = field(default_factory=set)
    _any: bool = False

    def take(self, piece: Piece) -> list[Part]:
        """What one piece adds to what is shown."""
        if piece.kind == "start" and piece.number == 0:
            return self._start(piece)
        if piece.message != self._message or piece.number < self._next or self._broken or self._ended:
            return []  # of another attempt, doubled, or behind a hole
        if piece.number > self._next:
            self._broken = True  # nothing fills it but the reply
            return []
        self._next += 1
        self._chars += len(piece.text)
        if self._chars > MAX_MESSAGE_CHARS:
            self._broken = True
            return []
        if piece.kind == "text" and piece.text:
            self._text.append(piece.text)
            return [Text(piece.text)]
        if piece.kind == "call":
            return self._call(piece)
        if piece.kind == "end":
            self._ended = True
        return []

    def _start(self, piece: Piece) -> list[Part]:
        if piece.message == self._message or piece.message in self._void or piece.attempt < self._attempt:
            return []
        before = self._message
        if before:
            self._void.add(before)
        self._begin(piece.message, piece.attempt)
        self._next = 1
        return [Started(piece.message, piece.model, piece.mode, piece.attempt, before)]

    def _begin(self, message: str, attempt: int) -> None:
        self._message, self._attempt, self._any = message, attempt, True
        self._text, self._calls, self._chars = [], [], 0
        self._broken = self._ended = False

    def _call(self, piece: Piece) -> list[Part]:
        if not 0 <= piece.index <= len(self._calls) or piece.index >= MAX_CALLS:
            self._broken = True
            return []
        if piece.index == len(self._calls):
            self._calls.append(_Call())
        call = self._calls[piece.index]
        call.call_id, call.name = call.call_id or piece.call_id, call.name or piece.name
        call.arguments += piece.text
        return [ToolCall(piece.index, piece.call_id, piece.name, piece.text)]

    @property
    def digest(self) -> bytes:
        """Of the message as it is shown."""
        return message_digest("".join(self._text), [(c.name, _parsed(c.arguments)) for c in self._calls])

    def end(self, result: Json) -> list[Part]:
        """The rest of what is to be shown, and the end."""
        answer = result if isinstance(result, dict) else {}
        text = cast(str, answer.get("text")) if isinstance(answer.get("text"), str) else ""
        listed = answer.get("tool_calls")
        calls = [_released(c) for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
        matched = self._is_beginning_of(text, calls)
        parts: list[Part] = []
        if not matched or not self._any:
            model = answer.get("served_model")
            parts.append(Started("", str(model or ""), BUFFERED, 0, self._message))
            self._begin("", self._attempt)
        shown = "".join(self._text)
        if len(text) > len(shown):
            parts.append(Text(text[len(shown) :]))
        for index, call in enumerate(calls[len(self._calls) :], len(self._calls)):
            parts.append(ToolCall(index, call.call_id, call.name, call.arguments))
        self._text, self._calls = [text], calls
        return [*parts, Ended(result, matched)]

    def _is_beginning_of(self, text: str, calls: list[_Call]) -> bool:
        if not text.startswith("".join(self._text)) or len(self._calls) > len(calls):
            return False
        pairs = zip(self._calls, calls, strict=False)
        return all(a.name == b.name and _parsed(a.arguments) == _parsed(b.arguments) for a, b in pairs)


def _released(call: dict[str, Json]) -> _Call:
    arguments = orjson.dumps(call.get("arguments")).decode()
    return _Call(str(call.get("id") or ""), str(call.get("name") or ""), arguments)


def _parsed(arguments: str) -> Json:
    try:
        return cast(Json, orjson.loads(arguments or "{}"))
    except orjson.JSONDecodeError:
        return arguments
