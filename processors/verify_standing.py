"""Which release may stand in the header of an outcome: what `ledger verify` knows of sessions for that.

The draw of a session that opens is made again, so a session in the wrong arm is found. For later inputs it is found
whether the release is the session's or the environment's; which of the two is found by deciding again (`rederive.py`).
Never folds a state. Next: `verify.py` (who asks), `deployments.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sluicegate.processors.control import Control
from sluicegate.processors.deployments import release_for
from sluicegate.processors.reading import Head, Rest


@dataclass(frozen=True, slots=True)
class _Standing:
    release: str
    opened_head: int


class Standings:
    """Sessions of one partition, about 250 bytes each while they are open."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], _Standing] = {}

    def allowed(self, control: Control, head: Head, rest: Rest) -> tuple[str, ...]:
        """The releases that an input's outcomes may name, and what its session stands on from now on."""
        key = (rest.agent_id, rest.session_id)
        if (head.stage, head.status) == ("session", "opened"):
            # INVARIANT: a session begins in the arm that its hash says (tests/unit/test_deployments.py::test_verify_draws_again).
            self._sessions[key] = _Standing(rest.release, rest.control_head)
            return (release_for(control, *key, None),)
        known = self._sessions.get(key)
        if (head.stage, head.status) == ("session", "closed"):
            self._sessions.pop(key, None)
        return (control.deployed,) if known is None else (control.deployed, release_for(control, *key, known))
