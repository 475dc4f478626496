"""Faults that verify and replay brought to light: each stays mended."""

from __future__ import annotations

import json

from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, release_files


def test_an_approval_permits_nothing_under_stale_control() -> None:
    driver = Driver()
    driver.open_session()
    held = driver.call("desk.ask")
    decided = driver.feed("reviews", driver.word(held), stale=True)
    assert [(o.status, o.reason) for o in decided.outcomes] == [("noted", "control_stale")]


def test_a_second_offer_names_the_release_that_planned_it() -> None:
    driver = Driver()
    driver.open_session()
    driver.call("desk.set")
    files = dict(release_files(edition="2"))
    contract = json.loads(files["contracts/desk.set.json"])
    contract["x-sluicegate"]["timeout_ms"] = 9_000
    files["contracts/desk.set.json"] = json.dumps(contract)
    driver.deploy(compile_release(files))
    again = driver.tick(8_000_000).outcomes[0]
    assert isinstance(again.facts, r.PlanFacts)
    planned_by_new = again.facts.timeout_ms == 9_000
    assert planned_by_new == (again.origin.release == driver.control.deployed)


def test_an_error_class_is_a_code() -> None:
    driver = Driver()
    driver.open_session()
    dispatch = driver.call("desk.pay").dispatches[0]
    driver.claim(dispatch)
    failed = driver.receipt(dispatch, "failed", error_class="the card of Mr Smith was refused").outcomes[0]
    assert isinstance(failed.facts, r.ResultFacts)
    assert "Smith" not in failed.facts.error_class


def test_a_session_cannot_fatten_every_header() -> None:
    driver = Driver()
    message = r.Message("m", AGENT, "s", "session.open", driver.now, "goal", "u" * 200_000)
    driver.feed("messages", message)
    driver.call("desk.read", session="s")
    assert len(driver.records[-1].value) < 10_000
