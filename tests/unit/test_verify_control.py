"""`ledger verify` folds control under its own rules: an event that had no effect for want of authority is found, by name."""

from __future__ import annotations

from dataclasses import fields

import pytest
from sluicegate.processors.control.control import Control
from sluicegate.processors.releases.release import compile_release
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.partition import PartitionChecker

from tests.driver import AGENT, Driver, release, release_files
from tests.signed_driver import key_body

RULES = """
@id("two-leads") @quorum("2")
permit (principal in Role::"lead", action == Action::"release.deployed", resource);
@id("back")
permit (principal in Role::"lead", action == Action::"release.rolled_back", resource);
"""
SECOND = release(edition="second")


@pytest.fixture
def driver() -> Driver:
    """Two leads deploy together, otto may nothing."""
    d = Driver()
    people = [{"person_id": p, "roles": ["lead"]} for p in ("lea", "leo")] + [
        {"person_id": "otto", "roles": []}
    ]
    d.control_event("people.registered", people=people)
    d.deploy(compile_release({**release_files(), "control.cedar": RULES}))
    d.publish(SECOND)
    return d


def checked(d: Driver) -> ControlChecker:
    checker = ControlChecker(d.rules)
    for record in d.control_records:
        checker.add(*record)
    return checker


def same(a: Control, b: Control) -> bool:
    """Whether they decide alike."""
    left = ("head", "at", "views", "release", "releases", "mac_keys")
    return all(getattr(a, f.name) == getattr(b, f.name) for f in fields(Control) if f.name not in left)


UNAUTHORISED: list[tuple[str, str, dict[str, object], str]] = [
    ("release.deployed", "otto", {"digest": SECOND.digest}, "does not permit it to `otto`"),
    ("release.deployed", "lea", {"digest": SECOND.digest}, "it takes 2 people"),
    ("release.deployed", "nobody", {"digest": SECOND.digest}, "is no registered person"),
    ("release.rolled_back", "otto", {"to": release().digest}, "does not permit it"),
    ("mode.set", "otto", {"scope": "tool", "value": "desk.pay", "mode": "observe"}, "does not permit it"),
    ("quarantine.added", "sentinel", {"scope": "agent", "value": AGENT}, "cites no alarm"),
    ("agents.registered", "sentinel", {"agents": [{"agent_id": "x"}]}, "is for people"),
    (
        "change.proposed", "lea",
        {"kind": "release.deployed", "body": {"digest": SECOND.digest}, "quorum": 1, "expires_at": 2**52},
        "asks for 1 people",
    ),
    (
        "change.proposed", "otto",
        {"kind": "release.deployed", "body": {"digest": SECOND.digest}, "quorum": 2, "expires_at": 2**52},
        "does not permit it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "who", "body", "said"), UNAUTHORISED)
def test_what_nobody_was_permitted_is_found_and_changes_nothing(
    driver: Driver, kind: str, who: str, body: dict[str, object], said: str
) -> None:
    before = driver.control
    after = driver.control_event(kind, who, **body)
    assert same(before, after)
    checker = checked(driver)
    assert set(checker.findings.counts) == {"authority"}
    first = checker.findings.first["authority"]
    assert (first.seq, first.offset) == (after.head, driver.control_records[-1].offset)
    assert said in first.sentence
    assert same(checker.controls[-1], after)


GATED: list[tuple[str, dict[str, object]]] = [
    ("review.ended", {"agent_id": AGENT}),
    ("alarms.bounded", {"per_day": 1_000, "unacknowledged": 1_000}),
    ("alarm.acked", {"id": "a-1"}),
    ("quarantine.lifted", {"scope": "agent", "value": AGENT}),
    ("agent.rolled_back", {"agent_id": AGENT, "cut": 0, "why": ""}),
    ("agents.registered", {"agents": [{"agent_id": "x"}]}),
    ("release.attested", {}),
    ("generation.begun", {"number": 1, "log_id": "07" * 16, "partitions": 3}),
    ("generation.started", {"number": 1}),
]


@pytest.mark.parametrize(("kind", "body"), GATED, ids=[kind for kind, _ in GATED])
def test_every_kind_that_control_cedar_may_name_is_asked_for(kind: str, body: dict[str, object]) -> None:
    """Where the rules name it, whoever they do not permit it is found; where they do not, whoever may write may."""
    for named in (True, False):
        d = Driver()
        d.control_event("people.registered", people=[{"person_id": "otto", "roles": []}])
        rules = (
            RULES
            + f'@id("it") permit (principal in Role::"lead", action == Action::"{kind}", resource);' * named
        )
        d.deploy(compile_release({**release_files(), "control.cedar": rules}))
        before = checked(d).findings.counts["authority"]
        assert before == 0
        try:
            d.control_event(kind, "otto", **body)
        except (KeyError, ValueError, TypeError):
            assert not named, "who may not is told before the body's form matters"
            continue
        assert checked(d).findings.counts["authority"] == named


def test_one_person_does_not_agree_twice(driver: Driver) -> None:
    body: dict[str, object] = {"digest": SECOND.digest}
    until = driver.now + 3_600_000_000
    proposed = driver.control_event(
        "change.proposed", "lea", kind="release.deployed", body=body, quorum=2, expires_at=until
    )
    [change] = proposed.changes.values()
    assert not checked(driver).findings.counts
    driver.control_event("change.agreed", "lea", change=change.seq, digest=change.digest)
    assert "agreed already" in checked(driver).findings.first["authority"].sentence
    after = driver.control_event("change.agreed", "leo", change=change.seq, digest=change.digest)
    assert after.deployed == SECOND.digest
    assert checked(driver).findings.counts["authority"] == 1


def test_a_ledger_that_took_it_for_deployed_is_found(driver: Driver) -> None:
    """A worker that does not ask `control.cedar` would decide under that release."""
    driver.control_event("release.deployed", "otto", digest=SECOND.digest)
    driver.controls[-1].deployed, driver.controls[-1].release = SECOND.digest, SECOND
    driver.open_session()
    checker = PartitionChecker(0, checked(driver).controls)
    for record in driver.records:
        checker.add(*record)
    assert set(checker.findings.counts) == {"control_head"}


def test_signatures_are_asked_for_once_there_is_an_operator() -> None:
    d = Driver(signing="signed")
    d.control_event("people.registered", people=[{"person_id": "olga", "roles": ["operator"]}])
    d.control_event("key.added", **key_body("o", "olga", "operator"))
    assert not checked(d).findings.counts
    before = d.control
    assert same(before, d.control_event("agent.suspended", "olga", agent_id=AGENT))
    assert "not signed by an operator" in checked(d).findings.first["authority"].sentence


def test_a_release_whose_bytes_are_gone(driver: Driver) -> None:
    del driver.rules[driver.control.deployed]
    checker = checked(driver)
    assert set(checker.findings.counts) == {"release"}
    assert driver.control.deployed in checker.findings.first["release"].sentence
