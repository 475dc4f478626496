"""Changes that several people must agree to before they are control's: proposed, agreed, and only then folded.

    change.proposed {kind, body, quorum, expires_at} ▸ change.agreed {change, digest} by another person ▸ the event itself
                                                     └ change.withdrawn {change}, expired, or overtaken

`@quorum("2")` on a permit of `control.cedar` asks for it (`control/policy.py`). What is agreed to is the exact body, by its digest,
on control as it was when it was proposed: any later event about releases voids it, and whoever agrees is told to look
again. Everybody who agreed must still be permitted when the last one does. Time is control's own. Pure.
Next: `control/control.py` (the fold), `streams/control/changes.py` (who writes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import rfc8785
from sluicegate.processors.approval.holds import MAX_HOLD_US, MAX_QUORUM
from sluicegate.processors.control.policy import GOVERNED, asked
from sluicegate.processors.control.registry import GUARDING

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

PROPOSED, AGREED, WITHDRAWN = "change.proposed", "change.agreed", "change.withdrawn"
KINDS = (PROPOSED, AGREED, WITHDRAWN)

MAX_CHANGES = 100
"""Open at once, at most 4 kB each but for registrations: those that ended make room, a further one is not folded."""


@dataclass(frozen=True, slots=True)
class Change:
    """A proposed control event.

    Attributes:
        seq: the control event that proposed it; its name.
        agreed: who agreed, the proposer first.
        expires_at: microseconds, by control's time.
    """

    seq: int
    kind: str
    body: Mapping[str, object]
    who: str
    quorum: int
    expires_at: int
    agreed: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What exactly is agreed to."""
        return digest_of(self.kind, self.body)


def digest_of(kind: str, body: Mapping[str, object]) -> str:
    """sha256 of an event that is not written yet."""
    return hashlib.sha256(rfc8785.dumps({"kind": kind, "body": dict(body)})).hexdigest()  # type: ignore[arg-type]


def ended(control: Control, change: Change, now: int) -> str:
    """Why nobody can agree to it any more, or an empty string. `now` in microseconds, at least control's time."""
    if now >= change.expires_at:
        return "it expired"
    # INVARIANT: nobody agrees to a change of what has changed since (tests/unit/test_changes.py).
    if control.moved > change.seq:
        return f"control event {control.moved} changed which release decides since: look, and propose it anew"
    return ""


def may_agree(control: Control, change: Change, who: str, now: int) -> str:
    """Empty when this person's word would count now, else the reason in words."""
    if reason := ended(control, change, now):
        return reason
    if who in change.agreed:
        return f"`{who}` agreed already, it takes another person"
    if who not in control.people:
        return f"`{who}` is no registered person, register them with `sluicegate people register`"
    return asked(control, who, change.kind, change.body).reason


def propose(new: Control, body: Body, who: str) -> None:
    """`change.proposed`: kept when the proposer may do it and asks for at least as many people as the policy."""
    kind, inner = str(body["kind"]), cast("Body", body["body"])
    quorum, expires_at = cast(int, body["quorum"]), cast(int, body["expires_at"])
    answer = asked(new, who, kind, inner)
    # Of these a proposal counts where a policy asks for two only: ledgers of before it could fold as they did.
    if kind in GUARDING and answer.quorum < 2:
        return
    if kind not in GOVERNED or answer.reason or not max(2, answer.quorum) <= quorum <= MAX_QUORUM:
        return
    if not new.at < expires_at <= new.at + min(answer.expires_us, MAX_HOLD_US):
        return
    live = {seq: c for seq, c in new.changes.items() if not ended(new, c, new.at)}
    if len(live) < MAX_CHANGES:
        live[new.head] = Change(new.head, kind, inner, who, quorum, expires_at, (who,))
    new.changes = live


def agree(new: Control, body: Body, who: str) -> Change | None:
    """`change.agreed`: the change when everybody it takes has agreed now, else None."""
    change = new.changes.get(cast(int, body["change"]))
    if change is None or body["digest"] != change.digest or may_agree(new, change, who, new.at):
        return None
    change = replace(change, agreed=(*change.agreed, who))
    answers = [asked(new, person, change.kind, change.body) for person in change.agreed]
    # INVARIANT: who agreed and may not any more does not count (tests/unit/test_changes.py).
    standing = [p for p, a in zip(change.agreed, answers, strict=True) if not a.reason and p in new.people]
    needed = max(change.quorum, *(a.quorum for a in answers))
    if len(standing) < needed:
        new.changes = {**new.changes, change.seq: change}
        return None
    new.changes = {seq: c for seq, c in new.changes.items() if seq != change.seq}
    return change


def withdraw(new: Control, body: Body, who: str) -> None:
    """`change.withdrawn`: by whoever proposed it or may agree to it."""
    seq = cast(int, body["change"])
    change = new.changes.get(seq)
    if change is not None and (who == change.who or not asked(new, who, change.kind, change.body).reason):
        new.changes = {s: c for s, c in new.changes.items() if s != seq}
