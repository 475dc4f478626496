"""Holds: what a policy asks of people before a call may run, from its annotations.

    @hold("why")                on a permit: permits after people agreed; on a forbid: forbids until they did
    @quorum("2")                how many different people, 1 when absent
    @reviewers("role-a role-b") who may agree: a person with one of these roles, any registered person when absent
    @expires("4h")              how long it waits: a number and `s`, `m`, `h` or `d`; 24h when absent

Several policies that hold one call are merged to the strictest. Never evaluates a policy and never looks at a call.
Next: `approval/approvals.py` (a call is held, and goes on), `approval/reviews.py` (a person's word), `authorize.py` (who asks here).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from sluicegate.schemas.errors import Terminal

if TYPE_CHECKING:
    from sluicegate.processors.policy.cedar import Policy

HOLD, QUORUM, REVIEWERS, EXPIRES = "hold", "quorum", "reviewers", "expires"
"""The annotations' names."""

DEFAULT_WHY = "a policy asks for a person's agreement"

MAX_QUORUM = 10
"""People one call may need: 10 ids of at most 256 characters, under 3 kB in an open intent's state."""

MAX_REVIEWER_ROLES = 20
"""Roles named in one `@reviewers`: under 6 kB in an open intent's state."""

MAX_ROLE_CHARS = 256

MAX_HOLD_US = 24 * 3_600 * 1_000_000
"""The longest a call waits for people, and how long it does when nobody says: after a day the session that asked
is closed by the fold (`state.SESSION_IDLE_US`), and a call of no session is not run."""

MIN_HOLD_US = 1_000_000

_UNIT_US = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_SPAN = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hold:
    """What is asked of people.

    Attributes:
        why: shown to them; of several policies, joined by `; `.
        policies: ids of the policies that hold, sorted.
        quorum: different people who must agree, 1 to `MAX_QUORUM`.
        reviewers: roles, sorted; a person with any of them may agree. Empty: any registered person.
        expires_us: from the hold on, in microseconds.
        impossible: the policies name reviewers without a common role, so nobody could ever agree.
    """

    why: str
    policies: tuple[str, ...]
    quorum: int = 1
    reviewers: tuple[str, ...] = ()
    expires_us: int = MAX_HOLD_US
    impossible: bool = False


def parse_hold(policy_id: str, annotations: Mapping[str, str]) -> Hold | None:
    """The hold one policy asks for, or None. Raises `Terminal` for an annotation that says nothing usable."""
    why = annotations.get(HOLD)
    if why is None:
        stray = sorted({QUORUM, REVIEWERS, EXPIRES} & set(annotations))
        if stray:
            raise Terminal(f'policy `{policy_id}` has @{stray[0]} without @hold, add @hold("why")')
        return None
    return Hold(
        why or DEFAULT_WHY,
        (policy_id,),
        _quorum(policy_id, annotations.get(QUORUM)),
        _roles(policy_id, annotations.get(REVIEWERS)),
        _span(policy_id, annotations.get(EXPIRES)),
    )


def hold_of(policies: Sequence[Policy]) -> Hold | None:
    """What the holding ones among these policies ask for together: the largest quorum, the common reviewers, the
    shortest expiry. None when none of them holds. Raises `Terminal` where `parse_hold` does, which a compiled
    release never leads to (`policy/files.py`)."""
    found = [h for p in policies if (h := parse_hold(p.policy_id, p.annotations)) is not None]
    if not found:
        return None
    found.sort(key=lambda h: h.policies)
    return reduce(stricter, found)


UNDER_REVIEW = "under_review"
"""Stands for a policy's id where an agent is under review (`drift/alarm_events.py`)."""


def under_review(why: str) -> Hold:
    """What is asked for every call of an agent under review: any registered person's agreement."""
    return Hold(f"the agent is under review: {why}" if why else "the agent is under review", (UNDER_REVIEW,))


def stricter(one: Hold, other: Hold) -> Hold:
    """What both ask for together."""
    common = set(one.reviewers) & set(other.reviewers)
    either = set(one.reviewers) | set(other.reviewers)
    both = bool(one.reviewers and other.reviewers)
    return Hold(
        "; ".join(dict.fromkeys((*one.why.split("; "), *other.why.split("; ")))),
        tuple(sorted({*one.policies, *other.policies})),
        max(one.quorum, other.quorum),
        tuple(sorted(common if both else either)),
        min(one.expires_us, other.expires_us),
        one.impossible or other.impossible or (both and not common),
    )


def _quorum(policy_id: str, text: str | None) -> int:
    if text is None:
        return 1
    count = int(text) if _COUNT.fullmatch(text) else 0
    if not 1 <= count <= MAX_QUORUM:
        raise Terminal(f"policy `{policy_id}` has @quorum(`{text}`), give a number from 1 to {MAX_QUORUM}")
    return count


def _roles(policy_id: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    roles = tuple(sorted(set(text.split())))
    if not 0 < len(roles) <= MAX_REVIEWER_ROLES or any(
        len(r) > MAX_ROLE_CHARS or not r.isprintable() for r in roles
    ):
        raise Terminal(
            f"policy `{policy_id}` has @reviewers(`{text[:80]}`), name 1 to {MAX_REVIEWER_ROLES} roles with spaces between"
        )
    return roles


def _span(policy_id: str, text: str | None) -> int:
    if text is None:
        return MAX_HOLD_US
    match = _SPAN.fullmatch(text)
    span_us = int(match[1]) * _UNIT_US[match[2]] if match else 0
    if not MIN_HOLD_US <= span_us <= MAX_HOLD_US:
        raise Terminal(f"policy `{policy_id}` has @expires(`{text}`), give a time from `1s` to `24h`")
    return span_us
