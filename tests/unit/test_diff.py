"""What another release would have decided: which decisions change, the first of a session, and what follows from it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.replay.diff import Diff, DiffTally, under
from sluicegate.processors.replay.recorded import Event
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands import backtest
from sluicegate.streams.commands.output import Format
from sluicegate.streams.replay.replay import Diffed, Window

from tests.driver import AGENT, Driver, release, release_files

PAY_LESS = """
@id("desk-no-more-pay") forbid (principal, action == Action::"desk.pay", resource);
@id("desk-second-set") forbid (principal, action == Action::"desk.set", resource)
when { context.session.counts["desk.set"] >= 1 };
"""


def candidate(policies: str = "", **files: str) -> CompiledRelease:
    return compile_release({**release_files(), "policies/more.cedar": policies, **files})


def diff(
    driver: Driver, to: CompiledRelease, selected: Callable[[list[Event]], bool] | None = None
) -> DiffTally:
    again = Diff(driver.partition, under(driver.controls, to), driver.keys.open, selected)
    for record in driver.records:
        again.add(*record)
    again.finish()
    return again.diff


@pytest.fixture
def driver() -> Driver:
    """Two sessions, which set, pay, set again and read; then one that only reads."""
    made = Driver()
    for session in ("s-1", "s-2", "s-3"):
        made.open_session(session)
        for tool in ("desk.set", "desk.pay", "desk.set", "desk.read") if session != "s-3" else ("desk.read",):
            made.finish(made.call(tool, {"value": "x"}, session=session).dispatches[0])
    return made


@pytest.mark.parametrize("edition", ["1", "9"])
def test_a_release_that_decides_alike_changes_nothing(edition: str) -> None:
    """Whatever it is called: what people approved under the recorded name stays approved."""
    made = Driver()
    made.everyday(2)
    tally = diff(made, release(edition=edition))
    assert (tally.changed, tally.speculative, tally.changes, tally.policies_only) == (0, 0, [], 0)
    assert tally.compared == len({(e.input_topic, e.input_offset) for e in _headers(made)}) - 1  # the genesis


def _headers(driver: Driver) -> list[object]:
    from tests.driver import read

    return [read(record).header for record in driver.records]


def test_the_first_change_of_a_session_and_what_follows(driver: Driver) -> None:
    tally = diff(driver, candidate(PAY_LESS))
    assert (tally.changed, tally.speculative) == (2, 2)
    assert (tally.sessions, tally.sessions_changed) == (3, 2)
    assert dict(tally.by_tool) == {"desk.set": 4, "desk.pay": 2, "desk.read": 3}
    first, second = tally.changes[0], tally.changes[1]
    assert (first.tool, first.session_id, first.speculative) == ("desk.pay", "s-1", False)
    assert str(first.was) == "permit by desk-use"
    assert str(first.now) == "refuse forbidden by desk-no-more-pay" and first.now.stage == "authorize"
    assert (second.tool, second.speculative) == ("desk.set", True)
    groups = {g.tool: g for g in tally.groups.values()}
    assert (groups["desk.pay"].count, groups["desk.pay"].speculative) == (2, 0)
    assert groups["desk.pay"].examples == [c.intent_id for c in tally.changes if c.tool == "desk.pay"]
    assert (groups["desk.set"].count, groups["desk.set"].speculative, groups["desk.set"].examples) == (
        2,
        2,
        [],
    )


def test_a_permit_more_is_a_change(driver: Driver) -> None:
    driver.call("desk.never", session="s-3")
    more = '@id("desk-now") permit (principal, action == Action::"desk.never", resource);'
    (change,) = diff(driver, candidate(more)).changes
    assert (change.was.said, change.was.reason, change.now.said) == ("refuse", "no_permit", "permit")
    assert change.now.policies == ("desk-now",)


def test_another_policy_with_the_same_answer_is_counted_apart(driver: Driver) -> None:
    more = '@id("desk-also") permit (principal, action == Action::"desk.read", resource);'
    tally = diff(driver, candidate(more))
    assert (tally.changed, tally.policies_only) == (0, 3)


def test_what_an_observing_policy_would_decide_changes_nothing(driver: Driver) -> None:
    tally = diff(driver, candidate(PAY_LESS.replace("@id", '@mode("observe") @id')))
    assert (tally.changed, tally.speculative) == (0, 0)
    assert dict(tally.observed) == {"desk-no-more-pay": 2, "desk-second-set": 2}


def test_a_result_that_would_be_withheld_and_a_hold(driver: Driver) -> None:
    contract = json.loads(release_files()["contracts/desk.read.json"])
    contract["outputSchema"] = {"type": "array"}
    held = '@id("desk-pay-asks") @hold forbid (principal, action == Action::"desk.pay", resource);'
    tally = diff(driver, candidate(held, **{"contracts/desk.read.json": json.dumps(contract)}))
    said = {(c.tool, c.was.said, c.now.said) for c in tally.changes}
    assert said == {("desk.pay", "permit", "hold"), ("desk.read", "release", "withhold")}


def test_labels_of_the_candidate_count_for_what_follows() -> None:
    """The candidate says that a result is the web's; a policy of it looks at that in the next call."""
    made = Driver()
    made.open_session("s")
    made.finish(made.call("desk.read", {"value": "x"}, session="s").dispatches[0])
    made.call("desk.set", {"value": "x"}, session="s")
    policy = '@id("desk-web") forbid (principal, action == Action::"desk.set", resource) when { context.session.integrity == "web" };'
    contract = json.loads(release_files()["contracts/desk.read.json"])
    for label, changes in (("web", 1), ("internal", 0)):
        contract["x-sluicegate"]["labels"] = {"$": label}
        tally = diff(made, candidate(policy, **{"contracts/desk.read.json": json.dumps(contract)}))
        assert tally.changed == changes, label


