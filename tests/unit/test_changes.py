"""Two people for one event: proposed, agreed by another person, and only then control's."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import rfc8785
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.changes import Change, digest_of, ended, may_agree
from sluicegate.processors.control.control import Control
from sluicegate.processors.control.policy import asked
from sluicegate.processors.control.rules import rules_alone
from sluicegate.processors.releases.release import build, compile_release
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control import log as control_log
from sluicegate.streams.control.changes import proposals
from sluicegate.streams.control.deployments import deploy

from tests.driver import T0, Driver, release, release_files

HOUR_US = 3_600_000_000
RULES = """
@id("two-leads") @quorum("2") @expires("4h")
permit (principal in Role::"lead", action in [Action::"release.deployed", Action::"canary.promoted"], resource);
@id("small-canaries") @quorum("2")
permit (principal in Role::"lead", action == Action::"canary.started", resource);
@id("tiny-canaries-alone")
permit (principal in Role::"lead", action == Action::"canary.started", resource) when { context.weight_bp <= 100 };
@id("back-at-once")
permit (principal in Role::"lead", action == Action::"release.rolled_back", resource);
@id("operators-by-two") @quorum("2")
permit (principal in Role::"lead", action in [Action::"people.registered", Action::"key.added"], resource);
@id("agents-keys-alone")
permit (principal in Role::"lead", action == Action::"key.added", resource) unless { context.roles.contains("operator") };
"""
TWO = release(edition="two")


def rules(text: str = RULES) -> dict[str, str]:
    return {**release_files(), "control.cedar": text}


@pytest.fixture
def start() -> Control:
    """An environment where two leads deploy together: lea and leo are, otto is not."""
    d = Driver()
    people = [{"person_id": p, "roles": ["lead"]} for p in ("lea", "leo", "liz")] + [
        {"person_id": "otto", "roles": []}
    ]
    d.control_event("people.registered", people=people)
    d.deploy(compile_release(rules()))
    d.publish(TWO)
    return d.control


def event(control: Control, kind_: str, who: str, at: int = 0, /, **body: object) -> Control:
    facts = r.ControlFacts(kind_, who, "a test", rfc8785.dumps(body))  # type: ignore[arg-type]
    after = control_fold.fold(control, control.head + 1, facts, at or control.at + 1)
    if after.release is None and after.deployed:
        after.release = TWO
    return after


def proposed(
    start: Control, who: str = "lea", /, quorum: int = 2, hours: float = 1.0, kind: str = "release.deployed",
    body: dict[str, object] | None = None,
) -> Control:  # fmt: skip
    inner = body or {"digest": TWO.digest}
    until = start.at + int(hours * HOUR_US)
    return event(start, "change.proposed", who, 0, kind=kind, body=inner, quorum=quorum, expires_at=until)


def only(control: Control) -> Change:
    [change] = control.changes.values()
    return change


def agreed(control: Control, who: str, at: int = 0, digest: str = "") -> Control:
    change = only(control)
    return event(control, "change.agreed", who, at, change=change.seq, digest=digest or change.digest)


def test_one_person_alone_changes_nothing(start: Control) -> None:
    assert event(start, "release.deployed", "lea", digest=TWO.digest).deployed == start.deployed
    waiting = proposed(start)
    assert waiting.deployed == start.deployed and only(waiting).agreed == ("lea",)
    again = agreed(waiting, "lea")
    assert again.deployed == start.deployed and "takes another person" in may_agree(
        again, only(again), "lea", again.at
    )


def test_another_person_agrees_and_it_is_done(start: Control) -> None:
    done = agreed(proposed(start), "leo")
    assert done.deployed == TWO.digest and not done.changes
    assert event(done, "change.agreed", "liz", change=99, digest="").deployed == TWO.digest, "once"


def test_three_people(start: Control) -> None:
    first = agreed(proposed(start, quorum=3), "leo")
    assert (first.deployed, only(first).agreed) == (start.deployed, ("lea", "leo"))
    assert agreed(first, "liz").deployed == TWO.digest


@pytest.mark.parametrize("who", ["otto", "nobody"])
def test_who_may_not_do_it_may_not_agree_or_propose_it(start: Control, who: str) -> None:
    assert agreed(proposed(start), who).deployed == start.deployed
    assert not proposed(start, who).changes


def test_it_is_bound_to_the_exact_body(start: Control) -> None:
    other = digest_of("release.deployed", {"digest": TWO.digest, "now": True})
    assert agreed(proposed(start), "leo", digest=other).deployed == start.deployed


def test_it_expires_by_controls_time(start: Control) -> None:
    waiting = proposed(start)
    late = only(waiting).expires_at
    assert agreed(waiting, "leo", late - 1).deployed == TWO.digest
    assert agreed(waiting, "leo", late).deployed == start.deployed
    assert ended(waiting, only(waiting), late) == "it expired"
    # A clock that runs backwards moves nothing: control's time stays where it was.
    passed = event(waiting, "agents.registered", "lea", late, agents=[])
    back = agreed(passed, "leo", late - HOUR_US)
    assert (back.deployed, back.at) == (start.deployed, late)


def test_what_changed_meanwhile_voids_it(start: Control) -> None:
    waiting = proposed(start)
    other = event(waiting, "agents.registered", "lea", agents=[{"agent_id": "a"}])
    assert agreed(other, "leo").deployed == TWO.digest, "what is not about releases does not"
    moved = event(waiting, "release.pinned", "lea", scope="agent", value="a", digest=TWO.digest)
    assert agreed(moved, "leo").deployed == start.deployed
    assert "propose it anew" in ended(moved, only(moved), moved.at)


def test_who_agreed_and_may_not_any_more_does_not_count(start: Control) -> None:
    waiting = event(proposed(start), "people.removed", "x", people=["lea"])
    after = agreed(waiting, "leo")
    assert after.deployed == start.deployed
    assert agreed(after, "liz").deployed == TWO.digest, "two who still may"


@pytest.mark.parametrize(
    ("quorum", "hours", "kind"),
    [(1, 1, "release.deployed"), (11, 1, "release.deployed"), (2, 0, "release.deployed"), (2, 5, "release.deployed"),
     (2, 1, "genesis"), (2, 1, "change.agreed"), (2, 1, "quarantine.lifted")],
)  # fmt: skip
def test_what_is_no_proposal(start: Control, quorum: int, hours: float, kind: str) -> None:
    """Fewer people than the permit asks for, more than there may be, no or too much time, an event nobody is asked about."""
    assert not proposed(start, quorum=quorum, hours=hours, kind=kind).changes


def test_it_is_withdrawn_by_whoever_may(start: Control) -> None:
    waiting = proposed(start)
    seq = only(waiting).seq
    assert event(waiting, "change.withdrawn", "otto", change=seq).changes
    assert not event(waiting, "change.withdrawn", "leo", change=seq).changes


def test_a_permit_that_asks_nobody_else_is_enough(start: Control) -> None:
    assert asked(start, "lea", "canary.started", {"digest": TWO.digest, "weight_bp": 100}).quorum == 1
    assert asked(start, "lea", "canary.started", {"digest": TWO.digest, "weight_bp": 101}).quorum == 2
    assert event(start, "canary.started", "lea", digest=TWO.digest, weight_bp=100).canary is not None
    assert event(start, "canary.started", "lea", digest=TWO.digest, weight_bp=101).canary is None


def test_one_operator_cannot_become_two(start: Control) -> None:
    """People and keys are under the same rule where `control.cedar` names them."""
    made: dict[str, object] = {"people": [{"person_id": "eve", "roles": ["lead"]}]}
    assert "eve" not in event(start, "people.registered", "lea", **made).people
    assert "eve" in agreed(proposed(start, kind="people.registered", body=made), "leo").people
    key = {"kid": "k", "principal": "eve", "alg": "Ed25519", "public": "00", "not_before": 0, "not_after": 9}
    assert "k" not in event(start, "key.added", "lea", role="operator", **key).keys
    assert "k" in event(start, "key.added", "lea", role="agent", **key).keys


API_KEYS = """
@id("channels-by-two") @quorum("2")
permit (principal in Role::"lead", action == Action::"api_key.added", resource);
@id("agents-alone")
permit (principal in Role::"lead", action == Action::"api_key.added", resource) unless { context.roles.contains("channel") };
"""


def test_one_operator_speaks_for_nobody_through_the_gateway(start: Control) -> None:
    """An API key is a key: whoever has one speaks as its agent, and with `channel` for the user."""
    d = Driver()
    d.deploy(compile_release(rules(RULES + API_KEYS)))
    start.release, start.deployed = d.control.release, d.control.deployed
    made: dict[str, object] = {
        "key_id": "k", "sha256": "00", "agent_id": "a", "scopes": ["agent", "channel"], "rate_per_s": 1, "not_after": 9,
    }  # fmt: skip
    assert "k" not in event(start, "api_key.added", "otto", **{**made, "scopes": ["agent"]}).api_keys
    assert "k" in event(start, "api_key.added", "lea", **{**made, "scopes": ["agent"]}).api_keys
    assert "k" not in event(start, "api_key.added", "lea", **made).api_keys
    assert "k" in agreed(proposed(start, kind="api_key.added", body=made), "leo").api_keys
    events, waits = proposals(start, [("api_key.added", made)], "lea", start.at + 1)
    assert (events[0][0], waits) == ("change.proposed", 2)


def test_bounded(start: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicegate.processors.control.changes.MAX_CHANGES", 2)
    control = start
    for _ in range(3):
        control = proposed(control)
    assert len(control.changes) == 2
    later = event(control, "agents.registered", "lea", control.at + HOUR_US, agents=[])
    assert len(proposed(later).changes) == 1, "those that ended make room"


def test_an_event_of_no_form_does_not_stop_a_reader(start: Control) -> None:
    assert event(start, "change.agreed", "lea", change=1, digest="x").changes == {}
    assert event(start, "change.withdrawn", "lea", change=1).changes == {}


def test_the_rules_alone_answer_as_the_release(start: Control) -> None:
    """Who reads control without deciding asks `control.cedar` and compiles nothing else."""
    alone = replace(start, release=rules_alone(rules()))
    assert alone.release is not None and alone.release.digest == start.deployed and not alone.release.tools
    for who in ("lea", "otto"):
        for kind, body in (("release.deployed", {"digest": TWO.digest}), ("key.added", {"role": "operator"})):
            assert asked(alone, who, kind, body) == asked(start, who, kind, body)
    assert rules_alone(release_files()) is None


# -- what control.cedar may say ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ('@quorum("0") permit (principal, action == Action::"release.deployed", resource);', "@quorum(`0`)"),
        ('@quorum("2") forbid (principal, action == Action::"release.deployed", resource);', "stands on a permit"),
        ('@quorum("2") permit (principal, action == Action::"mode.set", resource);', "stands on a permit that names one of"),
        ('@expires("4h") permit (principal, action == Action::"release.deployed", resource);', "without @quorum"),
        ('@quorum("2") @expires("9d") permit (principal, action == Action::"release.deployed", resource);', "@expires(`9d`)"),
        ('@hold("x") permit (principal, action == Action::"release.deployed", resource);', "@hold means nothing"),
        ('permit (principal, action == Action::"people.registered", resource) when { context.weight_bp == 1 };', "weight_bp"),
    ],
)  # fmt: skip
def test_what_means_nothing_refuses_the_release(policy: str, said: str) -> None:
    _, findings = build(rules(f'@id("x") {policy}'))
    [found] = [f for f in findings if f.file == "control.cedar"]
    assert found.severity == "error" and said in found.sentence


# -- what is written -----------------------------------------------------------------------------------------------


def test_what_takes_two_people_is_written_as_a_proposal(start: Control) -> None:
    events, said = deploy([], TWO.digest, now=False)(start)
    now = start.at + 1
    written, waits = proposals(start, events, "lea", now)
    assert (waits, [kind for kind, _ in written]) == (2, ["change.proposed"])
    assert written[0][1]["expires_at"] == now + 4 * HOUR_US
    done = event(start, written[0][0], "lea", now, **written[0][1])
    assert agreed(done, "leo").deployed == TWO.digest and said
    with pytest.raises(Terminal, match="does not permit"):
        proposals(start, events, "otto", now)


def test_controls_time_never_runs_backwards(start: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an operator whose clock is behind, the event gets the time of the one before it."""
    monkeypatch.setattr(time, "time_ns", lambda: 5_000)
    assert control_log.clock(replace(start, at=T0)) == T0
    assert control_log.clock(Control()) == 5
