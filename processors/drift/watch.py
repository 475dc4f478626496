"""Watch: the detectors of a release's rules over a run of buckets, and which of them alarm together.

    watch = Watch(drift, {release: deployed_at})
    watch.before[release] = tally(drift, rows_of_the_week_before, by_release=False)
    watch.hourly = tally(drift, rows_of_the_same_hour_of_four_weeks, by_release=False)     # anew every hour
    watch.feed(at, rows)                                                               # buckets in order of time
    watch.signals()

A stream is held against the same hour of the week where that has enough observations, else against the week before its
release (or the day) began, else against its own first ones. Which streams alarm is said by e-BH over all of them (Dandapanthula &
Ramdas 2025, "e-d-BH"): of what is raised, at most one in `run_length` buckets is false on average, anywhere. The same
rows give the same signals: live, after a restart, in `alarms show` and in `alarms backtest`.
Pure: knows no clock and asks nobody. Next: `drift/sentinel_plan.py` (what follows from a signal), `streams/watch/sentinel.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sluicegate.processors.drift.distances import Shift
from sluicegate.processors.drift.rules import Drift, Rule
from sluicegate.processors.drift.runs import MixRun, NewsRun, RateRun, Reference, reference_of
from sluicegate.processors.drift.streams import Key, Row, Tally, kind_of, tally
from sluicegate.processors.evalues import e_bh

MAX_STREAMS = 5_000
"""Streams of one watch: a detector and a reference of names, at most about 60 kB each and usually under 1 kB."""

HOUR_US = 3_600_000_000
WEEK_US = 168 * HOUR_US
WEEKS = 4
"""Weeks whose same hour is looked at."""

Run = RateRun | MixRun | NewsRun
DETECTORS = {RateRun: "e-SR", MixRun: "PSI", NewsRun: "first seen"}


@dataclass(frozen=True, slots=True)
class Signal:
    """One detector that says its stream changed.

    Attributes:
        log_e, threshold: natural logarithms of what it reached and what it needed.
        streams: how many were watched beside it.
        since, began, until: its run's first bucket, about when the change came, and the end of the last bucket.
        n, rate: observations since it began, and of a rate how bad they are.
        start, begun, reset: of the watch, of the release, and the end of the stream's last alarm: with these the same run
            comes out again.
    """

    key: Key
    rule: Rule
    detector: str
    log_e: float
    threshold: float
    streams: int
    since: int
    began: int
    until: int
    n: int
    rate: float
    reference: Reference
    shift: Shift | None = None
    names: tuple[str, ...] = ()
    start: int = 0
    begun: int = 0
    reset: int = 0


@dataclass(slots=True)
class Watch:
    """See the module.

    Attributes:
        releases: digest -> when it came into force; others are not looked at.
        hourly: what the same hour of earlier weeks holds, by `Key.place`.
        before: by release, what the week before it holds.
        resets: (rule, stream) -> end of its last alarm's data; its detector begins anew there.
        until: end of the last bucket.
        ignored: scores of quality that were none.
        overflow: streams that found no place.
    """

    drift: Drift
    releases: dict[str, int]
    start: int = 0
    hourly: dict[Key, Tally] = field(default_factory=dict)
    before: dict[str, dict[Key, Tally]] = field(default_factory=dict)
    resets: dict[tuple[str, str], int] = field(default_factory=dict)
    until: int = 0
    ignored: int = 0
    overflow: int = 0
    own: dict[Key, Tally] = field(default_factory=dict)
    runs: dict[Key, Run] = field(default_factory=dict)
    held: dict[Key, Reference] = field(default_factory=dict)
    """The reference of each stream's newest bucket."""
    since: dict[Key, int] = field(default_factory=dict)
    _rules: dict[str, Rule] = field(default_factory=dict)
    _known: dict[Key, Reference | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rules = {rule.rule_id: rule for rule in self.drift.rules}

    def hour(self, rows: Iterable[Row]) -> None:
        """The rows of the same hour in earlier weeks."""
        self.hourly = tally(self.drift, rows, by_release=False)
        self._known.clear()

    def week_before(self, release: str, rows: Iterable[Row]) -> None:
        """The rows of the week before a release, or the day, began."""
        self.before[release] = tally(self.drift, rows, by_release=False)
        self._known.clear()

    def feed(self, at: int, rows: Iterable[Row]) -> None:
        """One bucket. A bucket of before the last one is left out: time does not run backwards."""
        if at < self.until:
            return
        seen = list(rows)
        self.until = at + self.drift.bucket_us
        self.ignored += sum(row.ignored for row in seen)
        for key, found in tally(self.drift, seen).items():
            # A bucket in which a release or a run begins belongs to what was before.
            if at < max(self.releases.get(key.release, math.inf), self.start):
                continue
            if at < self.resets.get((key.rule_id, key.text), 0):
                continue
            self._observe(key, at, found)

    def reset(self, rule_id: str, stream: str, until: int) -> None:
        """An alarm was raised about it with data until then."""
        known = self.resets.get((rule_id, stream), -1)
        if until <= known:
            return
        self.resets[rule_id, stream] = until
        for key in [k for k in self.runs if (k.rule_id, k.text) == (rule_id, stream)]:
            del self.runs[key], self.since[key]

    def signals(self) -> list[Signal]:
        """Every stream whose detector alarms now, and is far enough from its reference to matter."""
        armed = [key for key, run in self.runs.items() if not isinstance(run, NewsRun)]
        logs = [self.runs[key].log_e for key in armed]
        chosen = [armed[i] for i in e_bh(logs, 1.0 / self.drift.run_length)]
        needed = math.log(max(1, len(armed)) * self.drift.run_length / max(1, len(chosen)))
        found = [self._signal(key, needed, len(armed)) for key in chosen]
        news = [key for key, run in self.runs.items() if isinstance(run, NewsRun) and run.names]
        found += [self._signal(key, 0.0, len(armed)) for key in news]
        return [one for one in found if _matters(one)]

    def signal_of(self, key: Key) -> Signal | None:
        """What a stream's detector says now, whether it alarms or not; None when it saw nothing."""
        return (
            self._signal(key, math.log(self.drift.run_length), len(self.runs)) if key in self.runs else None
        )

    def learning(self) -> list[Key]:
        """Streams without enough of a reference yet: nothing is said of them."""
        return [key for key in self.own if key not in self.held]

    def reference(self, key: Key) -> Reference | None:
        """What a stream is held against now."""
        if key not in self._known:
            self._known[key] = self._find(key)
        return self._known[key]

    def _find(self, key: Key) -> Reference | None:
        expected = self._rules[key.rule_id].expected
        if expected is not None:
            promised = Tally(1, expected)
            return Reference("expected", promised, max(1e-4, expected))
        places: tuple[tuple[str, Mapping[Key, Tally], Key], ...] = (
            ("hour_of_week", self.hourly, key.place),
            ("before", self.before.get(key.release, {}), key.place),
            ("own", self.own, key),
        )
        for source, where, name in places:
            held = where.get(name)
            if held is not None and held.n >= self.drift.reference:
                return reference_of(source, held)
        return None

    def _observe(self, key: Key, at: int, seen: Tally) -> None:
        reference = self.reference(key)
        if reference is None:
            self._learn(key, seen)
            return
        run = self.runs.get(key)
        if run is None:
            if len(self.runs) >= MAX_STREAMS:
                self.overflow += 1
                return
            run = self.runs[key] = _MAKERS[kind_of(self._rules[key.rule_id])]()
            self.since[key] = at
        self.held[key] = reference
        if isinstance(run, RateRun):
            run.observe(at, seen, reference.bound, self._rules[key.rule_id].floor)
        elif isinstance(run, MixRun):
            run.observe(at, seen, reference, self.drift.window)
        else:
            run.observe(at, seen, reference)

    def _learn(self, key: Key, seen: Tally) -> None:
        if key not in self.own and len(self.own) >= MAX_STREAMS:
            self.overflow += 1
            return
        self.own.setdefault(key, Tally()).add(seen)
        self._known.pop(key, None)

    def _signal(self, key: Key, needed: float, streams: int) -> Signal:
        run, reference = self.runs[key], self.held[key]
        rate, shift = 0.0, None
        names: tuple[str, ...] = ()
        if isinstance(run, RateRun):
            began, n, rate = run.best.began, run.best.n, run.best.bad / max(1, run.best.n)
        elif isinstance(run, MixRun):
            began, n, shift = run.began, run.shift.m if run.shift is not None else 0, run.shift
        else:
            began, n, names = run.began, sum(run.names.values()), tuple(sorted(run.names))[:10]
        return Signal(
            key, self._rules[key.rule_id], DETECTORS[type(run)], run.log_e, needed, streams, self.since[key],
            began, self.until, n, rate, reference, shift, names, self.start, self.releases.get(key.release, 0),
            self.resets.get((key.rule_id, key.text), 0),
        )  # fmt: skip


_MAKERS: dict[str, type[RateRun] | type[MixRun] | type[NewsRun]] = {
    "rate": RateRun, "mix": MixRun, "news": NewsRun,
}  # fmt: skip


def usual(reference: Reference) -> float:
    """The rate of a reference."""
    return reference.tally.bad / reference.tally.n if reference.tally.n else 0.0


def _matters(one: Signal) -> bool:
    if one.detector == "e-SR":
        return one.rate >= usual(one.reference) + one.rule.floor
    if one.shift is not None:
        return one.shift.js >= one.rule.floor
    return bool(one.names)