def test_a_window_and_erased_content(driver: Driver) -> None:
    to = candidate(PAY_LESS)
    some = diff(driver, to, Window("intents", {0: 1}, {0: 1}).holds)
    assert (some.compared, some.changed) == (1, 1)
    driver.keys.destroyed.add("person-1")
    gone = diff(driver, to)
    assert gone.compared + gone.erased > 0 and gone.changed == 0 and gone.erased > 0


def test_before_a_release_was_deployed_the_candidate_is_not_either() -> None:
    made = Driver()
    history = under(made.controls, candidate())
    assert [c.release is None for c in history] == [c.deployed == "" for c in made.controls]


def _result(driver: Driver) -> Diffed:
    return Diffed(
        "sha256:x", partitions={0: diff(driver, candidate(PAY_LESS)), 1: diff(driver, candidate(PAY_LESS))}
    )


def test_rows_json_and_junit_say_it(
    driver: Driver, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from sluicegate.streams import junit

    result = _result(driver)
    backtest.report(result, Format.JSON)
    said = json.loads(capsys.readouterr().out)
    assert (said["changed"], said["speculative"], len(said["changes"])) == (4, 4, 8)
    assert said["groups"][0]["count"] == 4 and said["groups"][0]["tool"] == "desk.pay"
    backtest.report(result, Format.CSV)
    assert len(capsys.readouterr().out.splitlines()) == 3
    backtest.report(result, Format.TABLE)
    text = capsys.readouterr().out
    assert (
        "4 of" in text and "decided otherwise, in 4 of 6 sessions; 4 more after those (speculative)" in text
    )
    junit.write(tmp_path / "j.xml", "diff", backtest.junit_cases(result))
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert root.get("failures") == "1"
    failed = [c.get("name") for c in root.iter("testcase") if c.find("failure") is not None]
    assert failed == ["desk.pay"]
    assert {"desk.read", "desk.set"} <= {c.get("name") for c in root.iter("testcase")}


@pytest.mark.parametrize(
    ("text", "fails"), [("0", True), ("3", True), ("4", False), ("5%", True), ("100%", False), ("0%", True)]
)
def test_the_threshold(driver: Driver, text: str, fails: bool) -> None:
    assert backtest.beyond(_result(driver), backtest.threshold(text)) is fails


@pytest.mark.parametrize("text", ["", "many", "-1", "5%%", "nan"])
def test_a_threshold_that_is_none(text: str) -> None:
    with pytest.raises(Terminal, match=r"write `20` or `0.5%`"):
        backtest.threshold(text)


def test_the_agent_that_is_named_is_the_one_that_asked(driver: Driver) -> None:
    assert {c.agent_id for c in diff(driver, candidate(PAY_LESS)).changes} == {AGENT}
