"""The life of an intent, as one table.

    routed ▸ permitted ▸ validated ▸ dispatched ▸ claimed ▸ released | withheld | failed
       │        │          ├─ released | withheld, by the cache
       └────────┴──────────┴─ refused      └ expired   ├ parked ▸ parked | released | withheld | failed | in_doubt
                                                       └ in_doubt ▸ resolved | parked | released | withheld | failed
                 └ held ▸ held | permitted | refused | expired

An intent's state is the status of its last outcome. `ledger verify`, the ClickHouse view `intents` and the
docs are generated from this module; nothing else says what may follow what. It never looks at time or content.
Next: `pipeline.py` (who emits these), `state.py` (who folds them).
"""

from __future__ import annotations

DECIDED_TERMINAL = ("refused", "expired", "voided")
"""Ended without an execution."""

EXECUTED_TERMINAL = ("released", "withheld", "failed", "resolved")
"""Ended after an execution."""

OPEN = ("held", "waiting", "dispatched", "claimed", "parked", "in_doubt")
"""Waits for a person, another partition, an executor, a tool, or the truth."""

PASSING = ("routed", "permitted", "validated")
"""Between two stages of one pass: no committed intent rests here."""

ATTACHED = "noted"
"""Attaches to an intent in any state and changes nothing: a duplicate, a conflict, a late receipt."""

START = ""
"""The state of an intent the ledger has not seen."""

TERMINAL = frozenset(DECIDED_TERMINAL + EXECUTED_TERMINAL)

_ENDS = ("released", "withheld", "failed")

TABLE: dict[str, tuple[str, ...]] = {
    START: ("routed", "refused"),
    "routed": ("permitted", "held", "refused"),
    "permitted": ("validated", "held", "refused"),
    # `held` after plug-ins were asked: one of them wants a person. The ends without an offer: the cache answered.
    "validated": ("dispatched", "waiting", "held", "refused", "released", "withheld"),
    # `held` again: one approval of several, an edit, or what is asked now differs from what was shown.
    "held": ("held", "permitted", "refused", "expired", "voided"),
    "waiting": ("validated", "dispatched", "refused", "expired", "voided", "released", "withheld"),
    # `dispatched` again: the offer's lease ran out unclaimed, and it is offered anew.
    # The ends without a claim: a read-only call, which may repeat, needs none.
    # `in_doubt`: an earlier offer was claimed, and this one nobody took up in time.
    # `waiting`: a model named a time before which it must not be asked again.
    "dispatched": ("claimed", "dispatched", "waiting", "parked", "in_doubt", "expired", "voided", *_ENDS),
    # `dispatched` after a claim: only for classes whose call may be repeated (DESIGN §5.4).
    "claimed": ("dispatched", "parked", "in_doubt", *_ENDS),
    # `dispatched` after a lookup that found no trace of the call.
    "parked": ("parked", "dispatched", "in_doubt", *_ENDS),
    "in_doubt": ("resolved", "parked", *_ENDS),
}
"""State -> the statuses that may follow. Terminal states have no row: nothing ends an intent twice."""

# Statuses of ledger records that are no step of an intent's life.
OTHER = (
    "genesis",
    "opened",
    "delegated",
    "heard",
    "closed",
    "unreadable",
    "session_refused",
    "recorded",
    "resumed",
    "restored",
    "scored",
    "sealed",
    "imported",
)


def follow(state: str, status: str) -> str | None:
    """The state after `status`, or None when the table forbids it."""
    if status == ATTACHED:
        return state
    return status if status in TABLE.get(state, ()) else None


def is_terminal(state: str) -> bool:
    """Whether nothing may follow but attachments."""
    return state in TERMINAL
