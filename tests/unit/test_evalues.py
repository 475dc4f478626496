"""Tests valid at any time: the tables of the literature and of our own probe, null calibration, exact arithmetic.

Every chance has a seed. A bound on a share of false alarms is exact: it is refuted only when that many or more had a
probability under 1 % if the stated level held.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors import evalues
from sluicegate.processors.evalues import BettingMixture, Detector, PairMixture, RateMixture

NULL_RUNS = 2_000


def holds(events: int, runs: int, level: float) -> bool:
    """Whether `events` in `runs` agree with a probability of at most `level`, at 99 % confidence."""
    return 1 - evalues.at_most(events - 1, runs, level) >= 0.01 if events else True


def test_what_is_refuted() -> None:
    assert holds(100, NULL_RUNS, 0.05) and holds(120, NULL_RUNS, 0.05)
    assert not holds(126, NULL_RUNS, 0.05)


def pairs_until(pairs: Iterator[tuple[bool, bool]], alpha: float, most: int) -> int | None:
    """Pairs until the test reaches 1/alpha, looked at after every one."""
    test, bar = PairMixture(), -math.log(alpha)
    for n, (new, other) in enumerate(pairs, 1):
        test.observe(new, other)
        if new != other and test.log_e >= bar:
            return n
        if n >= most:
            return None
    return None


def coins(chance: Random, new: float, other: float) -> Iterator[tuple[bool, bool]]:
    while True:
        yield chance.random() < new, chance.random() < other


def test_peeking_at_a_p_value_is_wrong_and_at_an_e_value_is_right() -> None:
    """Two equal arms of 5 %: the z test looked at every 25 pairs up to 5,000 alarms in 31 %; the e-process in under 5 %."""
    chance, peeked, runs = Random(1), 0, 200
    for _ in range(runs):
        new = other = 0
        for n in range(25, 5_001, 25):
            new += sum(chance.random() < 0.05 for _ in range(25))
            other += sum(chance.random() < 0.05 for _ in range(25))
            pooled = (new + other) / (2 * n)
            spread = math.sqrt(2 * pooled * (1 - pooled) / n)
            if spread and (new - other) / n / spread > 1.645:
                peeked += 1
                break
    assert 0.22 < peeked / runs < 0.40
    chance = Random(2)
    false = sum(pairs_until(coins(chance, 0.05, 0.05), 0.05, 1_000) is not None for _ in range(NULL_RUNS))
    assert false > 0 and holds(false, NULL_RUNS, 0.05)


@pytest.mark.parametrize(("rate", "median"), [(0.08, 804), (0.10, 324), (0.15, 107), (0.25, 40)])
def test_power_of_pairs(rate: float, median: int) -> None:
    """The probe's table: canary against 5 %, alpha 5 %, all detected. A fixed-n test needs 832 / 340 / 108 / 36."""
    chance = Random(3)
    found = [pairs_until(coins(chance, rate, 0.05), 0.05, 20_000) for _ in range(200)]
    assert None not in found
    assert statistics.median(n for n in found if n) == pytest.approx(median, rel=0.15)


@given(st.integers(0, 60), st.integers(0, 60))
def test_pairs_are_the_integral(worse: int, better: int) -> None:
    n = worse + better
    # the integral of q^a (1-q)^b over (1/2, 1), term by term of (1-q)^b, in exact fractions
    exact = sum(
        (-1) ** k * math.comb(better, k) * (1 - Fraction(1, 2 ** (worse + k + 1))) / (worse + k + 1)
        for k in range(better + 1)
    )
    assert PairMixture(worse, better).log_e == pytest.approx(math.log(exact * 2 ** (n + 1)), abs=1e-9)


def test_a_million_pairs_overflow_nothing() -> None:
    assert PairMixture(1_000_000, 0).log_e > 690_000
    assert -20 < PairMixture(0, 1_000_000).log_e < -13
    assert -8 < PairMixture(500_000, 500_000).log_e < 0
    assert RateMixture(1_000_000, 0).interval(0.01)[0] > 0.99998
    assert BettingMixture({1.0: 10**6, -1.0: 10**6}).log_e_above(0.0) < 0


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=200))
def test_betting_on_pairs_is_the_pair_mixture(values: list[float]) -> None:
    bets, pairs = BettingMixture(), PairMixture()
    for value in values:
        bets.observe(value)
        pairs.observe(value > 0, value < 0)
    # a mixture of 24 stakes instead of all of them: within a factor e^0.25 wherever somebody could act on it
    if -3 < pairs.log_e < 12:
        assert bets.log_e_above(0.0) == pytest.approx(pairs.log_e, abs=0.25)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=60), st.integers(1, 99))
