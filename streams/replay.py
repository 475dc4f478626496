"""`sluicegate replay --mode check`: decide the ledger again and compare every byte.

    1. cut       fetch the committed ends, then control with every head's compiled release
    2. fold      each partition from genesis; nothing else can give the state an input was decided under
    3. compare   the inputs that the window selects, by topic offsets or time (`processors/rederive.py`)

Never executes, never publishes, never seals: there is no producer, no executor and no way to make a key in here; the
key store is asked to open only. Next: `processors/rederive.py`, `verify.py` (is the ledger itself sound?).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sluicegate.processors.rederive import Event, Opener, Rederive, Tally
from sluicegate.processors.work import ENGINE
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import INPUTS
from sluicegate.streams import control_log, kafka, topics
from sluicegate.streams.scan import Stretch, places, scan, stretches
from sluicegate.streams.settings import Settings

FETCH_WAIT_MS = 20
TOPICS = ("outcomes", *INPUTS)
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Window:
    """Which inputs are compared.

    Attributes:
        topic: what offsets are counted in: `outcomes` (the ledger's own) or an input topic.
        first, last: partition -> offset, inclusive. When given, other partitions are not read.
        since, until: microseconds of `decided_at`, inclusive; None is open.
    """

    topic: str = "outcomes"
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    since: int | None = None
    until: int | None = None

    @property
    def partitions(self) -> set[int]:
        """Those named by offsets, or none."""
        return {*self.first, *self.last}

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.topic == "outcomes" and not self.partitions and self.since is None and self.until is None

    def holds(self, group: list[Event]) -> bool:
        """Whether an input, given by its outcomes, is compared."""
        h = group[0].header
        if self.since is not None and h.decided_at < self.since:
            return False
        if self.until is not None and h.decided_at > self.until:
            return False
        low, high = self.first.get(h.partition, 0), self.last.get(h.partition, 1 << 62)
        if self.topic == "outcomes":
            return group[-1].offset >= low and group[0].offset <= high
        return h.input_topic == self.topic and low <= h.input_offset <= high

    def past(self, event: Event) -> bool:
        """Whether nothing at or after this record can be compared: reading may end."""
        if self.until is not None and event.header.decided_at > self.until:
            return True
        return self.topic == "outcomes" and event.offset > self.last.get(event.header.partition, 1 << 62)


@dataclass(slots=True)
class Replayed:
    """What replay found."""

    mode: str = "check"
    engine: str = ENGINE
    partitions: dict[int, Tally] = field(default_factory=dict)
    seconds: float = 0.0

    def total(self, name: str) -> int:
        """A count over all partitions."""
        return sum(getattr(t, name) for t in self.partitions.values())

    @property
    def ok(self) -> bool:
        """Every compared input gave the recorded bytes."""
        return self.total("different") == 0

    @property
    def verdict(self) -> str:
        """One line."""
        same, different, erased = self.total("same"), self.total("different"), self.total("erased")
        parts = [f"{same:,} inputs decided the same"]
        if different:
            parts.append(f"{different:,} DIFFERENT")
        if erased:
            parts.append(f"{erased:,} ERASED: their content is gone")
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {"ok": self.ok, "verdict": self.verdict, **asdict(self)}


async def check(
    settings: Settings,
    window: Window,
    opener: Opener,
    *,
    on_start: Callable[[int], Advance] | None = None,
) -> Replayed:
    """Decide again and compare. `on_start(total offsets)` returns what progress is told."""
    # INVARIANT: nothing here can publish or execute (tests/unit/test_rederive.py looks at the imports and names).
    started = time.monotonic()
    if window.topic not in TOPICS:
        raise Terminal(f"topic `{window.topic}` cannot be replayed, use one of {', '.join(TOPICS)}")
    count = await topics.partitions_of(settings)
    if bad := [p for p in window.partitions if not 0 <= p < count]:
        raise Terminal(f"partition `{bad[0]}` does not exist, this log has 0 to {count - 1}")
    result = Replayed()
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
    try:
        wanted = sorted(window.partitions) or list(range(count))
        ledgers = await stretches(consumer, places(settings.env, "outcomes", wanted))  # 1
        control = await control_log.read(settings, keep_history=True, with_release=True)
        assert control.history is not None
        advance = on_start(sum(s.end - s.begin for s in ledgers)) if on_start else _silent
        for stretch in ledgers:
            if stretch.begin > 0:
                raise Terminal(
                    f"`{stretch.place.topic}`/{stretch.place.partition} begins at {stretch.begin}, its genesis is gone from kafka, restore it from the archive"
                )
            again = Rederive(
                stretch.place.partition, control.history, opener, None if window.everything else window.holds
            )
            result.partitions[stretch.place.partition] = await _one(consumer, stretch, again, window, advance)
    finally:
        await consumer.stop()
    result.seconds = time.monotonic() - started
    return result


def _silent(_: int) -> None:
    pass


async def _one(consumer: Any, stretch: Stretch, again: Rederive, window: Window, advance: Advance) -> Tally:
    """Fold and compare one partition, up to the window's end."""
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            event = again.add(record.offset, record.value)
            if window.past(event):
                return again.finish()
        advance(len(batch))
    return again.finish()
