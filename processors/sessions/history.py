"""History: what a session did before, in the form policies read it (`context.session`).

Counts, sums and order of the calls that were dispatched, and the labels of what was released. Only what the slice's
policies mention is passed: Cedar reads every byte of a context, and that is the largest part of a decision.
Never changes a session. Pure. Next: `state.py` (who folds it), `authorize.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.labels import CONFIDENTIALITY, INTEGRITY, names_of, worst
from sluicegate.processors.policy.mentions import Json, Mentions
from sluicegate.processors.state import Session

UNITS = 10_000
"""A sum's 1 is so many of the state's units: Cedar's decimal has four places."""


def session_context(session: Session, mentions: Mentions) -> dict[str, Json]:
    """`context.session` of one request: the fields its policies mention."""
    return {name: _FIELDS[name](session, mentions) for name in mentions.session}


def _since(session: Session, name: str) -> int:
    used = session.last_used.get(name)
    return -1 if used is None else session.dispatched - used


def _last(session: Session) -> str:
    used = session.last_used
    return max(used, key=used.__getitem__) if used else ""


_FIELDS: dict[str, Callable[[Session, Mentions], Json]] = {
    "calls": lambda s, m: s.calls,
    "user_messages": lambda s, m: s.user_messages,
    "origin": lambda s, m: s.origin,
    "integrity": lambda s, m: INTEGRITY[worst(s.integrity)],
    "confidentiality": lambda s, m: CONFIDENTIALITY[s.confidentiality],
    "labels": lambda s, m: names_of(s.integrity),
    "tools": lambda s, m: list(s.counts),
    "last": lambda s, m: _last(s),
    "counts": lambda s, m: {name: s.counts.get(name, 0) for name in m.counts},
    "since": lambda s, m: {name: _since(s, name) for name in m.since},
    "sums": lambda s, m: {name: _decimal(s.sums.get(name, 0)) for name in m.sums},
}


def measure(amount: object) -> int:
    """A number in the state's units, rounded towards zero; 0 for anything else."""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return 0
    return int(amount * UNITS) if isinstance(amount, int) else round(amount * UNITS)


def _decimal(units: int) -> Json:
    sign, units = ("-", -units) if units < 0 else ("", units)
    return {"__extn": {"fn": "decimal", "arg": f"{sign}{units // UNITS}.{units % UNITS:04}"}}
