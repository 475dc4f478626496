"""What a parked call waits for, and how the fold keeps it: words and arithmetic shared by `jobs/jobs.py` and `state.py`.

    poll      the tool works on; executors ask for its status
    callback  the tool works on; it says so itself, at the executors' endpoint
    lookup    nobody knows what became of a call; executors look it up by its key
    absent    looked up: the tool has no trace of it, so it may be offered again

Never decides. Next: `jobs/jobs.py`.
"""

from __future__ import annotations

from typing import Final

from sluicegate.processors.entries import OpenIntent
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.records import JobFacts

POLL: Final = "poll"
CALLBACK: Final = "callback"
LOOKUP: Final = "lookup"
ABSENT: Final = "absent"
COMPLETIONS = (POLL, CALLBACK)

US = 1_000_000
POLL_MAX_US = 60 * US
"""Looks are this far apart at most, unless the contract asks for longer: a week of work is 10,000 looks."""
POLL_DOUBLINGS = 6
MISSED_LOOKS = 3
"""Looks that may be lost before a job without a sign of life is given up."""
LOST_LOOK_US = 7 * US
"""A look that nobody answers costs its lease and the margin, and the call's time-out; a test holds it to both."""
LOOKUP_LIMIT_US = 300 * US
"""A lookup that finds neither the call nor its absence for this long leaves it in doubt."""
DEFAULT_LIMIT_S = 3_600
MAX_LIMIT_S = 7 * 86_400
"""Of one job: a week; its intent stays open, and its state with it, about 1.4 kB."""


def interval_us(every_us: int, polls: int) -> int:
    """From one look to the next: doubled each time, up to `POLL_MAX_US` or the contract's own interval."""
    return min(every_us << min(polls, POLL_DOUBLINGS), max(every_us, POLL_MAX_US))


def fold(entry: OpenIntent, outcome: Outcome, facts: JobFacts) -> None:
    """Where a parked call stands."""
    entry.waits_for, entry.polls = facts.waits_for, facts.polls
    entry.alive_until, entry.ends_at = facts.alive_until, facts.ends_at
    if facts.not_after:
        entry.dispatch_id = outcome.event_id
    if facts.handed_over:
        entry.job_topic, entry.job_offset = outcome.origin.topic, outcome.origin.offset
