"""Rules over the past: when would they have fired, what would they have done, how late, and how often for nothing.

The history is fed as it was into the same detectors; control stands as it stood then; what the rules would have raised and
done is folded by the same fold, so cool-downs and bounds count. What would have followed from an action did not happen: the
traffic after it is what it was. Blocking; writes nothing. Next: `watch/drift_feed.py`, `commands/alarms.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import rfc8785
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import in_use
from sluicegate.processors.drift.alarm_events import RAISED, SENTINEL, Alarm
from sluicegate.processors.drift.rules import Drift
from sluicegate.processors.drift.sentinel_plan import Event, plan
from sluicegate.schemas.records import ControlFacts
from sluicegate.streams.watch.drift_feed import Feed
from sluicegate.streams.watch.sentinel import began_at
from sluicegate.streams.watch.windows import Cut, Windows

INCIDENT_US = 24 * 3_600 * 1_000_000
"""An alarm within this after an incident is about it; any other is for nothing, as far as the labels say."""


@dataclass(frozen=True, slots=True)
class Fired:
    """One alarm that would have been raised.

    Attributes:
        at: end of the bucket it would have been raised after, microseconds.
        action: what would have been done; notify when it was held back.
        late_s: seconds after the newest incident; None without one, or before it.
        verdict: hit, false, or empty where no incident was named.
    """

    at: int
    rule: str
    stream: str
    release: str
    action: str
    held_back: str
    said: str
    late_s: float | None
    verdict: str


@dataclass(slots=True)
class Backtest:
    """What came of it. `incidents`: when something went wrong, in order."""

    start: int
    end: int
    incidents: tuple[int, ...] = ()
    fired: list[Fired] = field(default_factory=list)
    buckets: int = 0
    streams: int = 0
    missing: int = 0

    @property
    def false(self) -> int | None:
        """Alarms for nothing; None where nobody said what went wrong: then nobody knows."""
        return sum(one.verdict == "false" for one in self.fired) if self.incidents else None

    @property
    def late_s(self) -> dict[int, float | None]:
        """Incident -> seconds to the first alarm about it; None when there was none."""
        found: dict[int, float | None] = dict.fromkeys(self.incidents)
        for one in self.fired:
            about = _about(one.at, self.incidents)
            if about is not None and found[about] is None:
                found[about] = one.late_s
        return found


def backtest(
    windows: Windows, drift: Drift, history: Sequence[Control], start: int, end: int, incidents: Sequence[int] = (),
    on_bucket: Callable[[int], None] = lambda until: None,
) -> Backtest:  # fmt: skip
    """Feed the past between two times. `history`: control after each of its events."""
    log_id = history[-1].log_id.hex()
    cut = {p: head.seq for p, head in windows.stored(log_id).items()}
    found = Backtest(start, end, tuple(sorted(set(incidents))), missing=_missing(windows, log_id, cut))
    feed = Feed(windows, drift, log_id, start, {})
    done = Control()
    for after, upto in _stretches(history, start, end):
        for release in sorted(in_use(after)):
            feed.follow(release, began_at(after, release))
        for gone in feed.watch.releases.keys() - in_use(after):
            feed.forget(gone)
        for until in feed.to(upto, cut):
            on_bucket(until)
            found.buckets += 1
            done = _as_of(after, done, until)
            done = _judge(feed, drift, done, log_id, cut, found)
        found.streams = max(found.streams, len(feed.watch.runs))
    return found


def _stretches(history: Sequence[Control], start: int, end: int) -> list[tuple[Control, int]]:
    """(control, up to when it stood), in order, between the two times."""
    found = []
    for index, control in enumerate(history):
        upto = history[index + 1].at if index + 1 < len(history) else end
        if upto > start and control.at < end and control.deployed:
            found.append((control, min(upto, end)))
    return found


def _as_of(real: Control, done: Control, at: int) -> Control:
    """Control as it stood, with what the rules would have raised and done."""
    return replace(
        real, at=at, head=done.head + 1, alarms=done.alarms, acts=done.acts,
        quarantines={**real.quarantines, **done.quarantines}, reviews={**real.reviews, **done.reviews},
    )  # fmt: skip


def _judge(feed: Feed, drift: Drift, control: Control, log_id: str, cut: Cut, found: Backtest) -> Control:
    standing = control
    for signal in feed.watch.signals():
        events = plan(control, drift, signal, log_id, cut, feed.watch.until)
        for event in events:
            control = _folded(control, event)
        if events:
            alarm = next(a for a in control.alarms.values() if a.alarm_id == events[0][1]["id"])
            found.fired.append(_fired(alarm, str(events[0][1]["said"]), found.incidents))
            feed.watch.reset(alarm.rule, alarm.stream, alarm.until)
    # The deployment itself stays what it was: the traffic that follows is that of history.
    return replace(control, deployed=standing.deployed, previous=standing.previous, canary=standing.canary)


def _folded(control: Control, event: Event) -> Control:
    kind, body = event
    facts = ControlFacts(kind, SENTINEL, "", rfc8785.dumps(body))  # type: ignore[arg-type]
    # A release that asks who may deploy was asked by `plan` already.
    bare = replace(control, release=None, signing="dev")
    after = control_fold.fold(bare, control.head + 1, facts, control.at)
    assert kind != RAISED or str(body["id"]) in after.alarms
    return replace(after, release=control.release, signing=control.signing)


def _about(at: int, incidents: Sequence[int]) -> int | None:
    """The newest incident that an alarm at this time can be about."""
    return max((one for one in incidents if one <= at <= one + INCIDENT_US), default=None)


def _fired(alarm: Alarm, said: str, incidents: Sequence[int]) -> Fired:
    about = _about(alarm.at, incidents)
    late = None if about is None else (alarm.at - about) / 1e6
    verdict = "" if not incidents else "false" if about is None else "hit"
    return Fired(
        alarm.at, alarm.rule, alarm.stream, alarm.release, alarm.action, alarm.held_back, said, late, verdict
    )


def _missing(windows: Windows, log_id: str, cut: Cut) -> int:
    """Outcomes that the manifest promises and the table has not: what is not there fires nothing."""
    return sum(seq + 1 for seq in cut.values()) - windows.count(log_id, {}, cut)