def test_an_interval_is_what_nobody_won_against(values: list[int], percent: int) -> None:
    bets = BettingMixture()
    for value in values:
        bets.observe(value / 100)
    low, high = bets.interval(percent / 100)
    bar = math.log(200 / percent)
    assert -1 <= low <= bets.mean + 1e-9 and bets.mean - 1e-9 <= high <= 1
    for m in (low - 1e-6, high + 1e-6):
        assert max(bets.log_e_above(m), bets.log_e_below(m)) >= bar - 1e-9 or not -1 < m < 1
    assert bets.log_e_above(low + 1e-6) < bar + 1e-9 and bets.log_e_below(high - 1e-6) < bar + 1e-9


@given(st.lists(st.integers(-100, 100), max_size=60), st.floats(-0.9, 0.9))
def test_a_bet_kept_as_its_capital(values: list[int], m: float) -> None:
    whole, above, below = BettingMixture(), evalues.MeanBet(m), evalues.MeanBet(m, below=True)
    for value in values:
        for one in (whole, above, below):
            one.observe(value / 100)
    assert above.log_e == pytest.approx(whole.log_e_above(m), abs=1e-9)
    assert below.log_e == pytest.approx(whole.log_e_below(m), abs=1e-9)


def test_intervals_hold_at_all_times_at_once() -> None:
    """2,000 streams of bounded scores, looked at 10 times each: the mean is left out in at most 5 % of them."""
    chance, outside = Random(4), 0
    for _ in range(NULL_RUNS):
        bets, bar = BettingMixture(), math.log(2 / 0.05)
        for n in range(200):
            bets.observe(chance.choice((-0.5, -0.25, 0.0, 0.05, 0.1, 0.2, 1.0)))
            # the mean is 0.0857..; asking the two bets at it is asking whether the interval holds it
            if n % 20 == 19 and max(bets.log_e_above(0.6 / 7), bets.log_e_below(0.6 / 7)) >= bar:
                outside += 1
                break
    assert holds(outside, NULL_RUNS, 0.05)


def test_rate_intervals_hold_at_all_times_at_once() -> None:
    chance, outside = Random(5), 0
    for _ in range(NULL_RUNS):
        rate = RateMixture()
        for n in range(400):
            rate.observe(chance.random() < 0.05)
            if n % 4 == 3 and rate.log_e(0.05) >= -math.log(0.05):
                outside += 1
                break
    assert outside > 0 and holds(outside, NULL_RUNS, 0.05)
    low, high = RateMixture(50, 950).interval(0.05)
    assert (low, high) == (pytest.approx(0.02872, abs=1e-5), pytest.approx(0.07924, abs=1e-5))


# -- detectors -------------------------------------------------------------------------------------------------------


def first_alarm(detector: Detector, chance: Random, rate: float, alpha: float, most: int) -> int | None:
    bar = -math.log(alpha)
    for n in range(1, most + 1):
        if detector.observe(chance.random() < rate) >= bar:
            return n
    return None


def test_run_length_of_detectors() -> None:
    """ARL >= 1/alpha. At alpha 1e-2 the mean of 400 null streams is above 100; CUSUM's is longer still."""
    chance = Random(6)
    runs = [first_alarm(Detector(0.05), chance, 0.05, 1e-2, 20_000) or 20_000 for _ in range(400)]
    spread = statistics.stdev(runs) / math.sqrt(len(runs))
    assert statistics.fmean(runs) + 2.33 * spread >= 100
    careful = [first_alarm(Detector(0.05, cusum=True), chance, 0.05, 1e-2, 5_000) or 5_000 for _ in range(60)]
    assert statistics.fmean(careful) > 2 * statistics.fmean(runs)


