"""Where two mechanisms meet: releases and second offers, the cache and doubt, plug-ins and budgets, closed sessions and verify."""

from __future__ import annotations

import pytest
from sluicegate.processors.budget.budgets import GRANT_LIMIT_US
from sluicegate.processors.crossing.homes import REMEMBERED_US
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.replay import rederive
from sluicegate.processors.replay.lineage import Lineage
from sluicegate.processors.sessions.library import Library
from sluicegate.streams.undo.rollback import NOTHING, Step, judge

from tests.driver import AGENT, Driver, read, release, release_files
from tests.unit import test_budget_leases as leases
from tests.unit import test_budgets as budgets
from tests.unit import test_cache as one
from tests.unit import test_cache_homes as many
from tests.unit import test_jobs as jobs
from tests.unit.test_rederive import check as decide_again


def test_a_read_that_was_stopped_in_mid_run_blocks_no_equal_call() -> None:
    d = one.driver("tenant")
    d.claim(one.read(d).dispatches[0])
    d.control_event("quarantine.added", scope="tool", value="desk.read", why="look")
    d.tick(60_000_000)  # its executor died: nobody reports
    d.control_event("quarantine.lifted", scope="tool", value="desk.read")
    assert one.states(d) == ["in_doubt"]
    again = one.read(d)
    assert again.dispatches != []
    d.finish(d.dispatches[0], b'{"n":0}')  # what comes late ends the call in doubt, and nothing else
    assert one.states(d) == ["dispatched"]
    d.finish(again.dispatches[0], b'{"n":1}')
    assert one.read(d).replies[0].result == b'{"n":1}'
    one.intact(d)


def test_who_waited_for_a_read_in_doubt_runs() -> None:
    w = many.world()
    for name in many.NAMES:
        many.ask(w, name)
    w.settle()
    ((d, dispatch),) = many.dispatches(w)
    d.claim(dispatch)
    w.control_event("quarantine.added", scope="agent", value=dispatch.agent_id, why="look")
    d.tick(60_000_000)
    w.settle()
    assert len(many.dispatches(w)) == 2
    many.everything_holds(w)


def test_a_read_that_broke_the_machinery_in_mid_run_blocks_no_equal_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    d = one.driver("tenant")
    d.claim(one.read(d).dispatches[0])
    with monkeypatch.context() as patch:
        patch.setattr("sluicegate.processors.pipeline.decide_tick", None)
        d.tick(60_000_000)
    assert one.states(d) == ["in_doubt"]
    assert one.read(d).dispatches != []


def test_a_home_that_lost_its_result_lets_who_asks_run() -> None:
    w = many.world()
    runner = many.named(0)
    many.ask(w, runner)
    w.settle()
    ((d, dispatch),) = many.dispatches(w)
    d.finish(dispatch, b'{"n":1}')
    w.settle()
    at_home = many.home(w)
    h = w.drivers[at_home]
    for topic in ("receipts", "transfers"):  # retention passed by
        h.inputs.get(topic, {}).clear()
    h.library = Library()
    other = next(many.named(p) for p in range(many.PARTITIONS) if p not in (0, at_home))
    many.ask(w, other)
    w.settle()
    assert len(many.dispatches(w)) == 2
    for index in range(many.PARTITIONS):
        w.crash(index)
        w.restore(index)


def test_grants_and_returns_are_remembered_for_minutes() -> None:
    w = leases.world()
    leases.call(w, 0)
    w.settle()
    w.tick(0, 60_000_000)  # the lease goes back
    w.settle()
    assert {x.kind for x in w.delivered} == {"budget.request", "budget.grant", "budget.return"}
    kept = [until for d in w.drivers for until in d.state.seen.values()]
    assert kept and max(kept) <= w.now + REMEMBERED_US


def test_results_that_live_long_are_not_remembered_as_long() -> None:
    files = dict(one.cached_release("tenant"))
    name = "contracts/desk.read.json"
    files[name] = files[name].replace('"ttl_s": 60', '"ttl_s": 604800')
    w = many.world(compile_release(files))
    for agent in many.NAMES:
        many.ask(w, agent)
    w.settle()
    ((d, dispatch),) = many.dispatches(w)
    d.finish(dispatch, b'{"n":1}')
    w.settle()
    kept = [until for d in w.drivers for until in d.state.seen.values()]
    assert kept and max(kept) <= w.now + REMEMBERED_US


def test_a_request_of_a_second_offer_that_is_lost_keeps_nobody_from_asking() -> None:
    w = leases.world(cap=100)
    leases.call(w, 0, "cost.read")
    w.settle()
    d = w.drivers[0]
    w.tick(0, 8_000_000)
    while w.tick(0).outcomes:  # its lease ran out: the second offer needs as much again, and asks
        pass
    assert d.state.waiters
    w.collect()
    w.lanes.clear()  # the home is away
    sent = len(d.exchanges)
    d.now += GRANT_LIMIT_US
    leases.call(w, 0, "cost.read")
    assert [x.kind for x in d.exchanges[sent:]] == ["budget.request"]
    leases.check(w)


def test_a_parked_jobs_bytes_are_kept_to_decide_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rederive, "_KEEP_SLACK", -100)
    d = jobs.driver()
    dispatch = d.call("job.poll").dispatches[0]
    d.claim(dispatch)
    d.receipt(dispatch, "parked", result=b'{"completion":"poll","job":"j-1"}')
    d.say("and now?")
    look = d.tick(120_000_000)
    assert look.dispatches[0].job == "j-1"
    assert decide_again(d).differences == []


