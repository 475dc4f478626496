"""A sample that was decided again, as events of control: what came out, and an alarm when that was not all of it.

The sentinel writes both; the alarm is told like any other and never acts by itself. Each has the seed, the period and the partition, so anybody draws the same sample: `sluicegate reproduce --sample N
--seed S --partition P --from-time T --to-time T`. Pure: proposes only. Next: `streams/replay/reproduce_watch.py` (who samples).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sluicegate.processors.drift import alarm_events
from sluicegate.processors.drift.alarm_events import NOTIFY, RAISED, SAMPLED
from sluicegate.processors.drift.sentinel_plan import Body, Event, alarm_id
from sluicegate.processors.replay.reproduce import DIFFERENT, SAME, SKIPPED

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

REPRODUCE: Final = "reproduce"
"""Rule, stream and detector."""
COOL_DOWN_S = 3_600


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a sample said. `counts`: intents by verdict; `first`: the first difference in words. Times in microseconds."""

    seed: str
    partition: int
    since: int
    until: int
    size: int
    share: float
    counts: dict[str, int]
    first: str = ""

    @property
    def said(self) -> str:
        """One sentence for a person."""
        parts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(self.counts.items()) if verdict != SAME)
        told = f": {self.first}" if self.first else ""
        but = f" ({parts})" if parts else ""
        return f"of a sample of partition {self.partition} {100 * self.share:.2f} % of the intents are reproducible{but}{told}"


def sampled_event(sampled: Sampled) -> list[Event]:
    """What a sample came to, for analysts: one event of 400 bytes an hour, 3.5 MB a year. None for an empty period."""
    if not sum(sampled.counts.values()):
        return []
    return [(SAMPLED, _evidence(sampled))]


def irreproducible(control: Control, sampled: Sampled, now: int) -> list[Event]:
    """The alarm of a sample under 100 %; none for a whole one, or while the last one cools down."""
    if sampled.share >= 1.0 or not set(sampled.counts) - {SAME, SKIPPED}:
        return []
    ident = alarm_id(REPRODUCE, REPRODUCE, "", sampled.until)
    if ident in control.alarms or alarm_events.cooling(
        control, REPRODUCE, REPRODUCE, COOL_DOWN_S * 1_000_000, max(now, control.at)
    ):
        return []
    evidence: Body = {"detector": REPRODUCE, **_evidence(sampled)}
    body: Body = {
        "id": ident, "rule": REPRODUCE, "stream": REPRODUCE, "action": NOTIFY, "agent_id": "", "tool": "", "release": "",
        "until": sampled.until, "began": sampled.since, "cool_down_s": COOL_DOWN_S, "evidence": evidence, "said": sampled.said,
    }  # fmt: skip
    return [(RAISED, body)]


def _evidence(sampled: Sampled) -> Body:
    return {
        "seed": sampled.seed, "partition": sampled.partition, "since": sampled.since, "until": sampled.until,
        "n": sampled.size, "share_ppm": round(1_000_000 * sampled.share), "counts": dict(sorted(sampled.counts.items())),
        "different": sampled.counts.get(DIFFERENT, 0),
    }  # fmt: skip
