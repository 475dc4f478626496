"""History: what a session did before, in the form policies read it (`context.session`).

Counts, sums and order of the calls that were dispatched, and the labels of what was released. Only names that the
slice's policies mention are passed: a context of sixty tools would cost more than the decision.
Never changes a session. Pure. Next: `state.py` (who folds it), `authorize.py`.
"""

from __future__ import annotations

from sluicegate.processors.cedar import Json, Mentions
from sluicegate.processors.labels import CONFIDENTIALITY, INTEGRITY, names_of, worst
from sluicegate.processors.state import Session

UNITS = 10_000
"""A sum's 1 is so many of the state's units: Cedar's decimal has four places."""


def session_context(session: Session, mentions: Mentions) -> dict[str, Json]:
    """`context.session` of one request."""
    used = session.last_used
    context: dict[str, Json] = {
        "calls": session.calls,
        "user_messages": session.user_messages,
        "origin": session.origin,
        "integrity": INTEGRITY[worst(session.integrity)],
        "confidentiality": CONFIDENTIALITY[session.confidentiality],
        "labels": names_of(session.integrity),
        "tools": list(session.counts),
        "last": max(used, key=used.__getitem__) if used else "",
    }
    if mentions.counts:
        context["counts"] = {name: session.counts.get(name, 0) for name in mentions.counts}
    if mentions.since:
        context["since"] = {
            name: session.dispatched - used[name] if name in used else -1 for name in mentions.since
        }
    if mentions.sums:
        context["sums"] = {name: _decimal(session.sums.get(name, 0)) for name in mentions.sums}
    return context


def measure(amount: object) -> int:
    """A number in the state's units, rounded towards zero; 0 for anything else."""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return 0
    return int(amount * UNITS) if isinstance(amount, int) else round(amount * UNITS)


def _decimal(units: int) -> Json:
    sign, units = ("-", -units) if units < 0 else ("", units)
    return {"__extn": {"fn": "decimal", "arg": f"{sign}{units // UNITS}.{units % UNITS:04}"}}
