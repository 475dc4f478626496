"""The window of a replay: which records of which topic, by offsets or times, held against what the topic still has.

Reads only. Next: `replay/replay.py` (decides again), `replay/copying.py` (copies).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.replay.recorded import Event
from sluicegate.schemas.errors import Terminal, WrongUsage
from sluicegate.schemas.times import iso
from sluicegate.streams.scan import Stretch, since


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

    def as_dict(self) -> dict[str, object]:
        """For a position file."""
        ends = {name: {str(p): o for p, o in getattr(self, name).items()} for name in ("first", "last")}
        return {"topic": self.topic, "since": self.since, "until": self.until, **ends}

    def record(self, partition: int, offset: int, at: int) -> bool:
        """Whether one record of the topic itself is in it; `at` is Kafka's time of it."""
        if (self.since is not None and at < self.since) or (self.until is not None and at > self.until):
            return False
        return self.first.get(partition, 0) <= offset <= self.last.get(partition, 1 << 62)

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


def check_times(window: Window, now: int) -> None:
    """Raises `Terminal` for a window that nothing can be in yet, or ever."""
    if window.since is not None and window.since > now:
        raise WrongUsage(f"`{iso(window.since)}` is in the future, it is {iso(now)} now: nothing can be replayed from there")  # fmt: skip
    if window.since is not None and window.until is not None and window.until < window.since:
        raise WrongUsage(f"the window ends at `{iso(window.until)}`, before it begins at `{iso(window.since)}`")  # fmt: skip
    for partition, first in window.first.items():
        if window.last.get(partition, first) < first:
            raise WrongUsage(f"the window of partition {partition} ends at {window.last[partition]}, before it begins at {first}")  # fmt: skip


def check_offsets(
    window: Window, found: Iterable[Stretch], *, removed: bool, at: Mapping[int, int] | None = None
) -> None:
    """Raises `Terminal` for offsets that are not there yet and, with `removed`, for those that are gone.

    `at`: where a run goes on: what it has done before need not be there any more.
    """
    for stretch in found:
        partition, name = stretch.place.partition, f"`{stretch.place.topic}`/{stretch.place.partition}"
        first = window.first.get(partition)
        if first is None:
            continue
        if removed and max(first, (at or {}).get(partition, 0)) < stretch.begin:
            raise Terminal(f"{name} begins at offset {stretch.begin}, what stood before is gone by its retention: use --from-offset {partition}:{stretch.begin}")  # fmt: skip
        if first > stretch.end:
            raise Terminal(f"{name} ends before offset {stretch.end}, `{partition}:{first}` is not there yet")


async def beginnings(
    consumer: AIOKafkaConsumer, window: Window, found: list[Stretch], at: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Partition -> the first offset to read, of a run that begins; `at` as `check_offsets` has it."""
    check_offsets(window, found, removed=True, at=at)
    starts = {s.place.partition: max(s.begin, window.first.get(s.place.partition, 0)) for s in found}
    if window.since is not None:
        for place, offset in (await since(consumer, found, window.since // 1000)).items():
            starts[place.partition] = max(starts[place.partition], offset)
    return starts
