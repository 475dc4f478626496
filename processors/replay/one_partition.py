"""One partition in memory: inputs in, decisions out, folded; what the partition sends to itself comes back as inputs.

    ledger = OnePartition(control, PartitionState(LOG_ID, 0, 1, "test"))
    decisions = ledger.take("intents", codec.encode(intent), now)

The same `decide` and `apply` as in a worker. Nothing is sealed and nothing leaves: whoever owns it hands replies and
dispatches on. Pure: time comes in. Never for production: what it holds is gone with the process.
Next: `releases/rehearsal.py` (cases of a release), `streams/local.py` (agents without Kafka).
"""

from __future__ import annotations

from sluicegate.processors.agents.fold import Cuts
from sluicegate.processors.agents.orders import AgentOrder, waiting_orders
from sluicegate.processors.agents.restore import PLACE
from sluicegate.processors.control.control import Control
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.outcomes import Decision, Outcome
from sluicegate.processors.pipeline import decide
from sluicegate.processors.sessions.library import Library
from sluicegate.processors.state import PartitionState, apply, next_due
from sluicegate.schemas import codec
from sluicegate.schemas.errors import Terminal

MAX_INPUTS = 200_000
"""Inputs that one of them takes, whose bytes it keeps: 600 bytes each on the recorded traffic, 120 MB."""

PARTITION = 0


class OnePartition:
    """A ledger of one partition.

    Attributes:
        control: what is decided under; replace it after an order.
        outcomes: everything decided, oldest first.
    """

    def __init__(self, control: Control, state: PartitionState) -> None:
        self.control, self.state = control, state
        self.outcomes: list[Outcome] = []
        self._contents: dict[Place, bytes | None] = {}
        self._library = Library()

    def take(self, topic: str, value: bytes, now: int) -> list[Decision]:
        """Decide one record, and what it sends to this partition. Raises `Terminal` past `MAX_INPUTS`."""
        decisions: list[Decision] = []
        waiting = [(topic, value)]
        for name, raw in waiting:  # grows while it is gone through
            offset = self.state.positions.get(name, 0)
            if len(self._contents) >= MAX_INPUTS:
                raise Terminal(f"this ledger in memory took {MAX_INPUTS} inputs: begin a new one")
            self._contents[name, offset] = raw
            decision = self._decide(Input(name, PARTITION, offset, raw), now)
            decisions.append(decision)
            waiting += _to_itself(decision)
        return decisions

    def due_at(self) -> int | None:
        """When the next deadline is due, in microseconds, or None."""
        return next_due(self.state)

    def tick(self, now: int) -> list[Decision]:
        """Act on one due deadline; nothing when none is due."""
        due = next_due(self.state)
        if due is None or due > now:
            return []
        decisions = [self._decide(Tick(PARTITION, now), now)]
        for topic, value in _to_itself(decisions[0]):
            decisions += self.take(topic, value, now)
        return decisions

    def restore(self, now: int) -> list[Decision]:
        """Take in what control orders by now: agents that go back to an earlier point (`agents/restore.py`)."""
        decisions: list[Decision] = []
        for order in waiting_orders(self.state, self.control):
            place = (PLACE, order.event)
            self._contents[place] = self._at_cut(order)
            decisions.append(self._decide(Tick(PARTITION, now, order=order.event), now))
            del self._contents[place]
        return decisions

    def _at_cut(self, order: AgentOrder) -> bytes | None:
        """The agent's values at the cut, from everything that was decided up to it."""
        cuts = Cuts([order], PARTITION, 1)
        past = PartitionState(self.state.log_id, PARTITION, 1, self.state.env)
        for outcome in self.outcomes:
            cuts.before(past, outcome.origin.decided_at)
            if order.event in cuts.values:
                break
            apply(past, outcome)
        cuts.before(past, 1 << 62)
        return cuts.values.get(order.event)

    def bytes_at(self, place: Place) -> bytes | None:
        """An input's bytes."""
        return self._contents.get(place)

    def _decide(self, source: Input | Tick, now: int) -> Decision:
        source.library = self._library
        decision = decide(self.state, self.control, source, now)
        while decision.needs:
            source.contents.update({place: self._contents.get(place) for place in decision.needs})
            decision = decide(self.state, self.control, source, now)
        self._library.remember(source, decision)
        for outcome in decision.outcomes:
            apply(self.state, outcome)
        self.outcomes += decision.outcomes
        return decision


def _to_itself(decision: Decision) -> list[tuple[str, bytes]]:
    """Hand-offs and exchanges: with one partition every home is here."""
    return [("transfers", codec.encode(record)) for record in (*decision.transfers, *decision.exchanges)]
