"""Rollbacks of agents on the ledger: the values each one restored are made again from the records before it.

Only agents that an order names are folded, so a ledger without rollbacks costs nothing. This one check shares `apply`
with the ledger: what it finds is a value that was put into a rollback, or changed before it. Never reads content. Pure.
Next: `verify/partition.py` (who feeds this), `agents/restore.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from sluicegate.processors.agents.fold import AgentFold, Cuts
from sluicegate.processors.agents.orders import AgentOrder, orders_in
from sluicegate.processors.agents.restore import MAX_PIECES, at_cut_of, restore_facts
from sluicegate.processors.agents.restore_fold import STAGE
from sluicegate.processors.control.control import Control
from sluicegate.processors.entries import PartitionState
from sluicegate.processors.verify.chain import Linked
from sluicegate.processors.verify.reading import Rest
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import partition_of


class Restores:
    """Those of one partition. `bad(invariant, sentence)` is told of violations."""

    def __init__(self, partition: int, controls: Sequence[Control], bad: Callable[[str, str], None]) -> None:
        self._bad = bad
        partitions = max(1, controls[0].partitions) if controls else 1
        orders = [o for o in orders_in(controls) if partition_of(o.agent_id, partitions) == partition]
        self._orders = {order.event: order for order in orders}
        self._folds = {order.agent_id: AgentFold(partition, order.agent_id) for order in orders}
        self._cuts = {
            agent: Cuts([o for o in orders if o.agent_id == agent], partition, partitions)
            for agent in self._folds
        }
        self.watching = bool(orders)
        """Whether records have to be folded for an order."""
        self._made: list[r.RestoreFacts] = []

    def step(self, head: Linked, rest: Rest) -> None:
        """One record."""
        if head.stage == STAGE:
            self._check(head, rest, head.facts)
        for agent, fold in self._folds.items():
            with suppress(SluicegateError):  # what is damaged was told already, and is not folded
                fold.add(head.header, head.facts, self._cuts[agent])

    def _check(self, head: Linked, rest: Rest, raw: bytes) -> None:
        facts = codec.decode_as(r.RestoreFacts, raw)
        order = self._orders.get(facts.order)
        if order is None or order.agent_id != rest.agent_id or rest.control_head < order.event:
            self._bad(
                "rollback", f"seq {head.seq} restores `{rest.agent_id}`, and no order of control says so"
            )
            return
        if head.reason:
            return
        if facts.piece == 0:
            self._made = self._make(order, head, rest)
        if not (facts.piece < len(self._made) <= MAX_PIECES) or self._made[facts.piece] != facts:
            self._bad(
                "rollback",
                f"seq {head.seq} restores `{rest.agent_id}` to other values than it had at seq {facts.cut}",
            )

    def _make(self, order: AgentOrder, head: Linked, rest: Rest) -> list[r.RestoreFacts]:
        agent = order.agent_id
        cuts, state = self._cuts[agent], _at(self._folds[agent], head.seq)
        cuts.before(state, rest.decided_at)
        raw = cuts.values.pop(order.event, None)
        return [] if raw is None else restore_facts(state, order, *at_cut_of(raw), rest.decided_at)


def _at(fold: AgentFold, seq: int) -> PartitionState:
    """Its state, standing before `seq`."""
    fold.state.seq = seq
    return fold.state
