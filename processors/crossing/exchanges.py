"""Exchanges: how partitions speak about what they share, and the only way they do.

    a decision here   ▸ `sending.send`: a record on `transfers`, in this partition's transaction
    the home there    ▸ its kind's handler: an outcome `noted` of the stage `transfer`, perhaps an answer
    the answer here   ▸ its kind's handler; what waited for it goes on by its own tick

Each is taken once: its id is remembered until its deadline, ten minutes at most. A handler emits at least one outcome, by `sending.taken`.
Never trusts an order between partitions. Next: `crossing/sending.py`, `crossing/homes.py` (the fold), `budget/home.py` (a user of this).
"""

from __future__ import annotations

from collections.abc import Callable

from sluicegate.processors.budget.home import decide_idle, decide_news, decide_request, decide_return
from sluicegate.processors.crossing.alarms import MAX_SEEN, due_alarm
from sluicegate.processors.crossing.homes import DROPPED, TRANSFER
from sluicegate.processors.crossing.sending import NOBODY, taken
from sluicegate.processors.memory.homes import decide_ask, decide_told
from sluicegate.processors.memory.wire import ASK, TOLD
from sluicegate.processors.work import Work, emit
from sluicegate.schemas.records import Exchange, ExchangeFacts

HANDLERS: dict[str, Callable[[Work, Exchange], None]] = {
    "budget.request": decide_request,
    "budget.return": decide_return,
    "budget.grant": decide_news,
    "budget.freeze": decide_news,
    ASK: decide_ask,
    TOLD: decide_told,
}
"""Kind -> who decides it."""

ALARMS: dict[str, Callable[[Work, str], None]] = {"lease": decide_idle}
"""First word of an alarm's name, up to `:` -> who decides it. Its outcomes must move the alarm or take it back."""


def decide_exchange(work: Work, exchange: Exchange) -> None:
    """One record of `transfers` that is for this partition."""
    work.origin.tenant = exchange.tenant
    handler = HANDLERS.get(exchange.kind)
    # INVARIANT: taken once, however often it comes (tests/unit/test_exchanges.py::test_taken_once).
    if exchange.exchange_id in work.state.seen:
        reason = "duplicate"
    elif exchange.deadline_at and work.now > exchange.deadline_at:
        reason = "late"
    elif handler is None:
        reason = "unknown_kind"
    elif len(work.state.seen) >= MAX_SEEN:
        reason = "overloaded"
    else:
        handler(work, exchange)
        return
    taken(work, exchange, {}, reason)


def decide_alarm(work: Work, due_by: int) -> None:
    """The alarm that has been due longest, if one is."""
    name = due_alarm(work.state, due_by)
    if name is not None:
        ALARMS[name.partition(":")[0]](work, name)


def drop_alarm(work: Work, due_by: int) -> bool:
    """Take back the alarm whose handler broke; whether there was one."""
    name = due_alarm(work.state, due_by)
    if name is None:
        return False
    facts = ExchangeFacts(NOBODY, DROPPED, name, work.state.partition, 0, [], [])
    emit(work, TRANSFER, "noted", facts, "machinery_failed")
    return True
