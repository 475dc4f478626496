"""One agent's values from a ledger, and all agents' values at the cuts of orders while a ledger is folded.

An agent's values follow from its own records alone, and from the hours in which other records were decided: then idle
sessions are forgotten. So a fold that looks at one agent passes over nearly everything. Never decides anything. Pure.
Next: `agents/restore.py` (who needs the values), `replay/rederive.py`, `verify/restores.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.agents.orders import AgentOrder
from sluicegate.processors.agents.restore import at_cut
from sluicegate.processors.agents.values import AgentValues
from sluicegate.processors.folding import Folder
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.seam.fold import STAGE as SEAM
from sluicegate.processors.state import HOUR_US, PartitionState, apply, pass_hour
from sluicegate.processors.verify import reading
from sluicegate.schemas.topics import partition_of


class AgentFold:
    """The part of a partition's state that one agent's records make. Feed every record of the partition, in order."""

    def __init__(self, partition: int, agent_id: str) -> None:
        self.agent_id = agent_id
        self.state = PartitionState(b"", partition)
        self._folder = Folder(self.state)
        self._rest = b""
        self._known: reading.Rest | None = None

    def begin_at(self, state: PartitionState) -> None:
        """Go on from a whole state of this partition, such as a snapshot's."""
        self.state, self._folder = state, Folder(state)

    def wants(self, seq: int, agent_id: str, decided_at: int, stage: str = "") -> bool:
        """Whether this record has to be folded; one that has not only moves time."""
        state = self.state
        if seq == 0 or agent_id == self.agent_id or stage == SEAM:
            state.seq = seq  # the fold counts up
            return True
        self.pass_time(decided_at)
        return False

    def pass_time(self, decided_at: int) -> None:
        """Another agent's record was decided then."""
        if decided_at // HOUR_US > self.state.swept_hour:
            pass_hour(self.state, decided_at)

    def take(self, outcome: Outcome) -> None:
        """Fold one record that it wants."""
        apply(self.state, outcome)

    def add(self, header: bytes, facts: bytes, cuts: Cuts | None = None) -> None:
        """A record by its header and its facts; `cuts` see the state before it. Raises `Unreadable`."""
        head = reading.head(header)
        if head.rest != self._rest or self._known is None:
            self._rest, self._known = head.rest, reading.rest(head.rest)
        rest = self._known
        if cuts is not None:
            self.state.seq = head.seq
            cuts.before(self.state, rest.decided_at)
        if self.wants(head.seq, rest.agent_id, rest.decided_at, head.stage):
            self.state.prev_hash = head.prev_hash  # what is between was passed over
            self._folder.take(header, facts)
        self.state.seq = head.seq + 1

    def values(self) -> AgentValues:
        """As far as it was fed."""
        return agent_values.values_of(self.state, self.agent_id)


class Cuts:
    """The values that orders of a partition go back to, taken while its state passes their cuts.

    Attributes:
        values: control event of an order -> the agent's values at its cut, as a decision is given them.
    """

    def __init__(self, orders: Iterable[AgentOrder], partition: int, partitions: int) -> None:
        self._waiting = [o for o in orders if partition_of(o.agent_id, max(1, partitions)) == partition]
        self.values: dict[int, bytes] = {}

    def before(self, state: PartitionState, decided_at: int) -> None:
        """The state stands before a record that was decided then."""
        if not self._waiting:
            return
        waiting = self._waiting
        self._waiting = []
        for order in waiting:
            if _passed(order, state.seq, decided_at):
                cut = state.seq - 1 if order.cut is None else order.cut
                self.values[order.event] = at_cut(cut, agent_values.values_of(state, order.agent_id))
            else:
                self._waiting.append(order)

    def places(self) -> list[tuple[str, int]]:
        """Where the bytes stand that these values refer to."""
        found = []
        for raw in self.values.values():
            values = agent_values.decode(raw)
            found += [(s.topic, s.offset) for one in values.sessions.values() for s in one.sources]
            found += [(cell.topic, cell.offset) for cell in values.cells.values()]
            found += [(piece.topic, piece.offset) for cell in values.cells.values() for piece in cell.pieces]
        return found

    def drop(self, event: int) -> None:
        """An order was taken in."""
        self.values.pop(event, None)


def _passed(order: AgentOrder, seq: int, decided_at: int) -> bool:
    """Whether the record at `seq`, decided then, is the first one after the cut."""
    if order.cut is not None:
        return seq > order.cut
    assert order.at is not None
    return decided_at > order.at