@pytest.mark.parametrize(("rate", "median"), [(0.10, 190), (0.15, 63), (0.25, 30)])
def test_delay_of_the_detector(rate: float, median: int) -> None:
    """The probe's table: baseline 5 %, alpha 1e-4 (a false alarm in 10,000 observations at most, on average)."""
    chance, delays = Random(7), []
    for _ in range(150):
        detector = Detector(0.05)
        for _ in range(300):
            detector.observe(chance.random() < 0.05)
        if detector.log_e < -math.log(1e-4):
            delays.append(first_alarm(detector, chance, rate, 1e-4, 20_000) or 20_000)
    assert statistics.median(delays) == pytest.approx(median, rel=0.2)


@pytest.mark.parametrize(
    ("h", "shift", "length"),
    [
        (4, 0.0, 335.0), (4, 0.5, 26.7), (4, 1.0, 8.38), (4, 1.5, 4.75), (4, 2.0, 3.34), (4, 3.0, 2.19),
        (5, 0.5, 38.0), (5, 1.0, 10.38), (5, 1.5, 5.75), (5, 2.0, 4.01), (5, 3.0, 2.57),
    ],
)  # fmt: skip
def test_cusum_run_lengths(h: int, shift: float, length: float) -> None:
    """NIST/SEMATECH handbook 6.3.2.3: the bet N(1, 1) against N(0, 1) is x - 1/2, so our CUSUM is theirs with k = 0.5."""
    chance, lengths = Random(8), []
    for _ in range(400 if shift == 0.0 else 2_000):
        level, n = -math.inf, 0
        while level < h:
            level, n = evalues.cusum(level, chance.gauss(shift, 1.0) - 0.5), n + 1
        lengths.append(n)
    spread = statistics.stdev(lengths) / math.sqrt(len(lengths))
    assert abs(statistics.fmean(lengths) - length) < 3 * spread + 0.005 * length


def test_detectors_refuse_a_baseline_that_is_none() -> None:
    for p0 in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Detector(p0)


# -- many at once, bounds --------------------------------------------------------------------------------------------


def test_e_bh() -> None:
    logs = [math.log(e) for e in (1.0, 200.0, 30.0, 45.0, 0.1)]
    assert evalues.e_bh(logs, 0.05) == [1]  # 5 / (0.05 * 1) = 100 for the first, 50 for the second
    assert evalues.e_bh([math.log(e) for e in (60.0, 60.0, 1.0)], 0.05) == [0, 1]
    assert evalues.e_bh([], 0.05) == []


def test_e_bh_holds_under_dependence() -> None:
    """All null and all the same coin: on average at most 5 % of the times is anything rejected, which is then all false."""
    chance, false = Random(9), 0
    for _ in range(NULL_RUNS):
        shared = math.log(1 / chance.random() / 2 + 0.5)  # heavy; cut so that its mean is at most 1
        false += bool(evalues.e_bh([min(shared, math.log(30)) - math.log(2.2)] * 20, 0.05))
    assert holds(false, NULL_RUNS, 0.05)


@pytest.mark.parametrize("step", [1, 7])
def test_calibrated(step: int) -> None:
    mean = statistics.fmean(
        math.exp(evalues.calibrated((k + 0.5) / 100_000)) for k in range(0, 100_000, step)
    )
    assert mean == pytest.approx(1.0, abs=0.01)
    assert evalues.calibrated(0.0) == math.inf
    with pytest.raises(ValueError, match="p-value"):
        evalues.calibrated(1.1)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.0, 1.0))
def test_at_most_is_the_binomial(ones: int, n: int, p: float) -> None:
    exact = math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(min(ones, n) + 1))
    assert evalues.at_most(ones, n, p) == pytest.approx(exact, abs=1e-9)


def test_rate_at_most() -> None:
    assert evalues.rate_at_most(0, 100, 0.05) == pytest.approx(1 - 0.05**0.01)  # the rule of three, exact
    assert evalues.rate_at_most(50, 1_000, 0.01) == pytest.approx(0.068405, abs=1e-6)
    assert evalues.rate_at_most(7, 7, 0.01) == 1.0


def test_values_out_of_range_are_refused() -> None:
    for value in (1.01, -1.01, math.nan, math.inf):
        with pytest.raises(ValueError, match="is needed"):
            BettingMixture().observe(value)
