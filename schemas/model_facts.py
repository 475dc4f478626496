"""The facts of routed and of streamed model calls: what other calls say, and which candidate, why, how sure, how shown.

Each begins with the fields of the facts it stands for, so whoever reads those reads these. A call that no route and no
prompt touches keeps the plain ones, byte for byte. Everybody imports them from `records.py`. Next: `facts.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypeVar

from sluicegate.schemas.facts import PlanFacts, ResultFacts, StageFacts

Wider = TypeVar("Wider")


def widen(wider: Callable[..., Wider], facts: object, **more: object) -> Wider:
    """The facts with what only a model call says; `wider` is one of the classes below."""
    return wider(**{f.name: getattr(facts, f.name) for f in fields(facts)}, **more)  # type: ignore[arg-type]


@dataclass(slots=True)
class ChoiceFacts(StageFacts):
    """A stage's word on a model call: all candidates in the order they would be asked, and what it is told."""

    candidates: list[str] = field(default_factory=list)
    scores: list[int] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)
    prompt: str = ""
    prompt_digest: bytes = b""
    unversioned: bool = False


@dataclass(slots=True)
class AttemptFacts(PlanFacts):
    """An attempt of a routed call: who is asked now, why, and who failed before."""

    candidate: str = ""
    why: str = ""
    tried: list[str] = field(default_factory=list)
    aimed: int = 0
    repair: int = -1


@dataclass(slots=True)
class AnswerFacts(ResultFacts):
    """The end of a model call: who answered, and how sure it was."""

    candidate: str = ""
    served_model: str = ""
    input_tokens: int = -1
    output_tokens: int = -1
    confidence: int = -1


@dataclass(slots=True)
class StreamFacts(AttemptFacts):
    """An attempt of a model call whose answer is to be streamed: how, and which message it stands for."""

    mode: str = ""
    replaces: str = ""
    replaced_digest: bytes = b""
    replaced_pieces: int = 0


@dataclass(slots=True)
class StreamedFacts(AnswerFacts):
    """The end of a model call whose answer was to be streamed: what left before it ended."""

    mode: str = ""
    message: str = ""
    pieces: int = 0
    streamed: bytes = b""
    same: bool = False
