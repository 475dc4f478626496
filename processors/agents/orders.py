"""Orders to take an agent back to an earlier point: `agent.rolled_back`, as control folds it.

    {"agent_id": ..., "at": microseconds | "cut": seq, "why": ..., "alarm": ..., "undoes": control event}

`cut` is the last seq of the agent's ledger partition that counts, `at` the last moment; exactly one is given. The order
says no values: the owner of the agent's partition takes it in by an outcome that carries them (`agents/restore.py`), and
from the order on nothing new of the agent is permitted until that stands. The last order for an agent is the one that
counts. Pure. Next: `control/control.py` (who folds), `agents/restore.py`, docs/decisions/0025-how-an-order-enters-a-partition.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sluicegate.schemas.topics import partition_of

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control
    from sluicegate.processors.entries import PartitionState

ROLLED_BACK_KIND: Final = "agent.rolled_back"

MAX_ROLLED_BACK = 10_000
"""Agents that were ever rolled back, about 300 bytes each: 3 MB. Orders for more are not folded: quarantine them."""

WHY_CHARS = 500


@dataclass(frozen=True, slots=True)
class AgentOrder:
    """One order.

    Attributes:
        event: the control event.
        at, cut: up to when, in microseconds, or up to which seq; the other one is None.
        alarm: the event of the alarm that ordered it, or empty.
        undoes: the control event of the order that it takes back, -1 when none.
    """

    agent_id: str
    event: int
    at: int | None
    cut: int | None
    who: str = ""
    why: str = ""
    alarm: str = ""
    undoes: int = -1


AgentOrders = Mapping[str, AgentOrder]
"""By agent: the last one."""


def order_of(body: Mapping[str, object], event: int, who: str) -> AgentOrder | None:
    """The order in a body, or None for one of another form."""
    agent, at, cut = body.get("agent_id"), body.get("at"), body.get("cut")
    given = [value for value in (at, cut) if value is not None]
    if not isinstance(agent, str) or not agent or len(given) != 1 or type(given[0]) is not int:
        return None
    undoes = body.get("undoes", -1)
    return AgentOrder(
        agent, event, at if type(at) is int else None, cut if type(cut) is int else None, who,
        str(body.get("why", ""))[:WHY_CHARS], str(body.get("alarm", ""))[:WHY_CHARS],
        undoes if type(undoes) is int else -1,
    )  # fmt: skip


def with_order(orders: AgentOrders, body: Mapping[str, object], event: int, who: str) -> AgentOrders:
    """The map after one `agent.rolled_back`."""
    one = order_of(body, event, who)
    if one is None or (one.agent_id not in orders and len(orders) >= MAX_ROLLED_BACK):
        return orders
    return {**orders, one.agent_id: one}


def waiting_order(state: PartitionState, control: Control, agent_id: str) -> AgentOrder | None:
    """The order for this agent that its partition has not taken in yet."""
    one = control.agent_orders.get(agent_id)
    return one if one is not None and state.restored.get(agent_id, -1) < one.event else None


def waiting_orders(state: PartitionState, control: Control) -> list[AgentOrder]:
    """All such orders of a partition, the oldest first."""
    found = [
        one
        for agent, one in control.agent_orders.items()
        if state.restored.get(agent, -1) < one.event
        and partition_of(agent, state.partitions) == state.partition
    ]
    return sorted(found, key=lambda one: one.event)


def orders_in(history: Sequence[Control]) -> Iterator[AgentOrder]:
    """Every order that control's history ever folded, in order."""
    before: AgentOrders = {}
    for control in history:
        if control.agent_orders is not before:
            before = control.agent_orders
            yield from (one for one in before.values() if one.event == control.head)
