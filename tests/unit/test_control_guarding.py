"""Who may end what protects: events of `registry.GUARDING` under a `control.cedar` that names them, and under one that does not."""

from __future__ import annotations

import pytest
from sluicegate.processors.control import policy as control_policy
from sluicegate.processors.control.registry import GUARDING
from sluicegate.processors.policy.check import check_control
from sluicegate.processors.releases.release import compile_release
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.control.changes import proposals, proposed

from tests.driver import Driver, release_files

RULES = """
@id("leads") permit (principal in Role::"lead", action in [Action::"agents.registered", Action::"agent.rolled_back",
  Action::"review.ended", Action::"alarm.acked", Action::"release.attested", Action::"generation.started"], resource);
@id("not-too-many") permit (principal in Role::"lead", action == Action::"generation.begun", resource)
  when { context.partitions <= 12 && context.partitions_before < context.partitions };
@id("no-admins") forbid (principal, action == Action::"agents.registered", resource) when { context.roles.contains("admin") };
@id("lift") permit (principal in Role::"lead", action == Action::"quarantine.lifted", resource == Tool::"desk.set");
@id("lift-two") @quorum("2") permit (principal in Role::"lead", action == Action::"quarantine.lifted", resource is Agent);
@id("tighter") permit (principal in Role::"lead", action == Action::"alarms.bounded", resource)
  when { context.unacknowledged <= context.unacknowledged_before && context.per_day <= context.per_day_before };
@id("not-rollbacks") forbid (principal, action == Action::"alarm.acked", resource) when { context.action == "rollback" };
"""
BODIES: dict[str, dict[str, object]] = {
    "agents.registered": {"agents": [{"agent_id": "new", "roles": ["retail"]}]},
    "agent.rolled_back": {"agent_id": "agent-1", "cut": 0, "why": ""},
    "quarantine.lifted": {"scope": "tool", "value": "desk.set"},
    "review.ended": {"agent_id": "agent-1"},
    "alarm.acked": {"id": "a1"},
    "alarms.bounded": {"unacknowledged": 1, "per_day": 2},
    "release.attested": {"payload": "", "kid": "", "signature": ""},
    "generation.begun": {"number": 1, "log_id": "07" * 16, "partitions": 3},
    "generation.started": {"number": 1},
}


def driver(rules: str = RULES) -> Driver:
    d = Driver()
    d.deploy(compile_release({**release_files(), **({"control.cedar": rules} if rules else {})}))
    people = [{"person_id": p, "roles": ["lead"]} for p in ("lena", "lars")] + [{"person_id": "olga"}]
    d.control_event("people.registered", people=people)
    for scope, value in (("tool", "desk.set"), ("agent", "agent-9"), ("session", "s1")):
        d.control_event("quarantine.added", scope=scope, value=value, why="")
    d.control_event("review.begun", agent_id="agent-1", why="")
    d.control_event("alarm.raised", id="a1", rule="r", stream="s", action="notify")
    d.control_event("alarm.raised", id="a2", rule="r2", stream="s", action="rollback")
    return d


def test_the_bodies_are_all_there() -> None:
    assert set(BODIES) == set(GUARDING) and set(GUARDING) < set(control_policy.GOVERNED)
    book = compile_release({**release_files(), "control.cedar": RULES}).control_book
    assert book is not None and check_control(book.policies) == []


@pytest.mark.parametrize("kind", GUARDING)
def test_who_may(kind: str) -> None:
    d = driver()
    assert "does not permit" in control_policy.may_deploy(d.control, "olga", kind, BODIES[kind])
    assert "no registered person" in control_policy.may_deploy(d.control, "nobody", kind, BODIES[kind])
    assert control_policy.may_deploy(d.control, "lena", kind, BODIES[kind]) == ""
    for rules in ("", '@id("m") permit (principal in Role::"lead", action == Action::"mode.set", resource);'):
        assert control_policy.may_deploy(driver(rules).control, "nobody", kind, BODIES[kind]) == ""


