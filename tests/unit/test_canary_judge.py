"""The judge of a canary: what counts as a session, how often it is wrong, and that a verdict on a beginning stays.

Null calibration is on recorded sessions (`examples/traffic`, licences beside them) whose arms are drawn anew 2,000 times, and on
made traffic that drifts: there a judge that paired sessions in order would be wrong, and is shown to be.
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.canary import judge as canary_judge
from sluicegate.processors.canary.judge import (
    ABORT,
    CAP,
    CONTINUE,
    PROMOTE,
    Compared,
    Judge,
    block_size,
    judge,
)
from sluicegate.processors.canary.rules import COUNTED, DEFAULT_RULES, CanaryRules, MetricRule
from sluicegate.processors.canary.scores import (
    ARMS,
    CANARY,
    CONTROL,
    Item,
    Row,
    Scores,
    alone,
    arm_of,
    draw_of,
    in_arm,
    tie_of,
)
from sluicegate.processors.control.deployments import Canary
from sluicegate.processors.evalues import PairMixture
from sluicegate.processors.releases.release import compile_release

from tests.driver import release, release_files
from tests.unit.test_evalues import NULL_RUNS, holds

NEW, OLD = "sha256:new", "sha256:old"
TENTH = Canary(NEW, 1_000, 7, auto=True, control=OLD, at=1)
ONE_METRIC = CanaryRules(0.05, 30, 5_000, "hold", (MetricRule("failure", 0.05, 0.05, False),))
TRAFFIC = Path(__file__).parents[2] / "examples" / "traffic"


def drawn(canary: Canary, scores: list[int]) -> Iterator[Item]:
    """Sessions that close one after the other with these scores, their arms by the draw."""
    for n, score in enumerate(scores):
        draw = draw_of(canary, "agent", f"s{n}")
        yield Item(n, 0, n, CANARY if in_arm(canary, draw) else CONTROL, tie_of(draw), (("failure", score),))


def aborted(canary: Canary, scores: list[int], rules: CanaryRules = ONE_METRIC) -> bool:
    rules = replace(rules, min_sessions=10**6, max_sessions=10**6)  # nothing but an abort ends it
    return judge(rules, canary, drawn(canary, scores)).verdict == ABORT


# -- how often it is wrong -------------------------------------------------------------------------------------------


@cache
def recorded() -> list[int]:
    """Of each recorded session the share of calls that failed, in hundredths, in the recordings' order: suite by suite."""
    calls: dict[str, list[bool]] = {}
    for path in sorted(TRAFFIC.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for step in map(json.loads, lines):
                if step["kind"] == "tool_call":
                    calls.setdefault(step["session"], []).append(step["error"] is not None)
    return [round(100 * sum(failed) / len(failed)) for failed in calls.values()]


@pytest.mark.parametrize("weight_bp", [3_000, 5_000])
def test_recorded_sessions_with_arms_drawn_anew(weight_bp: int) -> None:
    """2,000 draws: aborted in at most 5 %, at 99 % confidence, looked at after every block."""
    scores = recorded()
    assert len(scores) > 400 and 30 < sum(1 for s in scores if s) < 200
    runs = NULL_RUNS if weight_bp == 3_000 else 300
    false = sum(aborted(Canary(NEW, weight_bp, seed, control=OLD), scores) for seed in range(runs))
    assert holds(false, runs, 0.05)


def drifting(chance: Random, n: int) -> list[int]:
    """Sessions fail more and more: 2 % at first, 40 % at the end; in bursts of ten that fail together."""
    return [
        100 * (chance.random() < 0.02 + 0.38 * k / n) for k in range(0, n, 10) for _ in [0] for _ in range(10)
    ]


def test_drift_and_bursts_make_no_false_alarm() -> None:
    """With no difference between the arms, whatever happens to all sessions. Pairing the n-th of each arm would not stand it."""
    false = naive = 0
    runs = 200
    for seed in range(runs):
        canary = Canary(NEW, 2_000, seed, control=OLD)
        items = list(drawn(canary, drifting(Random(seed), 800)))
        false += judge(replace(ONE_METRIC, min_sessions=10**6), canary, items).verdict == ABORT
        arms = [[i.scores[0][1] > 0 for i in items if i.arm == arm] for arm in ARMS]
        test = PairMixture()
        for new, other in zip(*arms, strict=False):
            test.observe(new, other)
            if test.log_e >= -math.log(0.05):
                naive += 1
                break
    assert holds(false, runs, 0.05)
    assert naive > runs / 2


def test_a_block_is_fair_whichever_of_its_sessions_are_the_canarys() -> None:
    """Over all ways to draw, the mean of what is bet on is exactly 0: the guarantee needs no model of the traffic."""
    scores = [0, 0, 30, 100, 7]
    for size in (1, 2, 4):
        total = n = 0.0
        for order in permutations(range(5)):
            one = Compared(ONE_METRIC.metrics[0], 5)
            for place, k in enumerate(order):
                one.take(0 if place < size else 1, k * 17 % 5 if size == 9 else place, scores[k])
            for value, times in one.values.counts.items():
                total, n = total + value * times, n + times
        assert n and total / n == pytest.approx(0.0, abs=1e-12)


def test_three_metrics_share_alpha() -> None:
    """All of them noisy and none different: the canary as a whole is aborted in at most 5 %."""
    rules = replace(
        DEFAULT_RULES,
        metrics=tuple(
            MetricRule(name, 0.05 / 3, 0.05, name == "quality") for name in ("failure", "cost", "quality")
        ),
    )
    false, runs = 0, 300
    for seed in range(runs):
        chance, canary = Random(seed), Canary(NEW, 3_000, seed, control=OLD)
        found = Judge(replace(rules, min_sessions=10**6), canary)
        for item in drawn(canary, [0] * 300):
            found.take(
                item._replace(
                    scores=(("failure", 100 * (chance.random() < 0.2)), ("cost", chance.randrange(101)))
                )
            )
            found.take(item._replace(scores=(("quality", chance.choice((0, 50, 100))),)))
        false += found.verdict == ABORT
    assert holds(false, runs, 0.05)


# -- how soon it is right ----------------------------------------------------------------------------------------------


def sessions_to(verdict: str, old: float, new: float, seed: int, weight_bp: int = 1_000) -> int | None:
    chance, canary = Random(seed), Canary(NEW, weight_bp, seed, control=OLD)
    found = Judge(ONE_METRIC, canary)
    for item in drawn(canary, [0] * 40_000):
        bad = chance.random() < (new if item.arm == CANARY else old)
        if found.take(item._replace(scores=(("failure", 100 * bad),))) != CONTINUE:
            return found.closed[0] if found.verdict == verdict else None
    return None


@pytest.mark.parametrize(("new", "median"), [(0.10, 210), (0.15, 80), (0.25, 35)])
def test_power(new: float, median: int) -> None:
    """Sessions of the canary until the abort, against 5 % and at 10 %. Pairs need 324 / 107 / 40: nine control sessions say more."""
    found = [sessions_to(ABORT, 0.05, new, seed) for seed in range(60)]
    assert sum(n is not None for n in found) >= 57
    assert statistics.median(n for n in found if n is not None) == pytest.approx(median, rel=0.25)


def test_an_even_canary_is_promoted_and_a_worse_one_is_not() -> None:
    even = [sessions_to(PROMOTE, 0.05, 0.05, seed) for seed in range(40)]
    assert sum(n is not None for n in even) >= 36
    assert statistics.median(n for n in even if n is not None) < 600
    worse = [sessions_to(PROMOTE, 0.05, 0.10, seed) for seed in range(100)]  # worse by the margin
    assert holds(sum(n is not None for n in worse), 100, 0.025)


def test_a_better_canary_is_promoted_sooner() -> None:
    better = [sessions_to(PROMOTE, 0.10, 0.02, seed) or 10**6 for seed in range(20)]
    assert statistics.median(better) < 150


# -- a verdict on a beginning stays ------------------------------------------------------------------------------------


@given(st.integers(0, 1_000))
@settings(max_examples=25, deadline=None)
def test_a_prefix_never_changes(seed: int) -> None:
    """However the log goes on, in whatever order its rows come to be known."""
    chance, canary = Random(seed), Canary(NEW, 5_000, seed, control=OLD)
    bad = chance.choice((0.0, 0.3, 0.6))
    items = [
        item._replace(scores=(("failure", 100 * (item.arm == CANARY and chance.random() < bad)),))
        for item in drawn(canary, [0] * 160)
    ]
    rules = replace(ONE_METRIC, min_sessions=chance.choice((10, 60)), max_sessions=chance.choice((40, 500)))
    whole, running, shuffled = judge(rules, canary, items), Judge(rules, canary), list(items)
    chance.shuffle(shuffled)
    assert judge(rules, canary, shuffled).evidence() == whole.evidence()
    for n, item in enumerate(items):
        if running.take(item) != CONTINUE:  # the rest says nothing any more
            assert running.evidence() == whole.evidence() == judge(rules, canary, items[: n + 1]).evidence()
            break


def test_the_cap() -> None:
    rules = replace(ONE_METRIC, min_sessions=10, max_sessions=40)
    canary = replace(TENTH, weight_bp=5_000)
    scores = [100 * (n % 3 == 0) for n in range(400)]
    found = judge(rules, canary, drawn(canary, scores))
    assert found.verdict == CAP and found.closed[0] == 40


def test_without_a_control_arm_nothing_is_judged() -> None:
    canary = replace(TENTH, weight_bp=10_000)
    found = judge(ONE_METRIC, canary, drawn(canary, [100] * 500))
    assert found.verdict == CONTINUE and found.closed == [500, 0] and found.metrics[0].used == [0, 0]


@pytest.mark.parametrize(
    ("weight_bp", "size"), [(1, 1_000), (100, 100), (1_000, 10), (5_000, 4), (9_000, 10), (9_999, 1_000)]
)
def test_block_sizes(weight_bp: int, size: int) -> None:
    assert block_size(weight_bp) == size


# -- what counts as a session ------------------------------------------------------------------------------------------


class Ledger:
    """One partition's rows."""

    def __init__(self, canary: Canary = TENTH, fold: Scores | None = None) -> None:
        self.canary, self.fold, self.seq = canary, fold or Scores(canary), 0
        self.items: list[Item] = []

    def row(self, status: str, session: str = "s", intent: str = "", **more: object) -> None:
        self.seq += 1
        row = Row(self.seq * 10, 0, self.seq, status, "", (), intent, "agent", session, 7, OLD)
        self.items += self.fold.add(row._replace(**more))  # type: ignore[arg-type]


def session_in(arm: str, canary: Canary = TENTH) -> str:
    """A session that is drawn into the arm."""
    release = NEW if arm == CANARY else OLD
    rows = (Row(0, 0, 0, "opened", "", (), "", "agent", f"s{n}", 7, release) for n in range(10_000))
    return next(row.session_id for row in rows if arm_of(canary, row) == arm)


def test_scores_of_a_session() -> None:
    ledger, s = Ledger(fold=Scores(TENTH, shares=frozenset(COUNTED))), session_in(CONTROL)
    ledger.row("opened", s)
    lives = [
        "released",
        "failed",
        "in_doubt",
        "in_doubt+resolved",
        "withheld",
        "refused",
        "routed",
        "released",
    ]
    for n, statuses in enumerate(["routed", *life.split("+")] for life in lives):
        for status in statuses:
            ledger.row(status, s, f"i{n}")
    ledger.row("refused", s, "i8", reason="ungrounded")
    ledger.row("released", "another", "i9")
    ledger.row("closed", s)
    ledger.row("failed", s, "i6")  # too late
    (item,) = ledger.items
    assert item.arm == CONTROL
    assert dict(item.scores) == {"failure": 22, "refusal": 22, "withheld": 11, "ungrounded": 11}


def test_any_such_call_makes_a_session_bad() -> None:
    ledger, s = Ledger(), session_in(CONTROL)
    ledger.row("opened", s)
    for n, status in enumerate(("failed", "failed", "released", "refused")):
        ledger.row(status, s, f"i{n}")
    ledger.row("closed", s)
    assert dict(ledger.items[0].scores) == {"failure": 100, "refusal": 100, "withheld": 0, "ungrounded": 0}


def test_what_a_rollback_of_its_agent_ended_counts_for_nobody() -> None:
    ledger, s = Ledger(fold=Scores(TENTH, shares=frozenset(COUNTED))), session_in(CONTROL)
    ledger.row("opened", s)
    for n, (status, reason) in enumerate((("withheld", "rolled_back"), ("refused", "rolling_back"), ("withheld", "guardrail"))):  # fmt: skip
        ledger.row("routed", s, f"i{n}")
        ledger.row(status, s, f"i{n}", reason=reason)
    ledger.row("closed", s)
    assert dict(ledger.items[0].scores) == {"failure": 0, "refusal": 0, "withheld": 100, "ungrounded": 0}


def test_sessions_that_never_close_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicegate.processors.canary.scores.MAX_OPEN", 2)
    ledger = Ledger()
    first, second, third = [
        s for s in (f"s{n}" for n in range(1_000)) if not in_arm(TENTH, draw_of(TENTH, "agent", s))
    ][:3]
    for session in (first, second, first, third):  # the first one opens anew: it is not the oldest any more
        ledger.row("opened", session)
    assert len(ledger.fold.open) == 2
    for session in (first, second, third):
        ledger.row("closed", session)
    assert len(ledger.items) == 2


def test_a_session_without_calls_and_one_that_never_closes() -> None:
    ledger, s = Ledger(), session_in(CANARY)
    ledger.row("opened", s, release=NEW)
    ledger.row("closed", s)
    assert dict(ledger.items[0].scores)["failure"] == 0 and ledger.items[0].arm == CANARY
    ledger.row("opened", session_in(CONTROL))
    assert len(ledger.items) == 1 and ledger.fold.waiting() == {CANARY: 0, CONTROL: 1}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"control_head": 6}, "opened before it began"),
        ({"control_head": 12}, "opened while it was paused"),
        ({"release": "sha256:other"}, "stands elsewhere"),
        ({"agent_id": "pinned"}, "an operator pinned its agent"),
        ({"session_id": "pinned"}, "an operator pinned it"),
    ],
)
def test_who_is_left_out(changed: dict[str, object], why: str) -> None:
    canary = replace(TENTH, pauses=(10, 20), pinned={("agent", "pinned"): 7, ("session", "pinned"): 7})
    for arm, digest in ((CANARY, NEW), (CONTROL, OLD)):
        row = Row(0, 0, 0, "opened", "", (), "", "agent", session_in(arm), 7, digest)
        assert arm_of(canary, row) == arm
        assert arm_of(canary, row._replace(control_head=25)) == arm  # resumed
        assert arm_of(canary, row._replace(**changed)) == "", why  # type: ignore[arg-type]
    late = replace(TENTH, pinned={("agent", "agent"): 9})
    row = Row(0, 0, 0, "opened", "", (), "", "agent", session_in(CONTROL), 8, OLD)
    assert arm_of(late, row) == CONTROL  # it was pinned after it opened
    assert arm_of(late, row._replace(control_head=9)) == ""


