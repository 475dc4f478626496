"""Recall as a release writes it, and compiled: which earlier results the guardrails of a call may look at.

    recall:                                           # in release.yaml
      reservation:                                    # a rule writes `seen.reservation.cabin`
        tools: [airline.get_reservation_details, "airline.update_*"]
        where: {"$.reservation_id": reservation_id}   # what stands there in the result is this argument of the call
        take: newest                                  # or all: a list, oldest first

Never looks at a result. Next: `guardrails/recall.py` (who does), `guardrails/rules.py` (how rules name it).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from sluicegate.processors.guardrails.recipes import steps_of
from sluicegate.schemas.errors import Terminal

MAX_RECALLS = 32
"""Names in one release."""


class Recall(BaseModel):
    """One name of `recall` in `release.yaml`."""

    model_config = ConfigDict(extra="forbid")
    tools: list[str] = Field(min_length=1, max_length=100)
    where: dict[str, str] = {}
    take: Literal["newest", "all"] = "newest"


@dataclass(frozen=True, slots=True)
class Recalled:
    """A compiled `Recall`. `where`: steps into the result, path of the argument it must equal."""

    name: str
    tools: frozenset[str]
    where: tuple[tuple[tuple[str, ...], str], ...]
    every: bool


def compile_recalls(recalls: dict[str, Recall], tools: Iterable[str]) -> dict[str, Recalled]:
    """Compile. Raises `Terminal` with the name."""
    if len(recalls) > MAX_RECALLS:
        raise Terminal(f"`release.yaml` recalls {len(recalls)} names, at most {MAX_RECALLS} are taken")
    known = sorted(tools)
    found: dict[str, Recalled] = {}
    for name, recall in recalls.items():
        if not name.isidentifier():
            raise Terminal(f"recall `{name}` cannot be written as `seen.{name}`, use letters, digits and `_`")
        chosen = frozenset(t for t in known if any(fnmatchcase(t, pattern) for pattern in recall.tools))
        if not chosen:
            raise Terminal(
                f"recall `{name}` is of `{', '.join(recall.tools)}`, and no contract has such a name"
            )
        where = tuple((tuple(steps_of(path)), argument) for path, argument in sorted(recall.where.items()))
        found[name] = Recalled(name, chosen, where, recall.take == "all")
    return found
