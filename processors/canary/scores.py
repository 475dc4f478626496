"""Sessions of a canary as scores: what of the ledger's outcomes counts, one bounded number a session and metric.

    failure      a call failed or was in doubt when the session closed
    refusal      a call was refused, but for what only one of the two releases forbids
    withheld     a call's result was withheld, with the same exception
    ungrounded   a call was refused because a value stood nowhere
    cost         money spent, of `clip`
    quality      the first score that people or an evaluator gave (its own item, when it came)

The first four are 0 or 1, or where the rules say so the share of the session's calls; all in hundredths. A session counts when it opened while the canary drew, in the arm it was
drawn into; what an operator pinned or paused is left out. Read in ledger order of each partition, from ClickHouse or the
ledger alike. Pure; never compares arms. Next: `canary/judge.py`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sluicegate.processors.canary.rules import COST, FAILURE, QUALITY, REFUSAL, UNGROUNDED, WITHHELD
from sluicegate.processors.control.deployments import WHOLE_BP, Canary
from sluicegate.processors.releases.release import CompiledRelease

CANARY, CONTROL = ARMS = ("canary", "control")

STEPS = ("routed", "refused", "failed", "withheld", "in_doubt", "released", "resolved")
"""Statuses that say what became of a call, as far as a score asks. `released` and `resolved` end a doubt."""
SCORED = "scored"
"""Status of an outcome that holds a session's quality, or that of a call in it (`sessions/scores.py`)."""
SPENT = "spent"
"""Status of a row that says what an attempt cost, and nothing of what became of it."""
STATUSES = ("opened", "closed", *STEPS, SCORED)

TAKEN_BACK = frozenset(("rolled_back", "rolling_back"))
"""Reasons of calls that ended since their agent was taken back to an earlier point (`agents/restore.py`): said of no release."""

WHOLE = 100
"""A score of 1. In hundredths all sums are whole numbers, the same on every machine."""

MAX_UNSCORED = 200_000
"""Closed sessions whose quality may still come, about 200 bytes each: 40 MB. The oldest is dropped; its score comes too late."""

MAX_OPEN = 200_000
"""Drawn sessions without an end, about 500 bytes each: 100 MB. What ends without a word (idle, or its agent was rolled back) is among
them: the oldest is dropped, and counts for nobody."""


class Row(NamedTuple):
    """One outcome, as far as it is read. `amount`: of `scored` the quality in hundredths, of `spent` micro-units."""

    at: int
    partition: int
    seq: int
    status: str
    reason: str
    policies: tuple[str, ...]
    intent_id: str
    agent_id: str
    session_id: str
    control_head: int
    release: str
    amount: int = 0


class Item(NamedTuple):
    """One session in the order in which it is compared: as it closed, or as its quality came to be known."""

    at: int
    partition: int
    seq: int
    arm: str
    tie: int
    scores: tuple[tuple[str, int], ...]

    @property
    def closed(self) -> bool:
        """Whether it is the session's end, not a later score of it."""
        return self.scores[0][0] != QUALITY


@dataclass(slots=True)
class _Open:
    arm: str
    tie: int
    micros: int = 0
    calls: dict[str, str] = field(default_factory=dict)
    """Intent -> what became of it; `ungrounded` and `own` are refusals told apart."""


