"""A team's budget over three workers of which two die, with overruns; a small edition of `bench/budget.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sluicegate.streams.control import budgets

from bench import budget
from tests.crash.harness import world
from tests.servers.tool_server import ToolProcess

CALLS, CLIENTS, AGENTS = 240, 2, 12


def test_the_cap_holds_while_workers_die(kafka: str, tmp_path: Path) -> None:
    release = budget.write_release(tmp_path / "release", CALLS)
    roles = {"ledger": 3, "executor": 1}
    rows = budget.agent_rows(AGENTS)
    with world(kafka, "", tmp_path / "state", release, roles, tools=ToolProcess(), agents=rows) as running:
        found = budget.run(running, CALLS, processes=CLIENTS, agents=AGENTS, kill=2)
        again = asyncio.run(budgets.look(running.settings))
    assert found.report is not None and found.report.ok, found.report
    assert found.overshoot == 0 and found.overruns > 0
    assert not found.told["unanswered"] and found.told["released"] > 0
    assert found.told["refused budget_exceeded"] > 0, found.told  # it was used up
    [row] = [row for row in again if row.account == budget.ACCOUNT]
    assert row.spent + row.reserved <= row.cap
    assert row.spent + row.overran >= found.charged  # what nobody told of counts in full
    assert sum(part.granted - part.returned for part in row.parts) <= row.cap
