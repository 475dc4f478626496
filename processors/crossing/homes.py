"""Homes: what a partition keeps about resources that several partitions share, and what is due about them. The fold.

A home (`team:x`, `tenant:y`, `tool:z`, `cache:k`) lives at murmur2(its name) mod N. Partitions speak through exchanges
(`crossing/exchanges.py`); each one taken is an outcome of the stage `transfer`, and its facts are folded here, by the kind's first
word. An alarm is a deadline that belongs to no intent: a tick is made of it when no intent is due before.
Folds only, and from facts only. Next: `crossing/exchanges.py` (who decides), `state.py` (who calls this).
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.budget.fold import fold_call, fold_exchange
from sluicegate.processors.crossing.alarms import forget, remember, set_alarm
from sluicegate.processors.entries import PartitionState
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.records import ExchangeFacts

TRANSFER = "transfer"
"""The stage of outcomes about exchanges and alarms."""

DROPPED = "alarm.dropped"
"""An alarm that broke the machinery: it must not come back at once."""

FOLDS: dict[str, Callable[[PartitionState, Outcome], None]] = {"budget": fold_exchange}
"""First word of an exchange's or alarm's kind -> the fold of what was taken."""

REMEMBERED_US = 600_000_000
"""How long an exchange is remembered at most; its handler must bear it again after that. Kafka's transactions bring each
once, so this is a second guard; it bounds `seen` by the rate: 800 exchanges/s of one partition fill it (`MAX_SEEN`)."""


def fold(state: PartitionState, outcome: Outcome) -> None:
    """Fold one outcome about a home."""
    STAGES[outcome.stage](state, outcome)


def _fold_exchange(state: PartitionState, outcome: Outcome) -> None:
    facts = outcome.facts
    if type(facts) is not ExchangeFacts:
        return
    forget(state)
    if facts.kind == DROPPED:
        set_alarm(state, facts.home, 0)
        return
    if outcome.reason:
        return  # it was not acted on
    if any(facts.exchange_id):
        # INVARIANT: neither a grant nor a result that lives for days is remembered as long (tests/unit/test_seams.py).
        latest = state.now + REMEMBERED_US
        remember(state, facts.exchange_id, min(facts.deadline_at or latest, latest))
    step = FOLDS.get(facts.kind.partition(".")[0])
    if step is not None:
        step(state, outcome)


STAGES: dict[str, Callable[[PartitionState, Outcome], None]] = {
    TRANSFER: _fold_exchange,
    "budget": fold_call,
}
"""Stage -> the fold of its outcomes. They are `noted`: they change no intent's life."""
