"""Tests that may be looked at after every observation: e-processes, confidence sequences, e-detectors, e-BH.

An *e-process* is a bet against a hypothesis: under it the capital is at most 1 on average at every stopping time, so by
Ville (1939) P(it ever reaches 1/alpha) <= alpha, however often one looks and whenever one stops. A *confidence sequence*
is the means nobody won 1/alpha against; it holds at all times at once. An *e-detector* restarts at every observation: with
threshold 1/alpha its mean run length to a false alarm is at least 1/alpha observations.

    PairMixture      two arms, binary, in pairs          Lindon & Malek 2020 (arXiv 2011.03567), Lindon et al. 2022 (2205.14762)
    RateMixture      one rate against a point            Robbins 1970; Howard, Ramdas et al. 2021 (Annals of Statistics 49)
    BettingMixture,
    MeanBet          the mean of values in [-1, 1]       Waudby-Smith & Ramdas 2024 (JRSS B 86); Orabona & Jun 2024 (2110.14099)
    Detector         a rate that rose, at any time       Shin, Ramdas & Rinaldo 2023, "E-detectors" (NEJSDS, 2203.03532)
    e_bh             many e-values at once               Wang & Ramdas 2022 (JRSS B 84): any dependence
    calibrated       a p-value made an e-value           Vovk & Wang 2021 (Annals of Statistics 49)

All in logarithms, an observation costs O(1). Never knows what is tested, what time it is or what follows from it.
Next: `canary/judge.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

BETS = 24
"""Stakes of a mixture, at the middles of equal parts of the permitted range. Any number is valid; from 16 on the median
number of pairs to a detection is within 2 % of the integral's."""

MAX_VALUES = 4_096
"""Different values whose logarithms are kept, 300 bytes each."""

BISECTIONS = 40
"""Halvings of an interval of length 2: an error below 2e-12."""

ALTERNATIVES = (1.5, 2.0, 3.0, 5.0, 10.0)
"""Odds ratios against the baseline that a `Detector` is a mixture of: a rate of 5 % that rose to 7, 10, 14, 21 or 34 %."""


@dataclass(slots=True)
class PairMixture:
    """H0: the new arm's rate of ones is at most the other's. Only pairs that differ count; q in (1/2, 1) is mixed evenly.

    Given that a pair differs, the new arm's is the one with probability at most 1/2 under H0: exact, for any rates.
    """

    worse: int = 0
    better: int = 0

    def observe(self, new: bool, other: bool) -> None:
        self.worse += new and not other
        self.better += other and not new

    @property
    def log_e(self) -> float:
        """log of 2^(n+1) * the integral of q^worse (1-q)^better over (1/2, 1). O(sqrt n), and nothing cancels."""
        n = self.worse + self.better
        low = min(self.worse, self.better)
        tail = _upper_half(low, n - low)
        if self.worse <= self.better:
            return math.log(tail)
        whole = (n + 1) * math.log(2) + _log_beta(self.worse + 1, self.better + 1)
        return whole + math.log1p(-math.exp(math.log(tail) - whole))


def _upper_half(a: int, b: int) -> float:
    """2^(a+b+1) * the integral of q^a (1-q)^b over (1/2, 1) for a <= b: a sum of positive terms, by parts."""
    term = total = 1 / (b + 1)
    for k in range(a):
        term *= (a - k) / (b + 2 + k)
        total += term
        if term < 1e-17 * total:
            break
    return total


