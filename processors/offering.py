"""Offering: what is between a call that passed every stage and its dispatch.

Every call takes this road once nobody has to be asked any more: one that passed at once, one that people approved, one
that plug-ins let pass. Never looks at what a call means; each step is a module of its own. Next: `plan.py`.
"""

from __future__ import annotations

from sluicegate.processors.plan import plan
from sluicegate.processors.work import Work


def proceed(work: Work) -> None:
    """Offer the call to executors."""
    plan(work)
