"""The sentinel: reads what was decided, watches for drift, and proposes alarms and what they ask for.

A leader timer of the monitor role. One look: heads from Kafka, how far the store is complete, the buckets since the last
look into the detectors, the signals into control events on the head they were seen under. It only proposes: control's
fold says what counts (`processors/drift/alarm_events.py`), so two sentinels, or one that went mad, do no more than one. It keeps
nothing: after a restart the same rows are read again and the same state comes out. What cannot be seen is `blind`, an
alarm of its own, never "fine".
Next: `watch/drift_feed.py` (rows into detectors), `processors/drift/sentinel_plan.py` (signals into events), `watch/monitor.py` (the timer).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import in_use
from sluicegate.processors.drift.alarm_events import SENTINEL
from sluicegate.processors.drift.rules import DEFAULT_DRIFT, Drift
from sluicegate.processors.drift.sentinel_plan import Event, blind, plan, said
from sluicegate.processors.drift.watch import Signal
from sluicegate.schemas.errors import Retryable, SluicegateError
from sluicegate.streams.watch.drift_feed import Feed, run_start
from sluicegate.streams.watch.windows import Coverage, Cut, Head, Windows, coverage

PROVED_MAX = 20_000
"""Outcomes of a partition that a first look counts one by one against the manifest: 20 ms. Older ones were counted before."""
SIGNALS_MAX = 20
"""Alarms of one look; the strongest come first, the others at the next look."""

Heads = Callable[[], Awaitable[Mapping[int, Head]]]
Propose = Callable[[list[Event], str, int], Awaitable[Control]]
"""(events, why, expected head) -> control after them. Raises `Terminal` when control moved meanwhile."""

log = logging.getLogger("sluicegate.sentinel")


class Controls(Protocol):
    """Control as it is now, with its release."""

    @property
    def control(self) -> Control: ...


class Sentinel:
    """See the module. `clock`: microseconds."""

    def __init__(
        self, windows: Windows, controls: Controls, heads: Heads, propose: Propose, clock: Callable[[], int],
        who: Callable[[], str] = lambda: SENTINEL,
    ) -> None:  # fmt: skip
        self._windows, self._controls, self._heads = windows, controls, heads
        self._propose, self._clock, self._who = propose, clock, who
        self.feed: Feed | None = None
        self._of: tuple[str, int] = ("", -1)
        self._proved: dict[int, int] = {}
        self._seen_until = 0
        self._dark_since = 0
        self._beyond = 0
        self.blind = "nothing was looked at yet"
        self.raised = 0
        self.looks = 0
        self.skipped_us = 0

    async def look(self) -> list[Signal]:
        """Once. Returns the signals; what could not be seen is in `blind`."""
        now, control = self._clock(), self._controls.control
        if not control.deployed or control.release is None:
            self.blind = "nothing is deployed"
            return []
        drift, log_id = control.release.drift, control.log_id.hex()
        try:
            there = await self._coverage(log_id, now)
            signals = await asyncio.to_thread(self._judge, control, drift, log_id, there, now)
        except Retryable as error:
            there, signals = Coverage(log_id, self._seen_until, {}, str(error)), []
        await self._say_blind(control, drift, there, now)
        for signal in signals[:SIGNALS_MAX]:
            control = await self._raise(control, drift, signal, log_id, there.cut)
        self.looks += 1
        return signals

    # -- seeing -------------------------------------------------------------------------------------------------------

    async def _coverage(self, log_id: str, now: int) -> Coverage:
        heads = await self._heads()
        there = coverage(log_id, heads, await asyncio.to_thread(self._windows.stored, log_id), now)
        if not there.cut:
            return there
        missing = await asyncio.to_thread(self._missing, log_id, there.cut)
        if missing:
            self._beyond = there.until
            said = f"{missing} outcomes that the manifest promises are not in ClickHouse"
            return Coverage(log_id, self._seen_until, there.cut, said)
        return there

    def _missing(self, log_id: str, cut: Cut) -> int:
        """Outcomes between what was proved before and the cut that the table does not have."""
        after = {p: self._proved.get(p, max(-1, seq - PROVED_MAX)) for p, seq in cut.items()}
        wanted = sum(seq - after[p] for p, seq in cut.items())
        missing = wanted - self._windows.count(log_id, after, cut)
        if not missing:
            self._proved = dict(cut)
        return missing

    def _judge(self, control: Control, drift: Drift, log_id: str, there: Coverage, now: int) -> list[Signal]:
        """The buckets that are complete by now, into the detectors."""
        feed = self._feed(control, drift, log_id, there, now)
        for alarm in control.alarms.values():
            feed.watch.reset(alarm.rule, alarm.stream, alarm.until)
        if there.cut:
            for _ in feed.to(there.until, there.cut):
                pass
            self._seen_until = max(self._seen_until, there.until)
        return sorted(feed.watch.signals(), key=lambda s: (-s.log_e, s.key))

    def _feed(self, control: Control, drift: Drift, log_id: str, there: Coverage, now: int) -> Feed:
        """That of today and these rules; another release's rules, and another day, begin anew from the store."""
        of = (f"{log_id} {control.deployed}", run_start(now))
        watched = in_use(control)
        if self.feed is None or self._of != of:
            # What was before all of them came into force is only compared with.
            start = max(of[1], min(began_at(control, release) for release in watched))
            self.feed, self._of = Feed(self._windows, drift, log_id, start, {}), of
        for gone in self.feed.watch.releases.keys() - watched:
            self.feed.forget(gone)
        for release in sorted(watched):
            begun = began_at(control, release)
            if begun <= there.until:  # else not all is there that it is compared with
                self.feed.follow(release, begun)
        return self.feed

    # -- saying -------------------------------------------------------------------------------------------------------

    async def _say_blind(self, control: Control, drift: Drift, there: Coverage, now: int) -> None:
        """What was not seen for longer than the release allows is an alarm."""
        dark = now - (self._seen_until or now)
        if there.blind and not self._dark_since:
            self._dark_since = now
        if not there.blind:
            self._dark_since = 0
        lasts = max(dark, now - self._dark_since if self._dark_since else 0)
        late = bool(there.blind) and lasts > drift.blind_after_us
        self.blind = there.blind if late or not self._seen_until else ""
        if not late:
            return
        events = blind(control, there.blind, self._dark_since, now)
        if events:
            await self._append(control, events, f"nothing is watched: {there.blind}")
        if there.cut and "manifest promises" in there.blind:
            # It will not come by waiting: what is beyond it is watched again, and the alarm says what was not.
            self._proved, self.skipped_us = dict(there.cut), self.skipped_us + lasts
            self._seen_until, self._dark_since = max(self._seen_until, self._beyond), 0
            if self.feed is not None:
                self.feed.skip(self._beyond)

    async def _raise(self, control: Control, drift: Drift, signal: Signal, log_id: str, cut: Cut) -> Control:
        events = plan(control, drift, signal, log_id, cut, self._clock(), self._who())
        if not events:
            return control
        after = await self._append(control, events, said(signal))
        return after or control

    async def _append(self, control: Control, events: list[Event], why: str) -> Control | None:
        """Control after them; None when somebody else was first: the next look sees what is so by then."""
        try:
            after = await self._propose(events, why, control.head)
        except SluicegateError as error:
            log.warning("alarm not raised: %s", error)
            return None
        self.raised += 1
        log.warning("alarm %s: %s", events[0][1].get("id"), why)
        return after

    def metrics(self) -> dict[str, float]:
        """For Prometheus."""
        watch = self.feed.watch if self.feed is not None else None
        alarms = self._controls.control.alarms.values()
        return {
            "sluicegate_sentinel_blind": float(bool(self.blind)),
            "sluicegate_sentinel_looks_total": self.looks,
            "sluicegate_sentinel_alarms_raised_total": self.raised,
            "sluicegate_sentinel_open_alarms": sum(alarm.open for alarm in alarms),
            "sluicegate_sentinel_seen_until_seconds": self._seen_until / 1e6,
            "sluicegate_sentinel_skipped_seconds_total": self.skipped_us / 1e6,
            "sluicegate_sentinel_streams": len(watch.runs) if watch else 0,
            "sluicegate_sentinel_learning_streams": len(watch.learning()) if watch else 0,
            "sluicegate_sentinel_streams_left_out_total": watch.overflow if watch else 0,
            "sluicegate_sentinel_scores_ignored_total": watch.ignored if watch else 0,
        }


def began_at(control: Control, release: str) -> int:
    """When a release came into force; of one that is only pinned, long ago."""
    if release == control.deployed:
        return control.deployed_at
    canary = control.canary
    return canary.at if canary is not None and canary.digest == release else 0


def rules_of(control: Control) -> Drift:
    """Those of the deployed release."""
    return control.release.drift if control.release is not None else DEFAULT_DRIFT
