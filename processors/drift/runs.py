"""Detectors over one stream: a rate that rose, a mix that moved, a name that was never there.

`RateRun`: Shiryaev-Roberts over e-values, one a bucket (Shin, Ramdas & Rinaldo 2023). Under "the rate is at most its
bound" each bucket's likelihood ratio has mean at most 1, whatever came before, and so `log_e` reaches log(L) on average
no earlier than after L buckets. It holds for
badness between 0 and 1, too, since the ratio is linear in it.
`MixRun`: one window at a time against the reference, its p-value made an e-value (Vovk & Wang 2021). Windows share one
reference, so they are not multiplied: of W windows at most W/L false alarms are expected.
Pure. Next: `drift/watch.py` (many streams at once), `evalues.py`, `drift/distances.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sluicegate.processors.drift.distances import Shift, compare
from sluicegate.processors.drift.streams import Tally
from sluicegate.processors.evalues import log_mean, rate_at_most

STEPS = 5
"""Alternatives of a rate: its bound plus the floor, twice, four, eight and sixteen times that."""
HIGHEST = 0.99
BOUND_ALPHA = 1e-4
"""Probability that a bound of a reference is too low: what "on average" above is given up for."""
LEAST_BOUND = 1e-4
"""Nothing is expected never to happen: one refusal in 10,000 calls is no change."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a stream is held against.

    Attributes:
        source: hour_of_week, before, own or expected.
        tally: what was seen then.
        bound: of a rate, at most this with probability 1 - `BOUND_ALPHA`.
    """

    source: str
    tally: Tally
    bound: float = 0.0


def reference_of(source: str, tally: Tally) -> Reference:
    """A reference, its uncertainty in the bound."""
    bound = rate_at_most(math.ceil(tally.bad), tally.n, BOUND_ALPHA) if tally.n else 1.0
    return Reference(source, tally, max(LEAST_BOUND, bound))


@dataclass(slots=True)
class Bet:
    """One alternative. `log_sr`: its detector. Since `began` it was never behind, and saw `n`, `bad` of them."""

    log_sr: float = -math.inf
    ahead: float = 0.0
    began: int = -1
    n: int = 0
    bad: float = 0.0


@dataclass(slots=True)
class RateRun:
    """Whether a rate rose above its bound by the floor or more, at any time."""

    bets: list[Bet] = field(default_factory=lambda: [Bet() for _ in range(STEPS)])
    buckets: int = 0

    def observe(self, at: int, seen: Tally, bound: float, floor: float) -> None:
        """One more bucket."""
        if not seen.n or bound + floor > HIGHEST:
            return
        self.buckets += 1
        for step, bet in enumerate(self.bets):
            rate = min(HIGHEST, bound + floor * 2**step)
            won = seen.bad * math.log(rate / bound)
            won += (seen.n - seen.bad) * math.log((1 - rate) / (1 - bound))
            bet.log_sr = won + max(bet.log_sr, 0.0) + math.log1p(math.exp(-abs(bet.log_sr)))
            if bet.ahead <= 0.0:
                bet.ahead, bet.began, bet.n, bet.bad = 0.0, at, 0, 0.0
            bet.ahead, bet.n, bet.bad = bet.ahead + won, bet.n + seen.n, bet.bad + seen.bad

    @property
    def log_e(self) -> float:
        """The detector's logarithm."""
        return log_mean([bet.log_sr for bet in self.bets])

    @property
    def best(self) -> Bet:
        """The alternative that fits best: about when the change came, and what was seen since."""
        return max(self.bets, key=lambda bet: bet.ahead)


@dataclass(slots=True)
class MixRun:
    """Whether names are mixed otherwise than in the reference.

    Attributes:
        window: what is collected; compared, and begun anew, when there is enough.
        shift: of the last full window, which began at `began`.
    """

    window: Tally = field(default_factory=Tally)
    since: int = -1
    shift: Shift | None = None
    began: int = -1
    log_e: float = -math.inf
    buckets: int = 0

    def observe(self, at: int, seen: Tally, reference: Reference, enough: int) -> None:
        """One more bucket."""
        if self.since < 0:
            self.since = at
        self.window.add(seen)
        if self.window.n < enough:
            return
        self.buckets += 1
        self.shift = compare(reference.tally.names, self.window.names)
        self.log_e = -math.log(2) - self.shift.log_p / 2 if self.shift is not None else -math.inf
        self.began, self.since, self.window = self.since, -1, Tally()


@dataclass(slots=True)
class NewsRun:
    """Names that the reference does not have. `began`: when the first of them came."""

    names: dict[str, int] = field(default_factory=dict)
    began: int = -1

    def observe(self, at: int, seen: Tally, reference: Reference) -> None:
        """One more bucket."""
        for name, count in seen.names.items():
            if name and name not in reference.tally.names:
                self.began = at if self.began < 0 else self.began
                self.names[name] = self.names.get(name, 0) + count

    @property
    def log_e(self) -> float:
        """It is there or it is not: no chance is involved."""
        return math.inf if self.names else -math.inf