@dataclass(slots=True)
class RateMixture:
    """One rate of ones: a Beta(1/2, 1/2) mixture against every point p, and so a confidence sequence for p."""

    ones: int = 0
    zeros: int = 0

    def observe(self, one: bool) -> None:
        self.ones += one
        self.zeros += not one

    def log_e(self, p: float) -> float:
        """H0: the rate is p."""
        mixed = _log_beta(self.ones + 0.5, self.zeros + 0.5) - _log_beta(0.5, 0.5)
        return mixed - _times(self.ones, p) - _times(self.zeros, 1 - p)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Where the rate is, at all times at once with probability at least 1 - alpha."""
        if not self.ones + self.zeros:
            return 0.0, 1.0
        bar, middle = -math.log(alpha), self.ones / (self.ones + self.zeros)
        low = _crossing(lambda p: bar - self.log_e(p), 0.0, middle)
        return low, _crossing(lambda p: self.log_e(p) - bar, middle, 1.0)


@dataclass(slots=True)
class BettingMixture:
    """The conditional mean of values in [-1, 1]: a bet of stake L multiplies the capital by 1 + L (value - m).

    Equal stakes over the permitted range are mixed, so the capital depends on how often each value came, not on the order.
    On values of -1, 0 and 1 and m = 0 it is `PairMixture`. Values are exact multiples of a step, so there are few of them.
    """

    counts: dict[float, int] = field(default_factory=dict)

    def observe(self, value: float) -> None:
        if not -1.0 <= value <= 1.0:
            raise ValueError(f"a value in [-1, 1] is needed, got `{value}`")
        self.counts[value] = self.counts.get(value, 0) + 1

    @property
    def mean(self) -> float:
        n = sum(self.counts.values())
        return math.fsum(v * c for v, c in self.counts.items()) / n if n else 0.0

    def log_e_above(self, m: float) -> float:
        """H0: the mean is at most m. Large when it is above."""
        return self._log_e(m, 1 / (1 + m)) if m > -1 else math.inf if self.counts else 0.0

    def log_e_below(self, m: float) -> float:
        """H0: the mean is at least m. Large when it is below."""
        return self._log_e(m, -1 / (1 - m)) if m < 1 else math.inf if self.counts else 0.0

    def interval(self, alpha: float) -> tuple[float, float]:
        """Where the mean is, at all times at once with probability at least 1 - alpha: half of it on either side."""
        if not self.counts:
            return -1.0, 1.0
        bar, middle = math.log(2 / alpha), self.mean
        low = _crossing(lambda m: bar - self.log_e_above(m), -1.0, middle)
        return low, _crossing(lambda m: self.log_e_below(m) - bar, middle, 1.0)

    def _log_e(self, m: float, limit: float) -> float:
        rows = [(value - m, count) for value, count in self.counts.items()]
        stakes = (limit * (k + 0.5) / BETS for k in range(BETS))
        capital = [math.fsum(n * math.log1p(stake * gain) for gain, n in rows) for stake in stakes]
        return log_mean(capital)


@dataclass(slots=True)
class MeanBet:
    """One of the two bets of `BettingMixture`, against one m, kept as its capital: looking at it costs nothing.

    Attributes:
        m: H0: the mean is at most m; `below`: at least m.
    """

    m: float
    below: bool = False
    capital: list[float] = field(default_factory=lambda: [0.0] * BETS)

    def observe(self, value: float) -> None:
        grown = _growth(self.m, self.below, value)
        self.capital = list(map(operator.add, self.capital, grown))

    @property
    def log_e(self) -> float:
        return log_mean(self.capital)


@lru_cache(maxsize=MAX_VALUES)
def _growth(m: float, below: bool, value: float) -> list[float]:
    """What one value does to the logarithm of each stake's capital."""
    limit = -1 / (1 - m) if below else 1 / (1 + m)
    return [math.log1p(limit * (k + 0.5) / BETS * (value - m)) for k in range(BETS)]


