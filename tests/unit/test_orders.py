"""Orders to take calls back: what goes on above a quarantine, and nothing else does."""

from __future__ import annotations

import pytest
from sluicegate.executors.verifier import Follower
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.orders import MAX_ORDERED, Ordered, with_end, with_order
from sluicegate.processors.control.quarantine import quarantined
from sluicegate.processors.jobs.compensate import check_id, undo_id

from tests.driver import AGENT, OTHER_AGENT, Driver
from tests.executor_fakes import dispatch
from tests.unit.test_derail import last
from tests.unit.test_verify import verify

UNDO = undo_id(OTHER_AGENT, "i-9")


def order(d: Driver, *ids: str, agent: str = AGENT, tool: str = "desk.pay") -> None:
    calls = [{"id": i, "tool": tool, "of_agent": OTHER_AGENT, "of_intent": "i-9"} for i in ids]
    d.control_event(
        "rollback.ordered", saga="saga-1", agent_id=agent, of_agent=OTHER_AGENT, of_intent="i-9", calls=calls
    )


def stop(d: Driver, scope: str, value: str) -> None:
    d.control_event("quarantine.added", scope=scope, value=value, why="an alarm")


@pytest.fixture
def d() -> Driver:
    driver = Driver()
    driver.open_session()
    return driver


@pytest.mark.parametrize("scope", ["tool", "release"])
def test_an_order_goes_on_above_an_older_quarantine(d: Driver, scope: str) -> None:
    stop(d, scope, "desk.pay" if scope == "tool" else d.control.deployed)
    assert last(d.call("desk.pay", intent_id=UNDO)) == ("refused", "quarantined")
    order(d, UNDO, check_id(UNDO, 0).partition(".")[0])
    assert d.call("desk.pay", intent_id=f"{UNDO}.2").dispatches, "the next try of the same compensation"
    assert d.call("desk.pay", intent_id=check_id(UNDO, 7)).dispatches, "and its read-back"
    assert last(d.call("desk.pay")) == ("refused", "quarantined"), "no other call"
    assert verify(d).names == set()


@pytest.mark.parametrize("scope", ["tool", "release", "agent", "session"])
def test_what_is_stopped_after_the_order_stays_stopped(d: Driver, scope: str) -> None:
    """And so does whatever stops the saga itself, however old."""
    value = {"tool": "desk.pay", "release": d.control.deployed, "agent": AGENT, "session": "session-1"}[scope]
    stop(d, scope, value)
    if scope in ("tool", "release"):
        order(d, UNDO)
        stop(d, scope, value)  # said again: now it is meant for this, too
    else:
        order(d, UNDO)
    assert last(d.call("desk.pay", intent_id=UNDO)) == ("refused", "quarantined")


def test_only_the_ordered_tool_and_agent(d: Driver) -> None:
    stop(d, "tool", "desk.pay")
    stop(d, "tool", "desk.set")
    order(d, UNDO, agent=OTHER_AGENT)
    order(d, undo_id("a", "b"), tool="desk.set")
    assert last(d.call("desk.pay", intent_id=UNDO)) == ("refused", "quarantined")
    assert last(d.call("desk.pay", intent_id=undo_id("a", "b"))) == ("refused", "quarantined")


def test_the_leave_above_a_release_is_for_the_ordered_tool_only(d: Driver) -> None:
    stop(d, "release", d.control.deployed)
    order(d, UNDO, tool="desk.set")
    assert last(d.call("desk.pay", intent_id=UNDO)) == ("refused", "quarantined")
    d.open_session("other", OTHER_AGENT)
    stolen = d.call("desk.set", intent_id=UNDO, agent=OTHER_AGENT, session="other")
    assert last(stolen) == ("refused", "quarantined"), "and for the agent that carries it out"
    assert d.call("desk.set", intent_id=f"{UNDO}.2").dispatches


def test_a_second_offer_and_an_executor_know_the_order(d: Driver) -> None:
    stop(d, "tool", "desk.set")
    order(d, UNDO, tool="desk.set")
    assert d.call("desk.set", intent_id=UNDO).dispatches
    assert d.tick(8_000_000).dispatches, "offered again, since nobody claimed it"

    class Source:
        control: Control = d.control
        stale = False

        async def wait_for(self, head: int, limit_s: float = 0.0) -> None:
            return None

    told = dispatch(agent=AGENT, intent_id=UNDO)
    told.tool = "desk.set"
    assert Follower(Source()).stopped(told) == ""
    told.intent_id = "another"
    assert "quarantined" in Follower(Source()).stopped(told)


def test_the_first_order_says_which_agent_takes_a_call_back(d: Driver) -> None:
    order(d, UNDO)
    order(d, UNDO, agent=OTHER_AGENT)
    assert d.control.orders[UNDO].agent_id == AGENT


def test_what_was_done_is_remembered_and_the_oldest_forgotten() -> None:
    calls = [{"id": f"undo-{n}", "tool": "t"} for n in range(MAX_ORDERED + 2)]
    body = {"agent_id": "a", "saga": "s", "of_intent": "i", "calls": calls}
    orders = with_order({}, body, {}, 3, "ana")
    assert len(orders) == MAX_ORDERED and "undo-1" not in orders and "undo-2" in orders
    ended = with_end(orders, {"done": ["undo-5"], "verified": ["undo-6", "undo-0"]})
    assert (ended["undo-5"].state, ended["undo-6"].state, ended["undo-7"].state) == (
        "done",
        "verified",
        "ordered",
    )
    again = with_order(ended, {**body, "calls": calls[5:7]}, {}, 9, "ben")
    assert again["undo-6"] == Ordered("a", "t", "s", frozenset(), "verified", 9, "ben", "i")
    assert list(again)[-2:] == ["undo-5", "undo-6"]


def test_without_an_order_nothing_changes(d: Driver) -> None:
    stop(d, "tool", "desk.pay")
    assert quarantined(d.control, AGENT, "desk.pay", "s", "r", UNDO)