def test_the_fold_leaves_out_what_nobody_may() -> None:
    d = driver()
    before = (d.control.quarantines, d.control.reviews, d.control.bounds, d.control.agents)
    for kind in GUARDING:
        d.control_event(kind, who="olga", **BODIES[kind])
    assert (d.control.quarantines, d.control.reviews, d.control.bounds, d.control.agents) == before
    assert d.control.alarms["a1"].open and not d.control.agent_orders and d.control.repartition is None
    for kind in GUARDING:
        d.control_event(kind, who="lena", **BODIES[kind])
    assert ("tool", "desk.set") not in d.control.quarantines and not d.control.reviews
    assert (d.control.bounds.unacknowledged, d.control.bounds.per_day) == (1, 2)
    assert "new" in d.control.agents and not d.control.alarms["a1"].open
    assert [one.partitions for one in d.control.generations] == [1, 3]


def test_what_the_context_says() -> None:
    d = driver()

    def asked(kind: str, body: dict[str, object]) -> str:
        return control_policy.may_deploy(d.control, "lena", kind, body)

    assert "no-admins" in asked(
        "agents.registered", {"agents": [{"agent_id": "x", "roles": ["retail", "admin"]}]}
    )
    assert "not-rollbacks" in asked("alarm.acked", {"id": "a2"})
    assert "does not permit" in asked("alarms.bounded", {"per_day": 11})
    assert "does not permit" in asked("quarantine.lifted", {"scope": "session", "value": "s1"})
    assert "does not permit" in asked("generation.begun", {**BODIES["generation.begun"], "partitions": 13})


def test_a_repartition_that_takes_two_people_is_proposed_once() -> None:
    d = driver(
        '@id("g") @quorum("2") permit (principal in Role::"lead", action == Action::"generation.begun", resource);'
    )
    body = BODIES["generation.begun"]
    d.control_event("generation.begun", who="lena", **body)
    assert d.control.repartition is None, "one alone begins none"
    ((kind, proposal),), waits = proposals(d.control, [("generation.begun", body)], "lena", d.control.at)
    assert waits == 2 and proposed(d.control, "generation.begun", body, d.control.at) is None
    d.control_event(kind, who="lena", **proposal)
    (change,) = d.control.changes.values()
    drawn_anew = {**body, "log_id": "08" * 16}
    assert proposed(d.control, "generation.begun", drawn_anew, d.control.at) == change.seq
    assert proposed(d.control, "generation.begun", {**body, "partitions": 5}, d.control.at) is None
    assert proposed(d.control, "generation.begun", body, change.expires_at) is None
    d.control_event("change.agreed", who="lars", change=change.seq, digest=change.digest)
    assert d.control.repartition is not None and d.control.repartition.partitions == 3
    d.control_event("generation.called_off", who="nobody", number=1)  # what takes it back is never asked
    assert d.control.repartition is None


def test_two_people() -> None:
    d = driver()
    body: dict[str, object] = {"scope": "agent", "value": "agent-9"}
    d.control_event("quarantine.lifted", who="lena", **body)
    assert ("agent", "agent-9") in d.control.quarantines
    (event,), waits = proposals(d.control, [("quarantine.lifted", body)], "lena", d.control.at)
    assert waits == 2
    d.control_event(event[0], who="lena", **event[1])
    (change,) = d.control.changes.values()
    for who in ("olga", "lena", "lars"):
        assert ("agent", "agent-9") in d.control.quarantines
        d.control_event("change.agreed", who=who, change=change.seq, digest=change.digest)
    assert ("agent", "agent-9") not in d.control.quarantines
    with pytest.raises(Terminal, match="does not permit"):
        proposals(d.control, [("quarantine.lifted", body)], "olga", d.control.at)


@pytest.mark.parametrize(
    "rule",
    [
        '@id("a") permit (principal, action == Action::"quarantine.lifted", resource) when { context.roles.contains("x") };',
        '@id("a") permit (principal, action == Action::"review.ended", resource == Tool::"x");',
        '@id("a") permit (principal, action == Action::"alarms.bounded", resource) when { context.per_dai < 3 };',
    ],
)
def test_rules_are_checked(rule: str) -> None:
    with pytest.raises(Terminal, match="of each"):
        compile_release({**release_files(), "control.cedar": rule})
