"""Feed a watch from a store: buckets in order, with the references that belong to them.

    feed = Feed(windows, drift, log_id, start, {release: deployed_at})
    for until in feed.to(end, cut): ...        # after every bucket that had traffic

Live, after a restart, when an alarm is shown and in a backtest it is this same loop over the same queries. Blocking; run it
in a thread. Never decides what follows. Next: `processors/drift/watch.py`, `watch/sentinel.py`, `control/alarms.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from sluicegate.processors.drift.rules import Drift
from sluicegate.processors.drift.watch import HOUR_US, WEEK_US, WEEKS, Watch
from sluicegate.streams.watch.windows import Cut, Windows

DAY_US = 24 * HOUR_US
REFERENCE_US = 7 * DAY_US
"""Before a release, or the day, began."""


def run_start(now: int) -> int:
    """When the runs of today begin: at midnight before yesterday's end, so a run is 24 to 48 hours long."""
    return now // DAY_US * DAY_US - DAY_US


class Feed:
    """One watch and how far it was fed.

    Args:
        start: nothing before it is looked at but as a reference.
        releases: digest -> when it came into force.
    """

    def __init__(
        self, windows: Windows, drift: Drift, log_id: str, start: int, releases: Mapping[str, int]
    ) -> None:
        begin = start // drift.bucket_us * drift.bucket_us
        self.watch = Watch(drift, {}, begin, until=begin)
        self._windows, self._log_id, self._hour = windows, log_id, -1
        for release, at in releases.items():
            self.follow(release, at)

    def follow(self, release: str, at: int) -> None:
        """Look at a release from now on; `at`: when it came into force."""
        if self.watch.releases.get(release) == at:
            return
        self.watch.releases[release] = at
        begin = max(at, self.watch.start)
        rows = self._windows.week(self._log_id, begin - REFERENCE_US, begin)
        self.watch.week_before(release, rows)

    def forget(self, release: str) -> None:
        """It decides nothing any more."""
        watch = self.watch
        watch.releases.pop(release, None)
        watch.before.pop(release, None)
        for key in [key for key in watch.runs if key.release == release]:
            del watch.runs[key], watch.since[key]
        for key in [key for key in watch.own if key.release == release]:
            del watch.own[key]

    def skip(self, until: int) -> None:
        """What was before is not judged: it is not all there."""
        bucket = self.watch.drift.bucket_us
        self.watch.until = max(self.watch.until, -(-until // bucket) * bucket)

    def to(self, end: int, cut: Cut) -> Iterator[int]:
        """Feed every whole bucket before `end`; yields the end of each that had traffic, and of the last one."""
        bucket = self.watch.drift.bucket_us
        end = end // bucket * bucket
        while self.watch.until < end:
            at = self.watch.until
            self._reference(at // HOUR_US * HOUR_US)
            upto = min(end, (at // HOUR_US + 1) * HOUR_US)
            # A bucket belongs to the hour it begins in.
            upto = min(end, -(-upto // bucket) * bucket)
            rows = self._windows.rows(self._log_id, at, upto, bucket, cut)
            for begin, those in groupby(rows, key=lambda row: row.at):
                self.watch.feed(begin, those)
                yield self.watch.until
            if self.watch.until < upto:
                self.watch.feed(upto - bucket, [])
        yield self.watch.until

    def _reference(self, hour: int) -> None:
        if hour == self._hour:
            return
        self._hour = hour
        rows = []
        for week in range(1, WEEKS + 1):
            begin = hour - week * WEEK_US
            rows += self._windows.week(self._log_id, begin, begin + HOUR_US)
        self.watch.hour(rows)
