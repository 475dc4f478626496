"""The partitions of a log without one event, in the order in which they depended on each other.

    run = Together([0, 1, 2], controls, opener, drop, begin_at)
    while (partition := run.wants()) is not None:
        run.add(partition, offset, value)           # the next record of that partition, or
        run.end(partition)
    found = run.close()

Inputs of all partitions are taken by the time they were decided at; an exchange or a hand-off never before the
input that sent it, whatever the clocks said. Bounded: each partition is read one batch ahead. Pure: the reader is
`streams/replay/without.py`. Next: `replay/counterfactual.py` (one partition), `crossing/crossing.py` (what goes between them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sluicegate.processors.control.control import Control
from sluicegate.processors.crossing.crossing import Crossing
from sluicegate.processors.replay.apart import Apart, Drop
from sluicegate.processors.replay.counterfactual import Without
from sluicegate.processors.replay.parted import NONE, sent_id
from sluicegate.processors.replay.recorded import Opener
from sluicegate.schemas.records import Exchange, Transfer
from sluicegate.schemas.topics import partition_of

SKEW_US = 60_000_000
"""Clocks of two workers differ by less (NTP: a second): before, the order of sender and receiver does not matter."""

MAX_ROUNDS = 10_000
"""Of exchanges between partitions after the last record: each call that never was needs two."""

Sender = tuple[int, int]
"""(partition, when it sent)."""


class Together:
    """Some partitions of a log, or all. With some, `leaving` says to which others something leads.

    Attributes:
        lanes: partition -> what is decided again of it.
    """

    def __init__(
        self,
        partitions: Iterable[int],
        controls: Sequence[Control],
        opener: Opener,
        drop: Drop,
        begin_at: int,
    ) -> None:
        self.crossing = Crossing(max(1, controls[0].partitions if controls else 1))
        self.lanes = {p: Without(p, controls, opener, drop, self.crossing) for p in partitions}
        self._from = begin_at - SKEW_US
        self._ended: set[int] = set()
        self._senders: dict[int, Sender | None] = {}
        self._last = (0, -1)

    @property
    def leaving(self) -> set[int]:
        """Partitions that something leads to and that are not looked at."""
        return self.crossing.leaving - self.lanes.keys()

    def wants(self) -> int | None:
        """The partition whose next record is needed, or None when all have ended."""
        while True:
            short = [p for p, lane in self.lanes.items() if not lane.ready and p not in self._ended]
            if short:
                return short[0]
            if not any(lane.ready for lane in self.lanes.values()):
                return None
            self._step()

    def add(self, partition: int, offset: int, value: bytes) -> None:
        """Take one record."""
        self.lanes[partition].add(offset, value)

    def end(self, partition: int) -> None:
        """There are no more records of a partition."""
        self.lanes[partition].finish()
        self._ended.add(partition)

    def close(self) -> Apart:
        """What was found, once every partition ended: what is still under way arrives, what is due is acted on."""
        at, head = self._last
        for _ in range(MAX_ROUNDS):
            lanes = self.lanes.values()
            if not sum(lane.arrive(at) + lane.deadlines(at, head) for lane in lanes):
                break
        apart, crossing = self.crossing.apart, self.crossing
        for account in sorted(crossing.spent.keys() | crossing.would.keys()):
            if crossing.spent[account] != crossing.would[account]:
                apart.spends[account] = (crossing.spent[account], crossing.would[account])
        for lane in self.lanes.values():
            if lane.other is not None:
                _memory(lane, apart)
        apart.changes.sort(key=lambda c: c.decided_at)
        return apart

    # -- whose turn it is -----------------------------------------------------------------------------------------------

    def _step(self) -> None:
        waiting = {p: lane.ready[0][0].header for p, lane in self.lanes.items() if lane.ready}
        free = [p for p in waiting if not self._blocked(p)]
        # All blocked: two inputs of one microsecond. The ledger is acyclic, so any order of these is one it may have had.
        turn = min(free or waiting, key=lambda p: (waiting[p].decided_at, p))
        self._senders.pop(turn, None)
        h = waiting[turn]
        self._last = max(self._last[0], h.decided_at), max(self._last[1], h.control_head)
        self.lanes[turn].step()

    def _blocked(self, partition: int) -> bool:
        """Whether the next input of a partition was sent by one that is not as far."""
        if partition not in self._senders:
            self._senders[partition] = self._sender(partition)
        sender = self._senders[partition]
        if sender is None or sender[0] == partition:
            return False
        lane = self.lanes.get(sender[0])
        return lane is not None and bool(lane.ready) and lane.ready[0][0].header.decided_at <= sender[1]

    def _sender(self, partition: int) -> Sender | None:
        lane = self.lanes[partition]
        event = lane.ready[0][0]
        if len(self.lanes) == 1 or event.header.decided_at < self._from or sent_id(event) == NONE:
            return None
        record = lane.sent(event)
        if isinstance(record, Exchange):
            return record.from_partition, record.issued_at
        if isinstance(record, Transfer):
            return partition_of(record.from_agent, self.crossing.partitions), record.issued_at
        return None


def _memory(lane: Without, apart: Apart) -> None:
    """Values that stand otherwise at the end."""
    assert lane.other is not None
    for key in sorted(lane.state.memory.keys() | lane.other.memory.keys()):
        was, now = lane.state.memory.get(key), lane.other.memory.get(key)
        if was is None or now is None or was.value_digest != now.value_digest:
            held, would = (
                "nothing" if c is None else f"version {c.version}, sha256 {c.value_digest.hex()[:12]}"
                for c in (was, now)
            )
            apart.memory[key.hex()] = (held, would)