@dataclass(slots=True)
class Scores:
    """The fold. Holds what is open, and of what closed only who waits for a quality.

    Attributes:
        alone: ids of policies that do not stand in both releases with the same text.
        clip: micro-units of money that are a cost of 1; 0: cost is not scored.
        shares: metrics whose score is the share of calls.
    """

    canary: Canary
    alone: frozenset[str] = frozenset()
    clip: int = 0
    shares: frozenset[str] = frozenset()
    open: dict[tuple[int, str, str], _Open] = field(default_factory=dict)
    _unscored: dict[tuple[int, str, str], tuple[str, int]] = field(default_factory=dict)
    _early: dict[tuple[int, str, str], int] = field(default_factory=dict)

    def add(self, row: Row) -> Iterator[Item]:
        """One outcome; yields the session it closes, or whose quality it is."""
        key = row.partition, row.agent_id, row.session_id
        if row.status == "opened":
            arm = arm_of(self.canary, row)
            if arm:
                self.open.pop(key, None)  # an earlier one of the same name
                self.open[key] = _Open(arm, tie_of(draw_of(self.canary, row.agent_id, row.session_id)))
                if len(self.open) > MAX_OPEN:
                    del self.open[next(iter(self.open))]
            return
        if row.status == SCORED:
            yield from self._scored(key, row)
            return
        session = self.open.get(key)
        if session is None:
            return
        if row.status == SPENT:
            session.micros += row.amount
        elif row.status == "closed":
            del self.open[key]
            yield Item(row.at, row.partition, row.seq, session.arm, session.tie, self._scores(session))
            if key in self._early:
                yield _quality(row, session.arm, session.tie, self._early.pop(key))
            else:
                self._unscored[key] = session.arm, session.tie
                if len(self._unscored) > MAX_UNSCORED:
                    del self._unscored[next(iter(self._unscored))]
        elif row.reason in TAKEN_BACK:
            session.calls.pop(row.intent_id, None)  # an operator ended it, neither release did
        elif row.intent_id:
            session.calls[row.intent_id] = self._became(row)

    def waiting(self) -> Mapping[str, int]:
        """Sessions of each arm that are open."""
        found = dict.fromkeys(ARMS, 0)
        for one in self.open.values():
            found[one.arm] += 1
        return found

    def _scored(self, key: tuple[int, str, str], row: Row) -> Iterator[Item]:
        """The first score counts. One that came before the end counts with it."""
        if key in self.open:
            self._early.setdefault(key, row.amount)
        elif key in self._unscored:
            yield _quality(row, *self._unscored.pop(key), row.amount)

    def _became(self, row: Row) -> str:
        if row.status not in ("refused", "withheld"):
            return row.status
        if self.alone.intersection(row.policies):
            return "own"
        return UNGROUNDED if row.reason == "ungrounded" else row.status

    def _scores(self, session: _Open) -> tuple[tuple[str, int], ...]:
        calls = list(session.calls.values())
        counted = {
            FAILURE: calls.count("failed") + calls.count("in_doubt"),
            REFUSAL: calls.count("refused") + calls.count(UNGROUNDED),
            WITHHELD: calls.count("withheld"),
            UNGROUNDED: calls.count(UNGROUNDED),
        }
        found = [
            (name, _share(n, len(calls)) if name in self.shares else WHOLE * bool(n))
            for name, n in counted.items()
        ]
        if self.clip:
            found.append((COST, min(WHOLE, _share(session.micros, self.clip))))
        return tuple(found)


def arm_of(canary: Canary, opened: Row) -> str:
    """The arm a session was drawn into when it opened; empty when it was not drawn, or does not stand where it was drawn.

    INVARIANT: the arm follows from the draw and never from what the session did (tests/unit/test_canary_judge.py).
    """
    head = opened.control_head
    if head < canary.started or bisect_right(canary.pauses, head) % 2:
        return ""
    for scope, name in (("agent", opened.agent_id), ("session", opened.session_id)):
        if canary.pinned.get((scope, name), head + 1) <= head:
            return ""
    drawn = in_arm(canary, draw_of(canary, opened.agent_id, opened.session_id))
    expected = canary.digest if drawn else canary.control
    return (CANARY if drawn else CONTROL) if opened.release == expected else ""


def alone(one: CompiledRelease, other: CompiledRelease) -> frozenset[str]:
    """Policies that stand in one of two releases only or with another text, and guardrails that stand in one only: what
    they refuse or withhold is meant, not a regression."""
    texts = [{(p.policy_id, p.text) for p in release.book.policies} for release in (one, other)]
    rules = [
        {(rule.rule_id, "") for table in (release.guardrails.calls, release.guardrails.results) for row in table.values() for rule in row}
        for release in (one, other)
    ]  # fmt: skip
    return frozenset(name for name, _ in (texts[0] ^ texts[1]) | (rules[0] ^ rules[1]))


def draw_of(canary: Canary, agent_id: str, session_id: str) -> bytes:
    """The bytes of the draw (`deployments.drawn`)."""
    return hashlib.sha256(f"{canary.started}\0{agent_id}\0{session_id}".encode()).digest()


def in_arm(canary: Canary, draw: bytes) -> bool:
    """Whether it is the canary's."""
    return int.from_bytes(draw[:8], "big") * WHOLE_BP >> 64 < canary.weight_bp


def tie_of(draw: bytes) -> int:
    """Chance that has nothing to do with the arm: the order within a block."""
    return int.from_bytes(draw[8:16], "big")


def _quality(row: Row, arm: str, tie: int, amount: int) -> Item:
    return Item(row.at, row.partition, row.seq, arm, tie, ((QUALITY, max(0, min(WHOLE, amount))),))


def _share(n: int, whole: int) -> int:
    """In hundredths, rounded to the nearest; nothing of nothing is nothing."""
    return (2 * WHOLE * n + whole) // (2 * whole) if whole else 0
