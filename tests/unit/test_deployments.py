"""Deployments: which release decides a session, under canaries, pins, deployments and rollbacks."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from sluicegate.processors.control import deployments
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.deployments import Canary, drawn, good_before, in_use
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.snapshot import decode, encode
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control.deployments import roll_back, was_aborted
from sluicegate.streams.control.events import ControlEvent

from tests.driver import AGENT, Driver, release, release_files
from tests.forging import with_header
from tests.unit.test_verify import forged

ONE, TWO, THREE = (release(edition=e) for e in ("1", "two", "three"))


@pytest.fixture
def d() -> Driver:
    driver = Driver()
    driver.deploy(ONE)
    return driver


def decided_under(d: Driver, session: str) -> str:
    return d.call("desk.read", session=session).outcomes[0].origin.release


def test_a_session_stays_on_its_release(d: Driver) -> None:
    d.open_session("old")
    d.deploy(TWO)
    d.open_session("new")
    assert decided_under(d, "old") == ONE.digest
    assert decided_under(d, "new") == TWO.digest


def test_a_receipt_is_decided_under_its_sessions_release(d: Driver) -> None:
    d.open_session("old")
    dispatch = d.call("desk.read", session="old").dispatches[0]
    d.deploy(TWO)
    assert d.finish(dispatch, b"{}").outcomes[0].origin.release == ONE.digest


def test_rollback_ends_stickiness(d: Driver) -> None:
    d.open_session("good")
    d.deploy(TWO)
    d.open_session("bad")
    d.deploy(THREE)
    d.open_session("worse")
    d.control_event("release.rolled_back", to=ONE.digest)
    assert [decided_under(d, s) for s in ("good", "bad", "worse")] == [ONE.digest] * 3
    d.deploy(TWO)  # what is deployed again is no longer withdrawn
    assert decided_under(d, "bad") == TWO.digest and decided_under(d, "good") == ONE.digest


def test_the_last_known_good_release(d: Driver) -> None:
    assert good_before(d.control) == ""
    d.deploy(TWO)
    d.deploy(THREE)
    assert good_before(d.control) == TWO.digest
    d.control_event("release.rolled_back", to=TWO.digest)
    assert d.control.deployed == TWO.digest
    assert good_before(d.control) == ONE.digest  # never back to what was rolled back
    d.control_event("release.rolled_back", to="sha256:never")
    assert d.control.deployed == TWO.digest


def test_it_is_said_when_there_is_none_to_go_back_to() -> None:
    plan = roll_back()
    for control, said in (
        (Control(), "nothing is deployed yet"),
        (
            Control(deployed="sha256:a1", published={"sha256:a1": "desk 1.0"}),
            r"desk 1.0 \(a1\) is the first release",
        ),
        (
            Control(
                deployed="b2", previous=("a1",), aborted=frozenset(("a1",)), published={"a1": "desk 0.9"}
            ),
            r"all were rolled back \(desk 0.9 \(a1\)\): name one with --to",
        ),
    ):
        with pytest.raises(Terminal, match=said):
            plan(control)


def test_pins_come_first(d: Driver) -> None:
    d.open_session("s")
    d.publish(TWO)
    d.publish(THREE)
    d.control_event("release.pinned", scope="agent", value=AGENT, digest=TWO.digest)
    assert decided_under(d, "s") == TWO.digest
    d.control_event("release.pinned", scope="session", value="s", digest=THREE.digest)
    assert decided_under(d, "s") == THREE.digest
    d.control_event("release.unpinned", scope="session", value="s")
    d.control_event("release.unpinned", scope="agent", value=AGENT)
    assert decided_under(d, "s") == ONE.digest
    d.control_event("release.pinned", scope="agent", value=AGENT, digest="sha256:unpublished")
    d.control_event("release.pinned", scope="team", value="x", digest=TWO.digest)
    assert d.control.pins == {}


def canary(d: Driver, weight_bp: int) -> None:
    d.publish(TWO)
    d.control_event("canary.started", digest=TWO.digest, weight_bp=weight_bp)


def test_a_canary_takes_its_share_of_new_sessions(d: Driver) -> None:
    d.open_session("before")
    canary(d, 5_000)
    names = [f"s{n}" for n in range(40)]
    for name in names:
        d.open_session(name)
    arms = {name: decided_under(d, name) for name in names}
    assert 8 <= Counter(arms.values())[TWO.digest] <= 32
    assert decided_under(d, "before") == ONE.digest
    assert {name: decided_under(d, name) for name in names} == arms
    d.control_event("canary.paused", paused=True)
    d.open_session("later")
    assert decided_under(d, "later") == ONE.digest
    assert {name: decided_under(d, name) for name in names} == arms  # a pause moves nobody
    d.control_event("canary.aborted")
    assert {decided_under(d, name) for name in names} == {ONE.digest}


def test_a_promoted_canary_is_the_environments_release(d: Driver) -> None:
    d.open_session("control")
    canary(d, 10_000)
    d.open_session("arm")
    d.control_event("canary.promoted")
    assert d.control.deployed == TWO.digest and d.control.canary is None
    assert decided_under(d, "arm") == TWO.digest and decided_under(d, "control") == ONE.digest
    assert good_before(d.control) == ONE.digest


@pytest.mark.parametrize(
    "body",
    [
        {"digest": "sha256:unpublished", "weight_bp": 100},
        {"digest": ONE.digest, "weight_bp": 100},
        {"digest": TWO.digest, "weight_bp": 0},
        {"digest": TWO.digest, "weight_bp": 10_001},
    ],
)
def test_what_is_no_canary(d: Driver, body: dict[str, object]) -> None:
    d.publish(TWO)
    d.control_event("canary.started", **body)
    assert d.control.canary is None


def test_a_canary_over_a_canary_changes_nothing(d: Driver) -> None:
    canary(d, 100)
    first = d.control.canary
    d.publish(THREE)
    d.control_event("canary.started", digest=THREE.digest, weight_bp=200)
    assert d.control.canary == first


def test_the_order_of_precedence(d: Driver) -> None:
    """quarantine > pin > the session's release > canary arm > environment, each taken away in turn."""
    d.open_session("s")  # it began under the environment's first release
    for other in (TWO, THREE):
        d.publish(other)
    d.control_event("canary.started", digest=TWO.digest, weight_bp=10_000)
    d.open_session("arm")
    assert (decided_under(d, "s"), decided_under(d, "arm")) == (ONE.digest, TWO.digest), "session over canary"
    d.control_event("release.pinned", scope="agent", value=AGENT, digest=THREE.digest)
    d.open_session("pinned")
    assert {decided_under(d, s) for s in ("s", "arm", "pinned")} == {THREE.digest}, "pin over all of them"
    d.control_event("quarantine.added", scope="release", value=THREE.digest, why="bad")
    assert d.call("desk.read", session="s").outcomes[-1].reason == "quarantined", "quarantine over the pin"
    d.control_event("release.unpinned", scope="agent", value=AGENT)
    assert decided_under(d, "arm") == TWO.digest
    d.control_event("canary.aborted")
    d.open_session("last")
    assert (decided_under(d, "arm"), decided_under(d, "last")) == (ONE.digest, ONE.digest), "environment last"