def test_what_only_one_release_forbids_is_no_regression() -> None:
    files = release_files()
    more = {"policies/more.cedar": '@id("tight") forbid (principal, action == Action::"desk.set", resource);'}
    other = compile_release({**files, **more})
    found = alone(release(), other)
    assert found == {"tight"} == alone(other, release()) and alone(other, other) == frozenset()
    changed = {
        **files,
        "policies/desk.cedar": files["policies/desk.cedar"].replace('== "never"', '== "ever"'),
    }
    assert alone(release(), compile_release(changed)) == {"desk-wire-never"}
    ledger, s = Ledger(fold=Scores(TENTH, found, shares=frozenset(COUNTED))), session_in(CONTROL)
    ledger.row("opened", s)
    ledger.row("refused", s, "i1", policies=("tight",))
    ledger.row("refused", s, "i2", policies=("desk-not-this",))
    ledger.row("refused", s, "i3", reason="no_permit")
    ledger.row("withheld", s, "i4", policies=("tight",))
    ledger.row("closed", s)
    assert dict(ledger.items[0].scores) == {"failure": 0, "refusal": 50, "withheld": 0, "ungrounded": 0}


def test_quality_counts_when_it_comes_to_be_known() -> None:
    ledger, a, b = Ledger(), session_in(CONTROL), session_in(CANARY)
    ledger.row("opened", a)
    ledger.row("opened", b, release=NEW)
    ledger.row("scored", b, amount=70)  # before its end
    ledger.row("closed", a)
    ledger.row("closed", b)
    ledger.row("scored", a, amount=900)
    ledger.row("scored", a, amount=10)  # the first counts
    ledger.row("scored", "never", amount=10)
    assert [(i.arm, i.scores[0]) for i in ledger.items if not i.closed] == [
        (CANARY, ("quality", 70)),
        (CONTROL, ("quality", 100)),
    ]
    assert [i.at for i in ledger.items] == sorted(i.at for i in ledger.items)


def test_cost_is_clipped() -> None:
    ledger, s = Ledger(fold=Scores(TENTH, clip=1_000)), session_in(CONTROL)
    for spent, score in ((250, 25), (5_000, 100)):
        ledger.row("opened", s)
        ledger.row("routed", s, "i")
        ledger.row("spent", s, "i", amount=spent)
        ledger.row("failed", s, "i")
        ledger.row("closed", s)
        scores = dict(ledger.items.pop().scores)
        assert (scores["cost"], scores["failure"]) == (score, 100)


def test_lower_is_worse() -> None:
    rules = replace(ONE_METRIC, metrics=(MetricRule("quality", 0.05, 0.05, True),))
    canary = replace(TENTH, weight_bp=5_000)
    items = [
        i._replace(scores=(("quality", 20 if i.arm == CANARY else 80),)) for i in drawn(canary, [0] * 100)
    ]
    found = judge(rules, canary, items)
    assert found.verdict == ABORT and found.causes == ("quality",) and found.closed == [0, 0]
    evidence = canary_judge.metric_evidence(found.metrics[0], rules)
    assert evidence["rates"] == [0.2, 0.8] and evidence["worse_by"] == pytest.approx(0.6)
