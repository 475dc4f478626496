"""When what was said in the clear is gone from Kafka: the input topics and what goes to agents and executors.

Only the ledger's content is sealed; these topics hold bytes as they were sent, for as long as the topic keeps them. Kafka
deletes whole segments: a record goes when the newest of its segment is too old, so the latest moment is the topic's
retention and the time a segment may be written to (`segment.ms`). Asks the broker, since somebody may have changed both.
After a repartition also those of earlier generations. Never changes a topic. Next: `schemas/topics.py` (what each is kept for), `erasures.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sluicegate.schemas.topics import DAY_MS, TOPICS, full_name
from sluicegate.streams import topics
from sluicegate.streams.repartition.generation import up_to
from sluicegate.streams.settings import Settings

SEALED = ("outcomes", "control", "releases", "snapshots", "checkpoints")
"""Topics without anybody's text: the ledger's is sealed, the others have none."""

IN_THE_CLEAR = tuple(t.name for t in TOPICS if t.name not in SEALED)

CHECK_MS = 6 * 60_000
"""A broker looks for old segments every five minutes, and removes their files a minute later."""

FOR_EVER = "never: its retention has no end"


@dataclass(frozen=True, slots=True)
class Expiry:
    """One topic: `gone_by` in milliseconds, or None when it is kept for ever."""

    topic: str
    retention_ms: int
    segment_ms: int
    gone_by: int | None

    @property
    def text(self) -> str:
        """`gone_by` as people read it."""
        if self.gone_by is None:
            return FOR_EVER
        return datetime.fromtimestamp(self.gone_by / 1000, UTC).isoformat(timespec="minutes")


async def expiries(settings: Settings, now_ms: int) -> list[Expiry]:
    """When the last of what these topics hold at `now_ms` is gone, the latest first."""
    # INVARIANT: what was said before a repartition is not forgotten here (tests/unit/test_erasures.py).
    spaces = [one.space for one in up_to(settings)]
    full = [full_name(space, name) for space in spaces for name in IN_THE_CLEAR]
    names = {name: name.removeprefix(f"{settings.env}.") for name in full}
    found = []
    for name, values in (await topics.configs_of(settings, names)).items():
        if not values:  # one of an earlier generation that somebody deleted
            continue
        retention = int(values.get("retention.ms", -1))
        segment = int(values.get("segment.ms", 7 * DAY_MS))
        gone = None if retention < 0 else now_ms + retention + segment + CHECK_MS
        found.append(Expiry(names[name], retention, segment, gone))
    return sorted(found, key=lambda one: (one.gone_by is not None, -(one.gone_by or 0), one.topic))
