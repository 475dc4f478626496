"""The kill switch: which agents, tools, sessions and releases are stopped, by `quarantine.added` and `quarantine.lifted`.

Asked by `route.py` (new calls), `redecide.py` (second offers and approvals) and by executors just before a claim and a
call. What was begun is not undone, and its result is still taken. Pure. Next: `control/control.py` (who folds),
`executors/verifier.py` (the executor's side).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from sluicegate.processors.control.orders import stands_above

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

AGENT, TOOL, SESSION, RELEASE = "agent", "tool", "session", "release"
SCOPES = (AGENT, TOOL, SESSION, RELEASE)
"""A session is named by its id alone: sessions of several agents under one id are all stopped."""

REASON: Final = "quarantined"

MAX_QUARANTINES = 10_000
"""At a time in one control ledger, about 1 kB each with its reason: 10 MB. More are not folded; stop the release."""

WHY_CHARS = 500

Quarantines = Mapping[tuple[str, str], str]
"""(scope, id) -> why."""


def quarantined(
    control: Control, agent_id: str, tool: str, session_id: str, release: str, intent_id: str = ""
) -> str:
    """What stops this call, with the reason an operator gave; an empty text when nothing does.

    `intent_id`: asked for a call, which an operator may have ordered to take another one back (`control/orders.py`).
    """
    stopped = control.quarantines
    if not stopped:
        return ""
    for place in ((AGENT, agent_id), (TOOL, tool), (SESSION, session_id), (RELEASE, release)):
        why = stopped.get(place)
        if why is None:
            continue
        # INVARIANT: what is ordered goes on above older quarantines, and nothing else (tests/unit/test_orders.py).
        if not stands_above(control.orders, agent_id, tool, intent_id, place):
            return f"{place[0]} `{place[1][:80]}` is quarantined" + (f": {why}" if why else "")
    return ""


def with_quarantine(stopped: Quarantines, scope: str, value: str, why: str) -> dict[tuple[str, str], str]:
    """The map after one `quarantine.added`. One of another form changes nothing."""
    new = dict(stopped)
    if scope in SCOPES and value and ((scope, value) in new or len(new) < MAX_QUARANTINES):
        new[scope, value] = why[:WHY_CHARS]
    return new


def without(stopped: Quarantines, scope: str, value: str) -> dict[tuple[str, str], str]:
    """The map after one `quarantine.lifted`."""
    return {place: why for place, why in stopped.items() if place != (scope, value)}
