"""An agent under review: every call of it waits for a person, whatever permits it, and nothing else changes."""

from __future__ import annotations

import pytest

from tests.driver import AGENT, PEOPLE, PERSON, Driver
from tests.unit.test_handoff import driver as handing


def reviewed() -> Driver:
    d = Driver()
    d.control_event("people.registered", people=PEOPLE)
    d.open_session()
    d.control_event("review.begun", agent_id=AGENT, why="it refunds twice")
    return d


@pytest.mark.parametrize("tool", ["desk.read", "desk.pay", "desk.local"])
def test_a_permitted_call_is_held(tool: str) -> None:
    d = reviewed()
    held = d.call(tool, {"value": "x"})
    assert [o.status for o in held.outcomes] == ["routed", "held"]
    assert "under_review" in held.outcomes[-1].policies
    assert held.replies[-1].for_developer.startswith("the agent is under review: it refunds twice")
    agreed = d.review(held)
    assert "permitted" in [o.status for o in agreed.outcomes]


def test_what_is_forbidden_is_still_refused() -> None:
    d = reviewed()
    assert d.call("desk.pay", {"value": "no"}).outcomes[-1].reason == "forbidden"


def test_observing_skips_no_review() -> None:
    d = reviewed()
    d.control_event("mode.set", scope="agent", value=AGENT, mode="observe")
    assert d.call("desk.read").outcomes[-1].status == "held"


def test_a_policys_own_hold_is_the_stricter_one() -> None:
    d = reviewed()
    held = d.call("desk.wire", {"value": "x"})
    assert held.outcomes[-1].policies == ["desk-wire", "under_review"]
    assert held.outcomes[-1].facts.quorum == 2  # type: ignore[attr-defined]
    assert d.review(held, person="person-5").outcomes[-1].reason == "wrong_reviewer"


def test_nothing_is_handed_on() -> None:
    d = handing()
    d.open_session(agent="lead")
    d.control_event("review.begun", agent_id="lead", why="")
    refused = d.hand_off("worker", "theirs", agent="lead").outcomes[-1]
    assert (refused.reason, refused.policies) == ("forbidden", ["under_review"])
    d.control_event("review.ended", agent_id="lead")
    assert d.hand_off("worker", "theirs", agent="lead").outcomes[-1].status == "delegated"


def test_it_begins_between_hold_and_agreement() -> None:
    d = Driver()
    d.control_event("people.registered", people=PEOPLE)
    d.open_session()
    held = d.call("desk.ask")
    d.control_event("review.begun", agent_id=AGENT, why="late")
    again = d.review(held)
    assert again.outcomes[-1].status == "held"  # a person agreed to the policy's question, not to this one
    assert "permitted" in [o.status for o in d.review(again, person=PERSON).outcomes]


def test_a_call_in_flight_goes_on_and_the_end_frees_the_next() -> None:
    d = Driver()
    d.open_session()
    begun = d.call("desk.pay", {"value": "1"}).dispatches[0]
    d.control_event("review.begun", agent_id=AGENT, why="late")
    assert d.finish(begun).outcomes[-1].status == "released"
    d.control_event("review.ended", agent_id=AGENT)
    assert d.call("desk.read").outcomes[-1].status == "dispatched"
