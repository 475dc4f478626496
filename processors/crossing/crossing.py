"""What goes from one partition to another without an event: exchanges and hand-offs, and doubt.

The partitions of one run of `replay/counterfactual.py` share this. What a partition would send is held against what it sent on the
record: what is the same arrives as recorded; what differs, is missing, or was never sent, is noted here for the partition it
goes to. So is what nobody can know: which intents were asked by a session that would have gone on otherwise, which values of
memory are theirs, who read these, and what such sessions handed on. Plain records. Next: `replay/together.py` (whose turn it is).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from sluicegate.processors.memory.wire import ASK
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.replay.apart import Apart
from sluicegate.schemas.records import Exchange, Transfer
from sluicegate.schemas.topics import partition_of

Sent = Exchange | Transfer


@dataclass(slots=True)
class Crossing:
    """What the partitions of a run tell each other. Bounded by what differs from the record.

    Attributes:
        partitions: how many the log has.
        apart: what was found, over all of them.
        begun: the event was met; before, everything is as recorded.
        leads_out: something goes to a partition that may not be looked at; `leaving` says which.
        instead: id of a recorded exchange or hand-off -> what comes in its place, or None when nothing does.
        arriving: partition -> what was never sent on the record, oldest first, with when.
        asked_later: keys of intents that were asked when nobody could know any more.
        doubtful: memory cell -> its scope, when its value is of that kind.
        read_doubt: keys of intents that a home answered with such a value.
        handed_on: ids of hand-offs by such sessions.
        spent, would: account -> total, on the record and without.
    """

    partitions: int
    apart: Apart = field(default_factory=Apart)
    begun: bool = False
    leaving: set[int] = field(default_factory=set)
    instead: dict[bytes, Sent | None] = field(default_factory=dict)
    arriving: dict[int, deque[tuple[int, Sent]]] = field(default_factory=dict)
    asked_later: set[bytes] = field(default_factory=set)
    doubtful: dict[bytes, str] = field(default_factory=dict)
    read_doubt: set[bytes] = field(default_factory=set)
    handed_on: set[bytes] = field(default_factory=set)
    spent: Counter[str] = field(default_factory=Counter)
    would: Counter[str] = field(default_factory=Counter)

    def compare(
        self, partition: int, was: Decision | None, now: Decision | None, at: int, unknown: bool
    ) -> None:
        """What `partition` sent for an input, and what it would have. `unknown`: asked when nobody could know."""
        recorded, made = _sent(was), _sent(now)
        for ident, record in recorded.items():
            if ident not in made:
                self._note(partition, record)
                self.instead[ident] = None
        for ident, record in made.items():
            if ident not in recorded:
                self._note(partition, record)
                self.arriving.setdefault(self.target(record), deque()).append((at, record))
            elif record != recorded[ident]:
                self._note(partition, record)
                self.instead[ident] = record
            elif unknown and (isinstance(record, Transfer) or record.kind == ASK):
                self._leave(partition, record)  # the same, but whoever gets it cannot know it

    def target(self, record: Sent) -> int:
        """The partition it goes to."""
        return (
            record.to_partition
            if isinstance(record, Exchange)
            else partition_of(record.agent_id, self.partitions)
        )

    def due(self, partition: int, at: int) -> Iterable[tuple[int, Sent]]:
        """What arrives at a partition up to a time and never did on the record."""
        waiting = self.arriving.get(partition)
        while waiting and waiting[0][0] <= at:
            yield waiting.popleft()

    def _note(self, partition: int, record: Sent) -> None:
        self.apart.crossed += self.target(record) != partition
        self._leave(partition, record)

    def _leave(self, partition: int, record: Sent) -> None:
        if self.target(record) != partition:
            self.leaving.add(self.target(record))


def _sent(decision: Decision | None) -> dict[bytes, Sent]:
    if decision is None:
        return {}
    found: dict[bytes, Sent] = {one.exchange_id: one for one in decision.exchanges}
    found.update((one.transfer_id, one) for one in decision.transfers)
    return found
