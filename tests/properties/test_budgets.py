"""Budgets under any interleaving of three partitions: calls, ends, overruns, redelivery, ticks, crashes, lowered caps.

Whatever happens, what is reserved and spent anywhere never exceeds the largest cap that was in force, `ledger verify`
finds the same from the facts alone, and every partition folds its ledger to the state it decided with.
"""

from __future__ import annotations

from functools import cache

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.schemas import records as r

from tests.driver import Driver
from tests.exchange_driver import World, folded
from tests.unit.test_budget_leases import ACCOUNT, AGENTS, PARTITIONS, TEAM
from tests.unit.test_budgets import files
from tests.unit.test_verify import verify

HIGH, LOW, OWN = 700, 250, 450
TOOLS = ("cost.pay", "cost.set", "cost.read")


@cache
def compiled(cap: int, window: str) -> CompiledRelease:
    rows = (
        f"budgets: [{{id: purse, scope: team, match: {TEAM}, unit: money, cap: {cap}, window: {window}}},"
        f" {{id: own, scope: agent, unit: money, cap: {OWN}, window: {window}}}]\n"
        "limits: [{id: pace, scope: tenant, unit: requests, cap: 40, window: day}]\n"
    )
    return compile_release(files(rows))


def open_calls(d: Driver) -> list[r.Dispatch]:
    """Dispatches nobody reported the end of, newest offers first."""
    open_ids = {e.dispatch_id for e in d.state.intents.values() if hasattr(e, "dispatch_id")}
    return [x for x in reversed(d.dispatches) if x.dispatch_id in open_ids]


def act(w: World, op: str, index: int, number: int) -> None:
    d = w.on(AGENTS[index])
    calls = open_calls(d)
    call = calls[number % len(calls)] if calls else None
    if op == "call":
        d.call(TOOLS[number % 3], agent=AGENTS[index])
    elif op == "deliver":
        w.deliver(lambda lanes: lanes[number % len(lanes)])
    elif op == "again" and w.delivered:
        w.again(w.delivered[number % len(w.delivered)])
    elif op == "claim" and call is not None:
        d.claim(call)
    elif op == "finish" and call is not None:
        cost = (0, 30, 100, 130)[number % 4]
        d.finish(call, orjson.dumps({"ok": True, "cost": cost}))
    elif op == "unsent" and call is not None:
        d.claim(call)
        d.receipt(call, "failed", error_class="egress_denied", sent=False)
    elif op == "tick":
        w.tick(index, (0, 3_000_000, 8_000_000, 25_000_000)[number % 4])
    elif op == "crash":
        w.crash(index)
    elif op == "restore":
        w.restore(index)
    elif op == "lift":
        w.control_event("budget.lifted", account=ACCOUNT)
    elif op == "cap":
        w.deploy(compiled((HIGH, LOW)[number % 2], "none"))


OPS = st.tuples(
    st.sampled_from(
        ("call", "call", "call", "deliver", "deliver", "deliver", "again", "claim", "finish", "finish", "unsent",
         "tick", "tick", "crash", "restore", "lift", "cap")
    ),
    st.integers(0, PARTITIONS - 1),
    st.integers(0, 11),
)  # fmt: skip


def total(w: World) -> int:
    """Reserved and spent anywhere."""
    accounts = [d.state.accounts.get(ACCOUNT) for d in w.drivers]
    return sum(one.reserved + one.spent for one in accounts if one is not None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(OPS, min_size=10, max_size=80))
def test_never_above_the_cap(steps: list[tuple[str, int, int]]) -> None:
    w = World(PARTITIONS)
    w.deploy(compiled(HIGH, "none"))
    for agent in AGENTS:
        w.on(agent).open_session(agent=agent)
    for op, index, number in steps:
        act(w, op, index, number)
        assert total(w) <= HIGH
        for d in w.drivers:
            for name, one in d.state.accounts.items():
                if name.startswith("agent:"):
                    assert one.reserved + one.spent <= OWN
    w.settle()
    assert total(w) <= HIGH
    home = w.drivers[w.at(ACCOUNT)].state.homes.get(ACCOUNT)
    assert home is None or total(w) <= home.out()
    for d in w.drivers:
        assert verify(d).names == set()
        assert folded(d).accounts == d.state.accounts


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(OPS, min_size=10, max_size=60), st.integers(0, 3))
def test_windows_each_keep_their_cap(steps: list[tuple[str, int, int]], behind: int) -> None:
    w = World(PARTITIONS)
    w.deploy(compiled(HIGH, "minute"))
    for agent in AGENTS:
        w.on(agent).open_session(agent=agent)
    w.drivers[0].now += behind * 15_000_000
    for op, index, number in steps:
        if op != "cap":
            act(w, op, index, number)
    w.settle()
    for d in w.drivers:
        assert verify(d).names == set()
        assert folded(d).homes == d.state.homes
