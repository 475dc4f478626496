"""Offering: what is between a call that passed every stage and its dispatch.

Every call takes this road once nobody has to be asked any more: one that passed at once, one that people approved, one
that plug-ins let pass, one that waited for a grant or a pause, and every further attempt of a routed model call. Never looks
at what a call means; each step is a module of its own: True goes on, False means that it answered the call itself (a hit,
a refusal, or it waits). The candidate of a routed call is known before the first step. Next: `models/aims.py`, `plan.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.budget.budgets import reserve
from sluicegate.processors.cache import cache
from sluicegate.processors.models.aims import aim
from sluicegate.processors.plan import plan
from sluicegate.processors.work import Work, emit, reply
from sluicegate.schemas.records import StageFacts

STEPS: tuple[tuple[str, Callable[[Work], bool]], ...] = (("cache", cache.answer), ("grant", reserve))
"""In order. The name is what an intent awaits when the step made it wait."""


def proceed(work: Work, attempt: int = 1) -> None:
    """Offer the call to executors, or answer it before. `attempt`: of a routed call that failed before, the next one."""
    work.attempt = attempt
    proceed_from(work, "")


def proceed_from(work: Work, step: str) -> None:
    """Go on at a step; an empty name begins with the first."""
    if not aim(work):
        outcome = emit(work, "plan", "refused", StageFacts("no candidate is left"), "no_route")
        reply(work, outcome)
        return
    if work.decision.needs:
        return
    names = [name for name, _ in STEPS]
    for _, function in STEPS[names.index(step) if step else 0 :]:
        if not function(work):
            return
    plan(work, work.attempt)
