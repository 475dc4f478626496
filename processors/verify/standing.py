"""Which release may stand in the header of an outcome: what `ledger verify` knows of sessions for that.

The draw of a session that opens is made again, so a session in the wrong arm is found. For later inputs it is found
whether the release is the session's or the environment's; which of the two is found by deciding again (`replay/rederive.py`).
Never folds a state. Next: `verify/partition.py` (who asks), `control/deployments.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.processors.approval.holds import MAX_HOLD_US
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import release_for
from sluicegate.processors.verify.reading import Rest

CLOSED_KEPT_US = 3 * MAX_HOLD_US
"""A closed session still decides for the calls that people hold: as long as those may be held, plug-ins' holds included."""


@dataclass(frozen=True, slots=True)
class _Standing:
    release: str
    opened_head: int
    closed_at: int = 0


class Standings:
    """Sessions of one partition, about 250 bytes each while they are open, and three days more."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], _Standing] = {}
        self._closed: dict[tuple[str, str], _Standing] = {}
        """Those closed first come first."""

    def allowed(self, control: Control, stage: str, status: str, rest: Rest) -> tuple[str, ...]:
        """The releases that an input's outcomes may name, and what its session stands on from now on."""
        key = (rest.agent_id, rest.session_id)
        if (stage, status) == ("session", "opened"):
            # INVARIANT: a session begins in the arm that its hash says (tests/unit/test_deployments.py::test_verify_draws_again).
            self._sessions[key] = _Standing(rest.release, rest.control_head)
            return (release_for(control, *key, None),)
        # Calls that people hold go on under a session that was closed, whose id nobody opens again before they end.
        known = self._sessions.get(key) or self._closed.get(key)
        if (stage, status) == ("session", "closed"):
            self._close(key, rest.decided_at)
        # None: one that is refused was about to open, and stood in the arm it was drawn into.
        return (control.deployed, *(release_for(control, *key, one) for one in (known, None)))

    def begin(self, key: tuple[str, str], release: str, opened_head: int) -> None:
        """A session that was open when its state was imported."""
        self._sessions[key] = _Standing(release, opened_head)

    def ended(self, key: tuple[str, str], release: str, at: int) -> None:
        """One that was closed then."""
        self._closed[key] = _Standing(release, -1, at)

    def _close(self, key: tuple[str, str], now: int) -> None:
        known = self._sessions.pop(key, None)
        if known is None:
            return
        self._closed.pop(key, None)
        self._closed[key] = _Standing(known.release, known.opened_head, now)
        while self._closed[old := next(iter(self._closed))].closed_at <= now - CLOSED_KEPT_US:
            del self._closed[old]