def test_a_held_call_of_a_closed_session_is_verified_under_its_release() -> None:
    d = Driver()
    d.open_session("old")
    held = d.call("desk.ask", session="old")
    d.deploy(release(edition="two"))
    d.close_session("old")
    went_on = d.review(held)
    assert went_on.dispatches != []
    d.finish(went_on.dispatches[0])
    one.intact(d)


PLUG_IN = 'guardrails: [{id: g, "on": call, plugin: sanctions, on_failure: pass}]\n'


@pytest.mark.parametrize("how", ["finished", "failed"])
def test_a_plug_ins_receipt_settles_nothing_of_the_call(how: str) -> None:
    rows = "budgets: [{id: purse, scope: agent, unit: money, cap: 150}, "
    rows += "{id: at_once, scope: agent, unit: fan_out, cap: 1}]\n"
    d = budgets.driver(rows + PLUG_IN)

    def pay() -> Decision:
        asked = d.call("cost.pay").dispatches[0]
        if how == "finished":
            return d.receipt(asked, "finished", result=b'[{"id":"g","verdict":"pass"}]')
        return d.receipt(asked, "failed", error_class="unreachable", sent=False)

    first = pay()
    accounts = {name: (one.reserved, one.spent) for name, one in d.state.accounts.items()}
    assert accounts == {f"agent:{AGENT}/purse": (100, 0), f"agent:{AGENT}/at_once": (1, 0)}
    assert pay().outcomes[-1].reason in ("budget_exceeded", "rate_limited")
    d.finish(first.dispatches[0], b'{"cost":30}')
    accounts = {name: (one.reserved, one.spent) for name, one in d.state.accounts.items()}
    assert accounts == {f"agent:{AGENT}/purse": (0, 30), f"agent:{AGENT}/at_once": (0, 0)}
    assert pay().dispatches != []


def test_a_read_that_the_cache_answered_is_a_read_to_who_takes_back() -> None:
    d = one.driver()
    d.finish(one.read(d).dispatches[0], b'{"n":1}')
    hit = one.read(d).outcomes[0].origin
    lineage = Lineage(hit.tenant)
    for record in d.records:
        event = read(record)
        lineage.take(0, record.offset, event.header, event.facts)
    step = Step(lineage.calls[hit.agent_id, hit.intent_id])
    judge(step, release(), d.control)
    assert (step.stands, step.why) == (NOTHING, "it only reads")


def canary(tool: str) -> Driver:
    """A session of a canary whose tool is at another server."""
    d = jobs.driver()
    files = {**release_files(), **jobs.FILES}
    files[f"contracts/{tool}.json"] = files[f"contracts/{tool}.json"].replace(
        "tools.invalid", "canary.invalid"
    )
    two = compile_release(files)
    d.publish(two)
    d.control_event("canary.started", digest=two.digest, weight_bp=10_000)
    d.open_session("drawn")
    return d


@pytest.mark.parametrize("end", ["closed", "aborted"])
@pytest.mark.parametrize("tool", ["desk.set", "look.up"])
def test_what_may_have_happened_at_one_server_is_not_asked_of_another(tool: str, end: str) -> None:
    d = canary(tool)
    first = d.call(tool, {"value": "a"}, session="drawn").dispatches[0]
    assert b"canary.invalid" in first.executor
    d.claim(first)
    if end == "closed":
        d.close_session("drawn")
    else:
        d.control_event("canary.aborted")
    again = d.tick(60_000_000)
    assert [(o.status, o.reason) for o in again.outcomes] == [("in_doubt", "call_in_doubt")]
    assert again.dispatches == []
    d.finish(first, b"{}")
    assert d.replies[-1].status == "released"
    one.intact(d)


def test_a_lookup_goes_on_at_no_other_server() -> None:
    d = canary("look.up")
    d.claim(d.call("look.up", {"value": "a"}, session="drawn").dispatches[0])
    look = d.tick(20_000_000).dispatches[0]
    d.receipt(look, "absent")
    d.control_event("canary.aborted")
    ended = d.tick()
    assert ([o.status for o in ended.outcomes], ended.dispatches) == (["in_doubt"], [])
    one.intact(d)


@pytest.mark.parametrize("tool", ["desk.set", "look.up"])
def test_under_the_same_release_it_is_repeated_or_looked_up(tool: str) -> None:
    d = canary(tool)
    d.claim(d.call(tool, {"value": "a"}, session="drawn").dispatches[0])
    (again,) = d.tick(20_000_000).dispatches
    assert b"canary.invalid" in again.executor


def test_a_tool_that_only_a_canary_has_counts_against_the_environments_budgets() -> None:
    d = budgets.driver("budgets: [{id: purse, scope: agent, unit: money, cap: 150}]\n")
    files = budgets.files("")
    for name in ("contracts/cost.pay.json", "policies/cost.cedar"):
        files[name.replace("cost", "fresh")] = files[name].replace("cost.pay", "fresh.pay")
    files["policies/fresh.cedar"] = (
        '@id("fresh") permit (principal, action == Action::"fresh.pay", resource);'
    )
    two = compile_release(files)
    d.publish(two)
    d.control_event("canary.started", digest=two.digest, weight_bp=10_000)
    d.open_session("drawn")
    assert d.call("fresh.pay", session="drawn").dispatches != []
    assert d.state.accounts[f"agent:{AGENT}/purse"].reserved == 100
    assert d.call("fresh.pay", session="drawn").outcomes[-1].reason == "budget_exceeded"


def test_a_session_that_was_not_opened_is_verified_in_the_arm_it_was_drawn_into() -> None:
    d = Driver()
    two = release(edition="two")
    d.publish(two)
    d.control_event("canary.started", digest=two.digest, weight_bp=10_000)
    refused = d.open_session(user="nobody\n")
    assert (refused.outcomes[0].status, refused.outcomes[0].origin.release) == ("session_refused", two.digest)
    one.intact(d)
