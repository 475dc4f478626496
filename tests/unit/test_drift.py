"""Drift's statistics: thresholds that scale with size, run lengths that hold without a change, and power with one."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.drift.distances import OTHER, compare, log_chi2_above, merged
from sluicegate.processors.drift.rules import DriftRow, compile_drift
from sluicegate.processors.drift.runs import MixRun, RateRun, reference_of
from sluicegate.processors.drift.streams import Row, Tally, tally
from sluicegate.processors.drift.watch import Watch
from sluicegate.processors.evalues import at_most

NAMES = "abcdefghij"
SKEWED = (100, 50, 30, 10, 5, 3, 1, 1, 0.5, 0.2)
BUCKET = 10_000_000


def fits(hits: int, n: int, p: float) -> bool:
    """Whether so many hits are no proof, at 99 %, that their probability is above p."""
    return hits == 0 or at_most(hits - 1, n, p) < 0.99


# -- distances of names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "n", "m", "alpha", "threshold"),
    [
        (10, 1_000, 1_000, 0.01, 0.0433),  # notes: 99 % quantile measured .0433
        (10, 100, 100, 0.01, 0.4333),
        (10, 100, 100, 0.05, 0.3384),
        (5, 1_000, 200, 0.01, 0.0797),
        (2, 500, 500, 0.001, 0.0433),
    ],
)
def test_what_psi_exceeds_by_chance(cells: int, n: int, m: int, alpha: float, threshold: float) -> None:
    found = log_chi2_above(threshold / (1 / n + 1 / m), cells - 1)
    assert found == pytest.approx(math.log(alpha), abs=0.02)


@pytest.mark.parametrize(
    ("x", "degrees", "p"),
    [(3.841459, 1, 0.05), (21.665994, 9, 0.01), (0.554298, 5, 0.99), (124.3421, 100, 0.05), (1_500, 9, 0.0)],
)
def test_chi_square(x: float, degrees: int, p: float) -> None:
    assert math.exp(log_chi2_above(x, degrees)) == pytest.approx(p, rel=1e-5)


def test_chi_square_far_out() -> None:
    assert log_chi2_above(1_500, 9) == pytest.approx(-729.5, abs=1)
    assert log_chi2_above(-1, 9) == log_chi2_above(3, 0) == 0.0


@pytest.mark.parametrize("weights", [(1,) * 10, SKEWED], ids=["even", "skewed"])
@pytest.mark.parametrize(("n", "m"), [(300, 300), (1_000, 1_000), (5_000, 200)])
def test_two_samples_of_one_distribution(weights: tuple[float, ...], n: int, m: int) -> None:
    """The p-value is one."""
    chance = random.Random(f"{weights}{n}{m}")
    logs = []
    for _ in range(600):
        shift = compare(
            Counter(chance.choices(NAMES, weights, k=n)), Counter(chance.choices(NAMES, weights, k=m))
        )
        assert shift is not None
        logs.append(shift.log_p)
    for alpha in (0.05, 0.01, 0.001):
        hits = sum(p < math.log(alpha) for p in logs)
        assert fits(hits, len(logs), 1.5 * alpha), (alpha, hits)


def test_the_old_rule_alarms_at_size_100() -> None:
    chance = random.Random(1)
    samples = [Counter(chance.choices(NAMES, k=100)) for _ in range(400)]
    shifts = [compare(a, b) for a, b in zip(samples[::2], samples[1::2], strict=True)]
    assert sum(s is not None and s.psi > 0.1 for s in shifts) > 140
    assert sum(s is not None and s.log_p < math.log(0.001) for s in shifts) <= 2


def test_jensen_shannon_is_the_effect_whatever_the_size() -> None:
    small = compare({"a": 80, "b": 20}, {"a": 60, "b": 40})
    large = compare({"a": 80_000, "b": 20_000}, {"a": 60_000, "b": 40_000})
    assert small is not None and large is not None
    assert small.js == pytest.approx(large.js, rel=1e-9)
    assert small.js == pytest.approx(0.03484, abs=1e-4)
    assert large.log_p < -1_000 < small.log_p < math.log(0.01)
    assert large.moved[0] in (("a", 0.8, 0.6), ("b", 0.2, 0.4))
    apart = compare({"a": 500}, {"b": 500})
    assert apart is not None and apart.js == pytest.approx(1.0)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 300)),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 300)),
)
def test_any_counts(a: dict[str, int], b: dict[str, int]) -> None:
    old, new = merged(a, b)
    assert old.keys() == new.keys()
    assert (sum(old.values()), sum(new.values())) == (sum(a.values()), sum(b.values()))
    shift = compare(a, b)
    if shift is not None:
        assert 0.0 <= shift.js <= 1.0 + 1e-9
        assert shift.psi >= 0.0
        assert shift.log_p <= 0.0


def test_rare_names_are_one_cell() -> None:
    many = {f"n{i}": 1 for i in range(50)}
    old, new = merged({"a": 500, **many}, {"a": 500, **many})
    assert (old[OTHER], len(old)) == (50, 2)
    old, new = merged({"a": 500, "x": 1}, {"a": 500})
    assert (old, new) == ({"a": 501}, {"a": 500})


# -- a rate, over time ---------------------------------------------------------------------------------------------


def first_alarm(
    chance: random.Random, rate: float, bound: float, bar: float, buckets: int, n: int = 5
) -> int:
    """The bucket of the first alarm, or -1."""
    run = RateRun()
    for bucket in range(buckets):
        bad = sum(chance.random() < rate for _ in range(n))
        run.observe(bucket, Tally(n, bad), bound, 0.05)
        if run.log_e >= bar:
            return bucket
    return -1


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.3])
def test_run_length_without_a_change(rate: float) -> None:
    """P(alarm within L/5 buckets) <= 1/5, at the worst case: the rate is its bound."""
    chance = random.Random(f"null {rate}")
    streams, length = 400, 500
    false = sum(first_alarm(chance, rate, rate, math.log(length), length // 5) >= 0 for _ in range(streams))
    assert fits(false, streams, 0.2), false


def test_it_breaks_where_calls_come_in_bursts() -> None:
    """Ten copies of every call are ten times the evidence: what the docs say of dependent calls is so."""
    chance = random.Random("bursts")
    false = 0
    for _ in range(200):
        run = RateRun()
        for bucket in range(100):
            run.observe(bucket, Tally(10, 10 * (chance.random() < 0.05)), 0.05, 0.05)
            if run.log_e >= math.log(500):
                false += 1
                break
    assert false > 60


@pytest.mark.parametrize(
    ("rate", "median"), [(0.10, 200), (0.15, 60), (0.25, 30)], ids=["5 to 10 %", "5 to 15 %", "5 to 25 %"]
)
def test_power(rate: float, median: int) -> None:
    """Calls until the alarm at L = 10,000 buckets of five calls."""
    chance = random.Random(f"power {rate}")
    found = [first_alarm(chance, rate, 0.05, math.log(10_000), 2_000) for _ in range(101)]
    assert min(found) >= 0
    assert 5 * sorted(found)[50] <= 2 * median


def test_scores_between_nought_and_one_keep_the_run_length() -> None:
    chance = random.Random("scores")
    false = 0
    for _ in range(300):
        run = RateRun()
        for bucket in range(100):
            run.observe(bucket, Tally(5, sum(chance.betavariate(1, 9) for _ in range(5))), 0.1, 0.05)
            if run.log_e >= math.log(500):
                false += 1
                break
    assert fits(false, 300, 0.2)


def test_where_the_change_began_is_about_right() -> None:
    chance = random.Random(7)
    run = RateRun()
    for bucket in range(400):
        rate = 0.02 if bucket < 300 else 0.3
        run.observe(bucket, Tally(5, sum(chance.random() < rate for _ in range(5))), 0.03, 0.05)
    assert 295 <= run.best.began <= 303
    assert run.best.bad / run.best.n == pytest.approx(0.3, abs=0.05)


def test_a_reference_of_few_calls_has_a_wide_bound() -> None:
    assert reference_of("own", Tally(500, 10)).bound == pytest.approx(0.0545, abs=1e-3)
    assert reference_of("own", Tally(50_000, 1_000)).bound == pytest.approx(0.0225, abs=1e-3)
    assert reference_of("own", Tally(500, 500)).bound == 1.0


def test_a_stream_that_always_fails_alarms_never() -> None:
    run = RateRun()
    for bucket in range(100):
        run.observe(bucket, Tally(5, 5), 0.97, 0.05)
    assert run.log_e == -math.inf


# -- names, over time ----------------------------------------------------------------------------------------------


def test_windows_do_not_multiply() -> None:
    """A reference that is a little off is not found out by patience: W windows alarm falsely W/L times at most."""
    chance = random.Random("windows")
    false = 0
    for _ in range(60):
        reference = reference_of("own", Tally(500, 0, Counter(chance.choices(NAMES, SKEWED, k=500))))
        run = MixRun()
        for bucket in range(200):
            run.observe(bucket, Tally(50, 0, Counter(chance.choices(NAMES, SKEWED, k=50))), reference, 500)
            false += run.log_e >= math.log(200) and run.window.n == 0
    assert false <= 60 * 20 / 200 * 1.5


def test_a_moved_mix_is_found_in_one_window() -> None:
    chance = random.Random("mix")
    reference = reference_of("before", Tally(5_000, 0, Counter(chance.choices("ab", (98, 2), k=5_000))))
    run = MixRun()
    run.observe(0, Tally(500, 0, Counter(chance.choices("ab", (85, 15), k=500))), reference, 500)
    assert run.shift is not None and run.shift.js > 0.02
    assert run.log_e > math.log(100 * 241_920)


# -- many streams --------------------------------------------------------------------------------------------------


def rows_of(chance: random.Random, at: int, agents: int, rate: float, release: str = "r") -> list[Row]:
    return [
        Row(at, release, f"agent-{i}", "t", asked=5, refused=sum(chance.random() < rate for _ in range(5)))
        for i in range(agents)
    ]


def test_violations_that_are_only_observed_are_a_rate_for_who_asks() -> None:
    rule = {"id": "observed", "stream": "observed", "per": "agent", "action": "review"}
    rows = [Row(0, "r", "agent-0", "t", asked=5, observed=7), Row(0, "r", "agent-0", "u", asked=1)]
    found = {
        key.text: one
        for key, one in tally(compile_drift(DriftRow.model_validate({"alarms": [rule]})), rows).items()
    }
    assert (found["observed agent=agent-0"].n, found["observed agent=agent-0"].bad) == (6, 5)
    assert not any(key.rule_id == "observed" for key in tally(compile_drift(DriftRow()), rows))


def only_refused(**more: object) -> DriftRow:
    """Every other stream off."""
    off = ["failed", "withheld", "ungrounded", "low-quality", "tools", "bigrams", "shapes", "model"]
    rows = [{"id": name, "stream": "refused", "action": "none"} for name in off]
    return DriftRow.model_validate({"alarms": [{"id": "refused", "stream": "refused", **more}, *rows]})


def test_a_fleet_keeps_its_run_length() -> None:
    """P(any of 20 streams alarms within L/5) <= 1/5."""
    row = only_refused(expected=0.05)
    row = row.model_copy(update={"run_length_h": 500 * 10 / 3_600})
    drift = compile_drift(row)
    assert drift.run_length == pytest.approx(500)
    chance = random.Random("fleet")
    false = 0
    for _ in range(40):
        watch = Watch(drift, {"r": 0})
        for bucket in range(100):
            watch.feed(bucket * BUCKET, rows_of(chance, bucket * BUCKET, 20, 0.05))
            if watch.signals():
                false += 1
                break
    assert fits(false, 40, 0.2), false


def test_many_that_change_together_are_found_sooner_than_one() -> None:
    def delay(changed: int) -> int:
        chance = random.Random("together")
        watch = Watch(compile_drift(only_refused(expected=0.02)), {"r": 0})
        for bucket in range(200):
            rows = rows_of(chance, bucket * BUCKET, 100, 0.02)
            for row in rows[:changed]:
                row.refused = 1 + bucket % 2
            watch.feed(bucket * BUCKET, rows)
            names = {s.key.agent_id for s in watch.signals()}
            if "agent-0" in names:
                return bucket
        raise AssertionError

    assert delay(100) <= delay(1) < 30
