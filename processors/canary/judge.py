"""The verdict on a canary: abort, promote or go on, by tests that may be looked at after every session.

    items in close order ▸ blocks ▸ differences between the arms ▸ two bets a metric ▸ verdict, once and for ever

*Blocks.* As many sessions as hold one of the smaller arm on average are cut off; in each, every session of the smaller arm is
compared with the mean of an equal share of the other's. Which of a block's sessions are the canary's is chance alone, so
with no difference between the releases each comparison is fair whatever the traffic does meanwhile: no drift, no burst and no
dependence between sessions makes a false alarm. A plain pair would use one control session where nine are there.
*Bets.* Against "not worse" with part alpha_m of alpha: aborts at e >= 1/alpha_m, so P(abort) <= alpha when nothing differs (Ville).
Against "worse by the margin": promotes when the confidence sequence (1 - alpha) of every metric lies below its margin, so
P(promote) <= alpha/2 when one is worse by that much (all have to agree, so alpha is not shared).

Pure; the first verdict is final, so more rows never change it. Never reads or writes anything. Next: `canary/scores.py`
(what is compared), `evalues.py` (the bets), `docs/canaries.md`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from sluicegate.processors.canary.rules import COUNTED, CanaryRules, MetricRule
from sluicegate.processors.canary.scores import ARMS, CANARY, WHOLE, Item
from sluicegate.processors.control.deployments import WHOLE_BP, Canary
from sluicegate.processors.evalues import BettingMixture, MeanBet

CONTINUE, ABORT, PROMOTE, CAP = "continue", "abort", "promote", "cap"
MIN_BLOCK, MAX_BLOCK = 4, 1_000
"""Sessions. Two would leave out half of the sessions of a canary of 50 %; at 0.1 % one block has one canary session."""
DIGITS = 6
"""Significant digits of what evidence states, so that it comes out the same on another machine's `log`."""


@dataclass(slots=True)
class Compared:
    """One metric: who waits for a block, and what the blocks so far said. Index 0 is the canary, 1 the control arm."""

    rule: MetricRule
    size: int
    worse: MeanBet = field(default_factory=lambda: MeanBet(0.0))
    safe: MeanBet = field(init=False)
    values: BettingMixture = field(default_factory=BettingMixture)
    seen: list[int] = field(default_factory=lambda: [0, 0])
    sums: list[int] = field(default_factory=lambda: [0, 0])
    used: list[int] = field(default_factory=lambda: [0, 0])
    block: list[tuple[int, int, int]] = field(default_factory=list)
    """(tie, arm, how bad in hundredths)."""

    def __post_init__(self) -> None:
        self.safe = MeanBet(self.rule.margin, below=True)

    def take(self, arm: int, tie: int, score: int) -> bool:
        """One session's score; whether a block was compared."""
        self.seen[arm] += 1
        self.sums[arm] += score
        self.block.append((tie, arm, WHOLE - score if self.rule.lower_is_worse else score))
        if len(self.block) < self.size:
            return False
        block, self.block = sorted(self.block), []
        arms = [bad for _, a, bad in block if a == 0], [bad for _, a, bad in block if a == 1]
        if not (arms[0] and arms[1]):
            return False
        few, many, sign = (arms[0], arms[1], 1) if len(arms[0]) <= len(arms[1]) else (arms[1], arms[0], -1)
        each = len(many) // len(few)
        for k, bad in enumerate(few):
            value = sign * (bad * each - sum(many[k * each : (k + 1) * each])) / (WHOLE * each)
            for bets in (self.worse, self.safe, self.values):
                bets.observe(value)
        shares = (len(few), each * len(few))
        for a, n in enumerate(shares if sign == 1 else shares[::-1]):
            self.used[a] += n
        return True

    @property
    def measured(self) -> bool:
        """Whether anything was ever scored. Of a quality that nobody scores nothing is asked."""
        return any(self.seen)

    def aborts(self) -> bool:
        return self.worse.log_e >= -math.log(self.rule.alpha)

    def is_safe(self, alpha: float, least: int) -> bool:
        return self.used[0] >= least and self.safe.log_e >= math.log(2 / alpha)


