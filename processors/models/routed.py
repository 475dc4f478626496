"""Routed: what the state remembers of a routed model call, folded from its outcomes.

`ChoiceFacts` say who may be asked, `AttemptFacts` who is and who failed before, `AnswerFacts` who answered; failures and answers
move the candidates' health. Never decides anything. Next: `models/aims.py` (who reads this), `models/health.py`, `state.py`.
"""

from __future__ import annotations

from sluicegate.processors.entries import OpenIntent, PartitionState
from sluicegate.processors.models import health
from sluicegate.processors.models.routes import may_be_asked
from sluicegate.schemas.records import AnswerFacts, AttemptFacts, ChoiceFacts, StreamFacts

CLASSES = {
    "timeout": "timeout", "rate_limit": "rate_limit", "overload": "overload", "context_length": "context_length",
    "content_policy": "content_policy", "authentication": "authentication", "malformed_result": "malformed_output",
    "model_changed": "model_changed", "server_error": "server_error", "unreachable": "server_error",
    "tool_broke": "server_error", "crashed": "server_error", "egress_denied": "server_error",
}  # fmt: skip
"""Error class of a receipt -> class of `model_routes.ERROR_CLASSES`; anything else is `refused`."""


def class_of(error_class: str) -> str:
    """The class of a failed receipt; empty for no error."""
    return CLASSES.get(error_class, "refused") if error_class else ""


def fold(
    state: PartitionState, entry: OpenIntent, facts: ChoiceFacts | AttemptFacts | AnswerFacts, now: int
) -> None:
    """Fold one outcome of a routed call. `now`: when it was decided."""
    if type(facts) is ChoiceFacts:
        rows = zip(facts.candidates, facts.standing, strict=True)
        entry.routes = tuple(name for name, standing in rows if may_be_asked(standing))
    elif isinstance(facts, AttemptFacts):
        if len(facts.tried) > len(entry.tried):
            name, _, failure = facts.tried[-1].rpartition(" ")
            health.note(state.health, name, failure, 0, now)
        entry.candidate, entry.tried = facts.candidate, tuple(facts.tried)
        entry.aimed, entry.repair = facts.aimed, facts.repair
        if type(facts) is StreamFacts:
            entry.stream, entry.shown = facts.mode, facts.replaces
    elif isinstance(facts, AnswerFacts) and facts.candidate:
        # A result that a guardrail withholds is an answer all the same.
        failure = class_of(facts.error_class) if facts.error_class in CLASSES else ""
        if failure or facts.served_model:
            health.note(state.health, facts.candidate, failure, facts.finished_at - facts.started_at, now)
