"""Where what nobody can know goes on: values of memory, whoever reads them, and work that is handed on.

A scope `shared:<name>` is written and read at its home, in the home's order; there the doubt is kept, and a reader on
another partition learns of it with its answer. Never decides anything. Next: `replay/counterfactual.py`, who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sluicegate.processors.crossing.crossing import Crossing
from sluicegate.processors.memory.fold import STAGE
from sluicegate.processors.memory.memory import READS
from sluicegate.processors.outcomes import Outcome, intent_key, key_of
from sluicegate.processors.state import PartitionState
from sluicegate.schemas.records import CellFacts, MemoryFacts, SessionFacts

READ_DOUBT = "it read a value that nobody can know"
TOLD = "told"
"""The op of facts that only say that a home answered."""


class Lane(Protocol):
    """A partition, as far as this needs it."""

    state: PartitionState

    def unknown(self, agent_id: str, session_id: str, seq: int, why: str) -> None:
        """From here on nobody can know what a session would have asked."""


def spread(lane: Lane, crossing: Crossing, outcomes: Sequence[Outcome], seq: int, unknown: bool) -> None:
    """Follow doubt through what an input leads to. `unknown`: its session, or the call, is one nobody can know about."""
    for outcome in outcomes:
        facts, o = outcome.facts, outcome.origin
        if isinstance(facts, MemoryFacts | CellFacts):
            if facts.op == TOLD or outcome.reason:
                continue
            if outcome.stage == STAGE and isinstance(facts, CellFacts):
                _at_home(crossing, facts, o.tenant)
            elif isinstance(facts, CellFacts) and facts.home not in (-1, lane.state.partition):
                if key_of(o) in crossing.read_doubt and not unknown:
                    lane.unknown(o.agent_id, o.session_id, seq, READ_DOUBT)
            elif facts.op in READS:
                if _doubtful(crossing, facts) and not unknown:
                    lane.unknown(o.agent_id, o.session_id, seq, READ_DOUBT)
            else:
                _written(crossing, facts, unknown)
        elif isinstance(facts, SessionFacts):
            if outcome.status == "delegated" and unknown:
                crossing.handed_on.add(outcome.event_id)
            elif (outcome.status, facts.origin) == ("opened", "handoff"):
                _taken_on(lane, crossing, outcome, seq)


def _taken_on(lane: Lane, crossing: Crossing, outcome: Outcome, seq: int) -> None:
    o = outcome.origin
    if bytes.fromhex(o.intent_id) in crossing.handed_on:
        crossing.apart.leads_to.append((o.agent_id, o.session_id))
        lane.unknown(o.agent_id, o.session_id, seq, "it was handed on by such a session")


def _at_home(crossing: Crossing, facts: CellFacts, tenant: str) -> None:
    """A home did what somebody asked, who may live elsewhere."""
    asker = intent_key(tenant, facts.writer, facts.made_by)
    if facts.op not in READS:
        _written(crossing, facts, asker in crossing.asked_later)
    elif _doubtful(crossing, facts):
        crossing.read_doubt.add(asker)


def _written(crossing: Crossing, facts: CellFacts | MemoryFacts, unknown: bool) -> None:
    if unknown:
        crossing.doubtful[facts.cell] = facts.scope
    elif facts.op != "append":  # what is appended stands behind what nobody can know
        crossing.doubtful.pop(facts.cell, None)


def _doubtful(crossing: Crossing, facts: CellFacts | MemoryFacts) -> bool:
    if facts.op == "search":  # it may have found any of the scope
        return facts.scope in crossing.doubtful.values()
    return facts.cell in crossing.doubtful