@dataclass(slots=True)
class Judge:
    """The fold over items. Feed it in order (`key_of`) and only what nothing earlier can follow.

    Attributes:
        verdict: what it came to, at which item; `continue` until then.
        causes: the metrics that aborted it.
        closed: sessions of each arm that closed.
    """

    rules: CanaryRules
    canary: Canary
    metrics: list[Compared] = field(init=False)
    verdict: str = CONTINUE
    causes: tuple[str, ...] = ()
    last: tuple[int, int, int] = (0, 0, 0)
    closed: list[int] = field(default_factory=lambda: [0, 0])
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        size = block_size(self.canary.weight_bp)
        self.metrics = [Compared(rule, size) for rule in self.rules.metrics]

    def take(self, item: Item) -> str:
        """One more item; the verdict after it. After a verdict nothing counts."""
        # INVARIANT: a verdict on a beginning of the log is the verdict on all of it (tests/unit/test_canary_judge.py).
        if self.verdict != CONTINUE:
            return self.verdict
        arm = ARMS.index(item.arm)
        self.last = key_of(item)
        self._digest.update(repr(tuple(item)).encode())
        if item.closed:
            self.closed[arm] += 1
        scores = dict(item.scores)
        moved = [m.take(arm, item.tie, scores[m.rule.name]) for m in self.metrics if m.rule.name in scores]
        if any(moved):
            self._look()
        if self.verdict == CONTINUE and self.closed[0] >= self.rules.max_sessions:
            self.verdict = CAP
        return self.verdict

    def _look(self) -> None:
        self.causes = tuple(m.rule.name for m in self.metrics if m.aborts())
        measured = [m for m in self.metrics if m.measured]
        if self.causes:
            self.verdict = ABORT
        elif all(m.is_safe(self.rules.alpha, self.rules.min_sessions) for m in measured):
            self.verdict = PROMOTE

    def evidence(self) -> dict[str, object]:
        """All that somebody needs to come to the same from the log: JSON, with numbers of `DIGITS` digits."""
        return {
            "canary": self.canary.started, "release": self.canary.digest, "control": self.canary.control,
            "weight_bp": self.canary.weight_bp, "verdict": self.verdict, "causes": list(self.causes),
            "alpha": self.rules.alpha, "block": block_size(self.canary.weight_bp),
            "sessions": dict(zip(ARMS, self.closed, strict=True)),
            "from_at": self.canary.at, "until": list(self.last), "sha256": self._digest.hexdigest(),
            "metrics": [metric_evidence(m, self.rules) for m in self.metrics],
        }  # fmt: skip


def metric_evidence(m: Compared, rules: CanaryRules) -> dict[str, object]:
    """One metric in numbers. Rates are of scores as they are; difference and interval say how much worse the canary is."""
    low, high = m.values.interval(rules.alpha)
    return {
        "metric": m.rule.name,
        "score": "share" if m.rule.share else "any" if m.rule.name in COUNTED else "mean",
        "alpha": _round(m.rule.alpha),
        "e": _round(math.exp(min(m.worse.log_e, 700.0))),
        "bound": _round(1 / m.rule.alpha),
        "sessions": list(m.used),
        "rates": [_round(s / (WHOLE * n)) if n else None for s, n in zip(m.sums, m.seen, strict=True)],
        "worse_by": _round(m.values.mean),
        "interval": [_round(low), _round(high)],
        "margin": m.rule.margin,
        "says": says(m, rules),
    }


def says(m: Compared, rules: CanaryRules) -> str:
    """The verdict of one metric so far: abort, safe, open or unmeasured."""
    if not m.measured:
        return "unmeasured"
    if m.aborts():
        return ABORT
    return "safe" if m.is_safe(rules.alpha, rules.min_sessions) else "open"


def judge(rules: CanaryRules, canary: Canary, items: Iterable[Item]) -> Judge:
    """The judge after these items, in whatever order they come."""
    found = Judge(rules, canary)
    for item in sorted(items, key=key_of):
        found.take(item)
    return found


def key_of(item: Item) -> tuple[int, int, int]:
    """The order of everything: when, and of one moment which partition and place in it."""
    return item.at, item.partition, item.seq


def block_size(weight_bp: int) -> int:
    """Sessions of a block: one of the smaller arm on average."""
    smaller = max(1, min(weight_bp, WHOLE_BP - weight_bp))
    return max(MIN_BLOCK, min(MAX_BLOCK, -(-WHOLE_BP // smaller)))


def _round(x: float) -> float:
    return float(f"{x:.{DIGITS}g}")


assert ARMS[0] == CANARY
