"""What one input comes to with an event and without it, held against each other.

Small questions about one input's outcomes. Never decides anything. Next: `replay/counterfactual.py`, who asks.
"""

from __future__ import annotations

from collections.abc import Sequence

from sluicegate.processors.memory.cells import SHARED
from sluicegate.processors.outcomes import Outcome, intent_key
from sluicegate.processors.replay.diff import Answer, course
from sluicegate.processors.replay.recorded import Event
from sluicegate.schemas import records as r
from sluicegate.schemas.kinds import MEMORY

NOTHING = Answer("nothing", "", "", ())
"""What an input comes to that is not there."""

WRITES = ("write", "append", "forget")
"""What changes a remembered value."""

NONE = b"-"
"""The id of an input that is neither an exchange nor a hand-off."""


def key_in(h: r.Header) -> bytes:
    """The key of the intent a record belongs to."""
    return intent_key(h.tenant, h.agent_id, h.intent_id)


def sent_id(event: Event) -> bytes:
    """The id of the exchange or hand-off that this input is, or `NONE`."""
    if event.header.input_topic != "transfers":
        return NONE
    if isinstance(event.facts, r.ExchangeFacts):
        return event.facts.exchange_id
    try:
        return bytes.fromhex(event.header.intent_id) or NONE
    except ValueError:  # unreadable bytes have no id
        return NONE


def seen(group: Sequence[Event]) -> bool:
    """Whether an agent saw something of this input: a result, a refusal, what a user said, or a session's goal."""
    return any(
        e.header.status in ("released", "resolved", "heard", "opened", "refused", "withheld", "failed")
        for e in group
    )


def taken_back_by(group: Sequence[Event]) -> str:
    """What takes back what this input had executed, in the words of `NotMade.back`."""
    offers = [e.facts for e in group if e.header.status == "dispatched" and isinstance(e.facts, r.PlanFacts)]
    if not offers or offers[-1].executor != MEMORY:
        return "call"
    done = [e.facts for e in group if isinstance(e.facts, r.MemoryFacts | r.CellFacts)]
    if not done or done[-1].op not in WRITES:
        return ""
    return "shared" if done[-1].scope.startswith(SHARED) else "agent"


def differs(recorded: Sequence[Outcome], made: Sequence[Outcome], topic: str) -> str:
    """In what an input comes out otherwise, or an empty text."""
    if course(recorded) != course(made):
        return "approval" if topic == "reviews" else "decision"
    return "memory" if _memory(recorded) != _memory(made) else ""


def _memory(outcomes: Sequence[Outcome]) -> list[tuple[str, bytes, bytes]]:
    """What was read or written. The version is a count: without the event it is another one, the value the same."""
    found = [o.facts for o in outcomes if isinstance(o.facts, r.MemoryFacts | r.CellFacts)]
    return [(f.op, f.cell, f.value_digest) for f in found]
