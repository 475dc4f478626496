"""What a control event about releases would change, before it is written: who is decided under what, before and after.

Made by the fold and by `release_for`, the two that decide it live. Knows no session by itself: they are given. Pure.
Next: `control/deployments.py`, `streams/commands/rollback_release.py` (who shows it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sluicegate.processors.control.control import Control, perform
from sluicegate.processors.control.deployments import release_for

if TYPE_CHECKING:
    from sluicegate.processors.sessions.session import Session


class Move(NamedTuple):
    """One line. `sessions`: how many open ones it is about; 0 where it is about those to come, or a release."""

    what: str
    which: str
    before: str
    after: str
    sessions: int = 0


def after_it(control: Control, kind: str, body: dict[str, object], who: str, at: int) -> Control:
    """Control as this event would leave it."""
    new = replace(control, head=control.head + 1, at=max(control.at, at))
    perform(new, kind, body, who)
    return new


def moves(before: Control, after: Control, sessions: Iterable[Session]) -> list[Move]:
    """What is otherwise afterwards: new sessions, the canary's arm, open sessions by agent, releases that end, open proposals."""
    found = []
    if before.deployed != after.deployed:
        found.append(Move("new sessions", "all but pinned", before.deployed, after.deployed))
    canary = before.canary
    if canary is not None and after.canary is None:
        share = f"{canary.weight_bp / 100:g} % canary"
        found.append(Move("new sessions", share, canary.digest, after.deployed))
    # INVARIANT: what is said is what the sessions are decided under then (tests/unit/test_release_moves.py).
    moved = Counter(
        (one.agent_id, *under)
        for one in sessions
        if len(set(under := [release_for(c, one.agent_id, one.session_id, one) for c in (before, after)])) > 1
    )
    found += [Move("open sessions", f"agent {a}", b, c, n) for (a, b, c), n in sorted(moved.items())]
    ended = sorted(after.withdrawn.keys() - before.withdrawn.keys())
    found += [
        Move("release", digest, "deployed" if digest == before.deployed else "was deployed", "withdrawn")
        for digest in ended
    ]
    void = [seq for seq in before.changes if after.moved > before.moved]
    return found + [Move("proposed change", str(seq), "waits", "void") for seq in sorted(void)]
