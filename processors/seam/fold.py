"""The fold of a seam: a partition is sealed, and state of an earlier generation is taken into one of the next.

An import carries rows, as `seam/seam.py` makes them: JSON with names, so that what stands on a ledger can be read when records have
more fields than they had then. A row sets what it says and adds to what several partitions had of a shared budget; the order
of slices does not matter. Folds only, and from facts only. Next: `seam/seam.py` (who makes the rows), `state.py` (who calls this).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import orjson
from sluicegate.processors.agents import values as agent_values
from sluicegate.processors.budget.state import Account, Home, Lease
from sluicegate.processors.ended import Ended
from sluicegate.processors.entries import Closed, PartitionState
from sluicegate.processors.memory import cells
from sluicegate.processors.outcomes import Outcome
from sluicegate.schemas.records import ImportFacts

STAGE: Final = "seam"
SEALED, IMPORTED = "sealed", "imported"

FROM, AGENT, SESSION, ENDED_SESSIONS = "from", "agent", "session", "ended"
IDS, CELLS, BUDGET, HOME = "ids", "cells", "budget", "home"
"""Kinds of rows."""

Row = dict[str, Any]


def fold(state: PartitionState, outcome: Outcome) -> None:
    """Fold one `sealed` or `imported`."""
    facts = outcome.facts
    if outcome.status == SEALED:
        state.sealed = 1
    elif isinstance(facts, ImportFacts):
        state.imported, state.began = state.seq - 1, outcome.origin.decided_at
        for raw in facts.rows:
            row: Row = orjson.loads(raw)
            _FOLDS[row["kind"]](state, row)


def _from(state: PartitionState, row: Row) -> None:
    """INVARIANT: no version of a shared value comes again after a seam (tests/unit/test_seam.py)."""
    state.earlier = max(state.earlier, row["earlier"])


def _agent(state: PartitionState, row: Row) -> None:
    agent = row["agent"]
    if row["mark"]:
        state.marks[agent] = row["mark"]
    if row["restored"] is not None:
        state.restored[agent] = row["restored"]
    for name, given in row["accounts"].items():
        state.accounts[name] = account_from(given)


def account_from(given: dict[str, int]) -> Account:
    """The account in a plain record."""
    known = {f.name for f in fields(Account)}
    return Account(**{name: value for name, value in given.items() if name in known})


def _session(state: PartitionState, row: Row) -> None:
    session = agent_values.session_from(row["session"])
    state.sessions[f"{session.agent_id}\0{session.session_id}"] = session
    _put(state, row["cells"], "")


def _cells(state: PartitionState, row: Row) -> None:
    _put(state, row["cells"], row["shelf"])


def _put(state: PartitionState, given: list[Any], shelf: str) -> None:
    for key, one in given:
        cells.put(state, bytes.fromhex(key), agent_values.cell_from(one), shelf)


def _ended(state: PartitionState, row: Row) -> None:
    """Both tables are in the order in which sessions ended."""
    for name, at, subject, release, opened_by in row["closed"]:
        state.closed[name] = Closed(at, subject, release, bytes.fromhex(opened_by))
    for name, opened_by, at in row["withdrawn"]:
        state.withdrawn[name] = (bytes.fromhex(opened_by), at)
    state.closed = dict(sorted(state.closed.items(), key=lambda item: (item[1].at, item[0])))
    state.withdrawn = dict(sorted(state.withdrawn.items(), key=lambda item: (item[1][1], item[0])))


def _ids(state: PartitionState, row: Row) -> None:
    agent, keys = row["agent"], state.expiry.setdefault(row["hour"], bytearray())
    for name, digest, status, reason, topic, offset, event, redacted in row["ids"]:
        key = bytes.fromhex(name)
        if key not in state.intents:
            keys.extend(key)
        ended = Ended(bytes.fromhex(digest), status, reason, topic, offset, bytes.fromhex(event), redacted)
        state.intents[key] = ended
        if state.owners is not None:
            state.owners[key] = agent


def _budget(state: PartitionState, row: Row) -> None:
    """What a partition had used of a shared budget: all of it is now used by its home's own partition, and leased to it.

    INVARIANT: what counts against the cap is what was used before the seam (tests/unit/test_seam.py).
    """
    name, window = row["name"], row["window"]
    one = state.accounts.setdefault(name, Account(window))
    home = state.homes.setdefault(name, Home(window))
    if window > one.window:
        one.roll(window)
    if window > home.window:
        home.window, home.leases = window, {}
    if window == one.window:
        one.spent += row["spent"]
        one.overran += row["overran"]
        one.granted = one.reported = one.spent + one.overran
    one.home_cap = max(one.home_cap, row["home_cap"])
    one.used_at = max(one.used_at, row["used_at"])
    _freeze(one, row)
    _freeze(home, row)
    if home.window == one.window:
        home.leases[state.partition] = Lease(one.granted, 0, one.spent, one.overran)


def _home(state: PartitionState, row: Row) -> None:
    home = state.homes.setdefault(row["name"], Home(row["window"]))
    if row["window"] > home.window:
        home.window, home.leases = row["window"], {}
    home.cap = row["cap"]
    _freeze(home, row)


def _freeze(one: Account | Home, row: Row) -> None:
    if row["frozen_at"] > one.frozen_at:
        one.frozen_at, one.frozen_cap = row["frozen_at"], row["frozen_cap"]


_FOLDS: dict[str, Callable[[PartitionState, Row], None]] = {
    FROM: _from, AGENT: _agent, SESSION: _session, ENDED_SESSIONS: _ended, IDS: _ids, CELLS: _cells, BUDGET: _budget, HOME: _home,
}  # fmt: skip
"""Kind of a row -> its fold."""
