"""What tests of streams share: an outlet in memory, a gate from files, and what a reader makes of parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson
from sluicegate.executors.outlet import KafkaMessage, Message
from sluicegate.processors.conform import Json
from sluicegate.processors.models.stream_gate import StreamGate
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas.records import Dispatch, Piece
from sluicegate.streams.sdk.assembly import Part, Started, Text, ToolCall


@dataclass
class MemoryOutlet:
    """`Outlet` whose pieces end in a list. `takes`: False while Kafka is away; `on_piece`: called with each."""

    pieces: list[Piece] = field(default_factory=list)
    takes: bool = True
    failing: bool = False

    def open(self, dispatch: Dispatch) -> Message | None:
        return KafkaMessage(dispatch, self._send, lambda: 1) if self.takes else None

    async def _send(self, pieces: list[Piece]) -> None:
        if self.failing:
            raise TimeoutError("kafka is away")
        self.pieces += pieces

    @property
    def text(self) -> str:
        """All the text, of whatever message."""
        return "".join(p.text for p in self.pieces if p.kind == "text")

    @property
    def kinds(self) -> list[str]:
        return [p.kind for p in self.pieces]


@dataclass
class OneGate:
    """`Gates` of one release."""

    release: CompiledRelease | None

    async def gate(self, dispatch: Dispatch, limit_s: float) -> StreamGate | None:
        around: dict[str, Json] = orjson.loads(dispatch.around or b"{}")
        return StreamGate(self.release, dispatch.tool, around) if self.release is not None else None


@dataclass
class Screen:
    """A reader that shows what it is told: a new message clears what stood there."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)

    def show(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if isinstance(part, Started):
                assert part.replaces == (self.started[-1].message if self.started else ""), (
                    "an old one is not named"
                )
                self.started.append(part)
                self.text, self.calls = "", []
            elif isinstance(part, Text):
                assert self.started, "text before any message"
                self.text += part.text
            elif isinstance(part, ToolCall):
                if part.index == len(self.calls):
                    self.calls.append(("", ""))
                name, arguments = self.calls[part.index]
                self.calls[part.index] = (name + part.name, arguments + part.arguments)