@dataclass(slots=True)
class Detector:
    """H0: the rate of ones is at most `p0`, for ever. Alarms when `log_e` reaches log(1/alpha): run length >= 1/alpha.

    Each alternative p1 > p0 bets by its likelihood ratio, fair at p0 and unfavourable below it. `p0` has to be an upper bound
    of the baseline (`rate_at_most`), never its estimate. Shiryaev-Roberts (the default) sums the bets begun at every moment;
    CUSUM keeps the best: more careful, slower.

    Attributes:
        log_by: for each alternative, the logarithm of its detector.
    """

    p0: float
    cusum: bool = False
    log_by: list[float] = field(default_factory=lambda: [-math.inf] * len(ALTERNATIVES))
    _bets: tuple[list[float], list[float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.p0 < 1.0:
            raise ValueError(f"a baseline rate between 0 and 1 is needed, got `{self.p0}`")
        raised = [self.p0 * ratio / (1 - self.p0 + self.p0 * ratio) for ratio in ALTERNATIVES]
        self._bets = (
            [math.log((1 - p1) / (1 - self.p0)) for p1 in raised],
            [math.log(p1 / self.p0) for p1 in raised],
        )

    def observe(self, one: bool) -> float:
        """The detector's logarithm after one more observation."""
        step = cusum if self.cusum else shiryaev_roberts
        self.log_by = [step(before, bet) for before, bet in zip(self.log_by, self._bets[one], strict=True)]
        return self.log_e

    @property
    def log_e(self) -> float:
        return log_mean(self.log_by)


def shiryaev_roberts(before: float, bet: float) -> float:
    """The next logarithm of a detector: the bets begun so far and one begun now, all times this one. Mean <= n under H0."""
    return bet + _log_add(before, 0.0)


def cusum(before: float, bet: float) -> float:
    """The same with the best of the bets alone (Page 1954)."""
    return bet + max(before, 0.0)


def e_bh(log_e: Sequence[float], alpha: float) -> list[int]:
    """Which of many hypotheses to reject: of those, at most alpha are true on average, however they depend on each other."""
    order = sorted(range(len(log_e)), key=lambda i: -log_e[i])
    for k in range(len(order), 0, -1):
        if log_e[order[k - 1]] >= math.log(len(order) / (alpha * k)):
            return sorted(order[:k])
    return []


def calibrated(p: float) -> float:
    """The logarithm of the e-value 1 / (2 sqrt p): at most 1 on average when p is a p-value."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"a p-value between 0 and 1 is needed, got `{p}`")
    return math.inf if p == 0.0 else -math.log(2) - math.log(p) / 2


def rate_at_most(ones: int, n: int, alpha: float) -> float:
    """An upper bound of a rate seen `ones` times in `n`: exact (Clopper & Pearson 1934), wrong with probability <= alpha."""
    if ones >= n:
        return 1.0
    return _crossing(lambda p: alpha - at_most(ones, n, p), ones / n, 1.0)


def at_most(ones: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= ones), by a sum from its largest term down."""
    if ones >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    top = min(ones, int(n * p))
    term = total = 1.0
    for k in range(top, 0, -1):
        term *= k / (n - k + 1) * (1 - p) / p
        total += term
        if term < 1e-17 * total:
            break
    term = 1.0
    for k in range(top, ones):
        term *= (n - k) / (k + 1) * p / (1 - p)
        total += term
    log_top = -math.log(n + 1) - _log_beta(top + 1, n - top + 1) + _times(top, p) + _times(n - top, 1 - p)
    return min(1.0, math.exp(log_top) * total)


def log_mean(logs: Sequence[float]) -> float:
    """log of the mean of exp(logs). The mean of e-values is one, however they depend on each other."""
    top = max(logs)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(x - top) for x in logs) / len(logs))


def _crossing(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function passes 0 between low and high; an end when it does not."""
    if rises(low) >= 0:
        return low
    if rises(high) < 0:
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) >= 0 else (middle, high)
    return (low + high) / 2


def _times(n: int, p: float) -> float:
    """n log p, and 0 for n = 0."""
    if n == 0:
        return 0.0
    return n * math.log(p) if p > 0.0 else -math.inf


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_add(x: float, y: float) -> float:
    low, high = (x, y) if x < y else (y, x)
    return high + math.log1p(math.exp(low - high))