def test_the_weight_is_met() -> None:
    """100,000 sessions: within 1 % of the sessions; and another canary draws others."""
    one, other = Canary("x", 1_000, 7), Canary("x", 1_000, 8)
    arms = [drawn(one, "agent", f"s{n}") for n in range(100_000)]
    assert abs(sum(arms) - 10_000) < 1_000
    both = sum(a and drawn(other, "agent", f"s{n}") for n, a in enumerate(arms))
    assert 700 < both < 1_300
    assert all(drawn(Canary("x", 10_000, 7), "agent", f"s{n}") for n in range(1_000))


def test_a_snapshot_keeps_what_a_session_stands_on(d: Driver) -> None:
    canary(d, 10_000)
    d.open_session("arm")
    back = decode(encode(d.state))
    assert back.sessions == d.state.sessions
    assert next(iter(back.sessions.values())).release == TWO.digest


def test_verify_draws_again(d: Driver) -> None:
    canary(d, 10_000)
    d.open_session("arm")
    assert forged(d, lambda es: [*es[:-1], with_header(es[-1], release=ONE.digest)]) == {"control_head"}


def test_a_release_that_is_not_at_hand_is_an_alarm_and_no_guess(d: Driver) -> None:
    d.open_session("s")
    d.publish(TWO)
    d.control_event("release.pinned", scope="session", value="s", digest=TWO.digest)
    del d._releases[TWO.digest]
    outcome = d.call("desk.read", session="s").outcomes[0]
    assert (outcome.status, outcome.reason) == ("unreadable", "machinery_failed")


def test_too_many_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "MAX_PINS", 1)
    new = Control(published={"x": "a release"}, deployed="x")
    for agent in ("a", "b", "a"):
        deployments.pinned(new, {"scope": "agent", "value": agent, "digest": "x"}, "")
    assert new.pins == {("agent", "a"): "x"} and in_use(new) == {"x"}


def test_a_deployment_may_move_open_sessions_too(d: Driver) -> None:
    d.open_session("old")
    d.deploy(TWO, now=True)
    assert decided_under(d, "old") == TWO.digest
    assert good_before(d.control) == ONE.digest


def test_a_rollback_ends_the_canary_of_an_earlier_release_too(d: Driver) -> None:
    d.deploy(TWO)
    d.deploy(THREE)
    d.control_event("canary.started", digest=ONE.digest, weight_bp=10_000)
    d.open_session("arm")
    assert decided_under(d, "arm") == ONE.digest
    d.control_event("release.rolled_back", to=TWO.digest)
    assert decided_under(d, "arm") == TWO.digest


def test_a_canarys_tool_is_counted() -> None:
    """By the environment's budgets, which do not know it by name."""
    files = release_files()
    row = "budgets:\n  - {id: few, scope: agent, unit: calls, cap: 1}\n"
    d = Driver()
    d.deploy(compile_release({**files, "release.yaml": files["release.yaml"] + row}))
    contract = json.loads(files["contracts/desk.read.json"]) | {"name": "desk.more"}
    permit = '@id("more") permit (principal, action == Action::"desk.more", resource);'
    more = {"contracts/desk.more.json": json.dumps(contract), "policies/more.cedar": permit}
    canary_release = compile_release({**files, **more})
    d.publish(canary_release)
    d.control_event("canary.started", digest=canary_release.digest, weight_bp=10_000)
    d.open_session("arm")
    assert [d.call("desk.more", session="arm").outcomes[-1].reason for _ in range(2)][-1] == "budget_exceeded"


def test_an_aborted_canary_is_told_with_its_evidence_where_there_is_some() -> None:
    by_hand = ControlEvent(7, 1_795_000_000_000_000, "canary.aborted", "ana", "too slow", {"digest": "d"})
    said = was_aborted("r 2 (abc)", by_hand)
    assert (
        said
        == "the canary of r 2 (abc) was aborted by `ana` at 2026-11-18T11:06:40+00:00, control event 7: too slow"
    )
    judged = by_hand._replace(why="", body={"evidence": {}})
    assert was_aborted("r", judged).endswith("control event 7, see `sluicegate canary explain 7`")
