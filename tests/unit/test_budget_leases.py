"""Shared budgets: leased by a home to partitions, waited for, denied, returned when idle, frozen everywhere."""

from __future__ import annotations

import orjson
from sluicegate.processors.budget.budgets import GRANT_LIMIT_US
from sluicegate.processors.budget.state import Account, Home
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import records as r

from tests.driver import Driver, agents
from tests.exchange_driver import World
from tests.unit.test_budgets import files
from tests.unit.test_rederive import check as decide_again

TEAM = "payments-desk"
ACCOUNT = f"team:{TEAM}/purse"
ROWS = "budgets: [{{id: purse, scope: team, match: {team}, unit: money, cap: {cap}}}]\n"
PARTITIONS = 3


def team_agents(partitions: int = PARTITIONS) -> list[str]:
    """One agent of the team in each partition, by partition."""
    from sluicegate.schemas.topics import partition_of

    found: dict[int, str] = {}
    for row in agents():
        if row.get("team") == TEAM:
            found.setdefault(partition_of(str(row["agent_id"]), partitions), str(row["agent_id"]))
    return [found[p] for p in range(partitions)]


AGENTS = team_agents()


def world(cap: int = 12_000, rows: str = "") -> World:
    w = World(PARTITIONS)
    w.deploy(compile_release(files(rows or ROWS.format(team=TEAM, cap=cap))))
    for agent in AGENTS:
        w.on(agent).open_session(agent=agent)
    return w


def call(w: World, index: int, tool: str = "cost.pay", **more: object) -> Decision:
    return w.on(AGENTS[index]).call(tool, agent=AGENTS[index], **more)


def home(w: World) -> Home:
    return w.drivers[w.at(ACCOUNT)].state.homes[ACCOUNT]


def lease(w: World, index: int) -> Account:
    return w.drivers[index].state.accounts[ACCOUNT]


def last(d: Driver) -> tuple[str, str]:
    return d.replies[-1].status, d.replies[-1].reason


def check(w: World) -> None:
    """What must hold in every partition, and after a crash of each."""
    for index in range(PARTITIONS):
        w.crash(index)
        w.restore(index)
        tally = decide_again(w.drivers[index])
        assert tally.differences == [] and not tally.without_bytes


def test_a_call_waits_for_the_first_grant_and_goes_on() -> None:
    w = world()
    asked = call(w, 0)
    assert [o.status for o in asked.outcomes][-2:] == ["waiting", "noted"] and not asked.dispatches
    assert w.drivers[0].state.intents[asked.outcomes[0].origin.key].awaits == "grant"
    w.settle()
    [dispatch] = w.drivers[0].dispatches
    one = lease(w, 0)
    assert (one.granted, one.reserved) == (1_000, 100)  # cap / (4 x 3 partitions)
    assert call(w, 0).dispatches  # the next ones wait for nobody
    w.drivers[0].finish(dispatch, b'{"ok":true,"cost":10}')
    assert (one.reserved, one.spent) == (100, 10)
    check(w)


def test_a_lease_grows_before_it_is_empty() -> None:
    w = world()
    call(w, 0)
    w.settle()
    for _ in range(7):
        assert call(w, 0).dispatches
    w.settle()
    assert lease(w, 0).granted == 2_000
    assert home(w).out() == 2_000


def test_a_call_above_a_slice_gets_just_what_it_needs() -> None:
    w = world(cap=600)
    call(w, 0)
    w.settle()
    assert w.drivers[0].dispatches and home(w).out() == 100


def test_denied_when_nothing_is_left_with_the_numbers() -> None:
    w = world(cap=250)
    for index in (0, 1, 2):
        call(w, index)
    w.settle()
    assert sum(len(d.dispatches) for d in w.drivers) == 2
    [refused] = [d.replies[-1] for d in w.drivers if d.replies and d.replies[-1].status == "refused"]
    assert refused.reason == "budget_exceeded"
    assert (
        f"budget `purse` of team `{TEAM}`: 100 money needed, 200 spent or reserved of 250"
        in refused.for_developer
    )
    check(w)


def test_many_wait_for_one_request() -> None:
    w = world()
    for _ in range(30):
        call(w, 1)
    assert sum(x.kind == "budget.request" for x in w.drivers[1].exchanges) == 1
    w.settle()
    assert len(w.drivers[1].dispatches) == 30
    assert lease(w, 1).reserved == 3_000 and not w.drivers[1].state.waiters
    check(w)


def test_idle_leases_go_back_and_others_get_them() -> None:
    w = world(cap=300)
    call(w, 0, "cost.read")
    w.settle()
    d = w.drivers[0]
    d.finish(d.dispatches[0], b'{"ok":true,"cost":1}')
    w.tick(0, 6_000_000)
    w.settle()
    assert (lease(w, 0).returned, home(w).out(), home(w).spent()) == (99, 1, 1)
    for index in (1, 2):
        call(w, index)
    w.settle()
    assert [len(d.dispatches) for d in w.drivers] == [1, 1, 1]
    w.tick(0, 60_000_000)
    w.settle()
    check(w)


def test_an_alarm_never_comes_back_at_once() -> None:
    w = world(cap=1_200)
    call(w, 0)
    w.settle()
    d = w.drivers[0]
    for _ in range(3):
        call(w, 0)
        w.collect()
        w.lanes.clear()  # nobody answers any more
    assert d.state.queues
    for _ in range(3):
        w.tick(0, 6_000_000)
        for _ in range(3):
            w.tick(0)
        assert all(due > d.now for due in d.state.alarms.values())


