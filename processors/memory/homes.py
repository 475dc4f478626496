"""Shared memory between partitions: each scope `shared:<name>` has one home, where its values are kept and compared.

    memory.ask    to the home      a permitted operation, with the value and the labels of who asks
    memory.told   from the home    what it did, and what was read

The home is murmur2 of the scope's name modulo the partitions, so it decides every compare-and-set in one order. It does
not ask Cedar again: who may was decided where the agent lives, of which the exchange tells tenant, agent and labels. An
exchange is taken once; one that comes too late is not acted on, and who waits is told so.
INVARIANT: a scope's values reach its own tenant only (tests/properties/test_memory_isolation.py).
Next: `memory/ops.py` (what is done), `memory/memory.py` (who waits), `crossing/exchanges.py`.
"""

from __future__ import annotations

from sluicegate.processors.crossing.sending import amounts_of, home_partition, send, taken
from sluicegate.processors.memory.cells import known_scope
from sluicegate.processors.memory.fold import STAGE
from sluicegate.processors.memory.ops import Done, do
from sluicegate.processors.memory.wire import TOLD, asked_in, telling, told_by
from sluicegate.processors.releases.contract import MEMORY_OPS
from sluicegate.processors.work import SYSTEM, Work, emit
from sluicegate.schemas.records import CellFacts, Exchange


def decide_ask(work: Work, exchange: Exchange) -> None:
    """At the home."""
    try:
        ask, subject, not_after = asked_in(exchange)
    except (ValueError, KeyError, TypeError):
        taken(work, exchange, {}, "malformed_record")
        return
    mine = ask.shared and known_scope(ask.scope) and home_partition(work, ask.scope) == work.state.partition
    if not mine or ask.op not in MEMORY_OPS:
        taken(work, exchange, {}, "malformed_record")
        return
    work.origin.subject = (
        subject or SYSTEM
    )  # the ledger seals what is written under the key of whom it is about
    cell = work.state.memory.get(ask.cell) if ask.op == "read" else None
    about = (cell.subject if cell is not None else "") or subject
    if work.now > not_after:
        outcome = taken(work, exchange, amounts_of(exchange), "late")
        done = Done(CellFacts(ask.op, ask.scope, ask.cell), reason="deadline_passed")
    else:
        done = do(work, ask, None)
        if work.decision.needs:
            return
        outcome = taken(work, exchange, amounts_of(exchange))
        emit(work, STAGE, "noted", done.facts, done.reason)
    amounts, body = telling(done, about)
    send(work, outcome, TOLD, exchange.home, exchange.from_partition, amounts, body=body, waits=exchange)


def decide_told(work: Work, exchange: Exchange) -> None:
    """At the partition that asked: the answer is here, and the call goes on by its own tick."""
    try:
        done, subject = told_by(exchange)
    except (ValueError, KeyError, TypeError):
        taken(work, exchange, {}, "malformed_record")
        return
    o = work.origin
    o.agent_id, o.session_id, o.intent_id = exchange.agent_id, exchange.session_id, exchange.intent_id
    o.subject = subject or SYSTEM  # what was read is sealed under the key of whom it is about
    taken(work, exchange, amounts_of(exchange))
    emit(work, STAGE, "noted", CellFacts("told", done.facts.scope, done.facts.cell, done.facts.home))
