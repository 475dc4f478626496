"""Records as they stand in a ledger, and how it is told that deciding anew made others. Decides nothing.

Next: `replay/rederive.py` (who decides again), `replay/selection.py` (which inputs count).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.verify.reading import Parts
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

Opener = Callable[[str, bytes, bytes], bytes | None]
"""(subject, event_id, sealed) -> content, or None when it was erased."""


@dataclass(slots=True)
class Event:
    """One ledger record, decoded."""

    offset: int
    header: r.Header
    header_bytes: bytes
    facts: object
    facts_bytes: bytes
    sealed: bytes | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the ledger and deciding anew part: one input's first difference."""

    partition: int
    seq: int
    offset: int
    input: str
    intent_id: str
    field: str
    recorded: str
    remade: str


def explain(event: Event, outcome: Outcome, remade: Parts) -> Difference:
    """Where a record and the outcome that was made now part, told by the first field that differs."""
    mine = codec.decode_as(r.Header, remade.header)
    for f in fields(r.Header):
        ours, theirs = getattr(event.header, f.name), getattr(mine, f.name)
        if ours != theirs and f.name not in ("facts_hash", "content_commitment"):
            return difference_at(event, f.name, ours, theirs)
    if type(event.facts) is not type(outcome.facts):
        return difference_at(event, "facts", type(event.facts).__name__, type(outcome.facts).__name__)
    for f in fields(outcome.facts):  # type: ignore[arg-type]
        ours, theirs = getattr(event.facts, f.name), getattr(outcome.facts, f.name)
        if ours != theirs:
            return difference_at(event, f"facts.{f.name}", ours, theirs)
    return difference_at(event, "content", event.header.content_commitment, mine.content_commitment)


def difference_at(event: Event, name: str, recorded: object, remade: object) -> Difference:
    """A difference in one field."""
    h = event.header
    place = f"{h.input_topic}/{h.input_partition}/{h.input_offset}"
    return Difference(
        h.partition, h.seq, event.offset, place, h.intent_id, name, _shown(recorded), _shown(remade)
    )


def _shown(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 200 else text[:200] + "…"