def test_nobody_answers() -> None:
    w = world()
    call(w, 0)
    w.collect()
    w.lanes.clear()  # the home is away
    w.tick(0, GRANT_LIMIT_US + 1_000)
    assert last(w.drivers[0]) == ("refused", "grant_timeout")
    assert not w.drivers[0].state.waiters
    call(w, 0)
    w.settle()
    assert w.drivers[0].dispatches
    check(w)


def test_a_waiting_call_that_passes_its_own_deadline() -> None:
    w = world()
    call(w, 0, deadline_at=w.now + 500_000)
    w.collect()
    w.lanes.clear()
    w.tick(0, 1_000_000)
    assert last(w.drivers[0]) == ("refused", "deadline_passed")
    assert not w.drivers[0].state.waiters and not w.drivers[0].state.queues


def test_an_overrun_stops_every_partition() -> None:
    w = world()
    for index in (0, 1):
        call(w, index)
    w.settle()
    d = w.drivers[0]
    d.finish(d.dispatches[0], b'{"ok":true,"cost":150}')
    w.settle()
    for index in (0, 1):
        assert not call(w, index).dispatches
        assert last(w.drivers[index]) == ("refused", "budget_frozen")
    call(w, 2)
    w.settle()
    assert last(w.drivers[2]) == ("refused", "budget_frozen")
    check(w)
    w.control_event("budget.lifted", account=ACCOUNT)
    assert call(w, 0).dispatches and call(w, 1).dispatches
    assert home(w).out() >= 150


def test_records_that_come_twice_change_nothing() -> None:
    w = world(cap=1_200)
    for index in (0, 1, 2, 0, 1, 2):
        call(w, index)
    w.settle()
    before = [d.state.accounts.get(ACCOUNT) for d in w.drivers], home(w).out()
    for driver in w.drivers:
        driver.state.seen.clear()  # as if their deadlines were long over
    for exchange in list(w.delivered):
        if not exchange.deadline_at or exchange.deadline_at > w.now:
            w.again(exchange)
    w.settle()
    assert ([d.state.accounts.get(ACCOUNT) for d in w.drivers], home(w).out()) == before


def test_windows_begin_anew_in_every_partition() -> None:
    rows = f"budgets: [{{id: purse, scope: team, match: {TEAM}, unit: money, cap: 200, window: hour}}]\n"
    w = world(rows=rows)
    for index in (0, 1, 2):
        call(w, index)
    w.settle()
    assert sum(len(d.dispatches) for d in w.drivers) == 2
    w.tick(0, 3_600_000_000)
    for index in (0, 1, 2):
        w.on(AGENTS[index]).open_session(f"later-{index}", AGENTS[index])
        call(w, index, session=f"later-{index}")
    w.settle()
    assert sum(len(d.dispatches) for d in w.drivers) >= 4
    check(w)


def test_a_cap_lowered_below_what_is_leased() -> None:
    w = world()
    for index in (0, 1):
        call(w, index)
    w.settle()
    w.deploy(compile_release(files(ROWS.format(team=TEAM, cap=50))))
    call(w, 2)
    w.settle()
    assert last(w.drivers[2]) == ("refused", "budget_exceeded")
    d = w.drivers[0]
    d.finish(d.dispatches[0], orjson.dumps({"ok": True, "cost": 5}))
    assert last(d) == ("released", "")
    assert not call(w, 0).dispatches  # it needs 100, and 50 is all there may be


def test_a_read_that_is_offered_again_waits_for_its_lease() -> None:
    w = world(cap=100)
    call(w, 0, "cost.read", deadline_at=w.now + 60_000_000)
    w.settle()
    d = w.drivers[0]
    assert len(d.dispatches) == 1
    w.tick(0, 8_000_000)
    w.settle()
    assert len(d.dispatches) == 1 and last(d) == ("expired", "budget_exceeded")
    assert (lease(w, 0).reserved, lease(w, 0).spent) == (0, 100)  # nobody knows whether it was read


def test_tool_limits_are_shared_by_all_agents() -> None:
    rows = "limits: [{id: slow, scope: tool, match: cost.pay, unit: requests, cap: 2, window: day}]\n"
    w = world(rows=rows)
    for index in (0, 1, 2):
        call(w, index)
        w.settle()
    assert [len(d.dispatches) for d in w.drivers].count(1) == 2
    assert sum(d.replies[-1].reason == "rate_limited" for d in w.drivers if d.replies) == 1


def test_what_is_open_at_once_in_a_team_is_counted_over_partitions() -> None:
    w = world(rows=f"budgets: [{{id: wide, scope: team, match: {TEAM}, unit: fan_out, cap: 2}}]\n")
    for index in (0, 1, 2):
        call(w, index)
        w.settle()
    assert [len(d.dispatches) for d in w.drivers] == [1, 1, 0]
    assert last(w.drivers[2]) == ("refused", "budget_exceeded")
    w.drivers[0].finish(w.drivers[0].dispatches[0], b'{"ok":true}')
    w.tick(0, 6_000_000)
    w.settle()
    call(w, 2)
    w.settle()
    assert len(w.drivers[2].dispatches) == 1, "one that ended makes room for one elsewhere"
    check(w)


def test_malformed_amounts_are_noted() -> None:
    w = world()
    d = w.drivers[0]
    for number, kind in enumerate(("budget.request", "budget.return", "budget.grant", "budget.freeze")):
        bad = r.Exchange(
            bytes([number + 1]) * 16, kind, ACCOUNT, 0, 1, "", "", "", "", d.now, 0, ["x"], [1], b""
        )
        assert d.feed("transfers", bad).outcomes[0].reason == "malformed_record"
    check(w)
