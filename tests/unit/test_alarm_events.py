"""Alarms in control's fold: raised once, acted on once, within bounds that no number of sentinels can pass."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.drift.alarm_events import MAX_ALARMS, Bounds, exhausted, may_act
from sluicegate.schemas import records as r

HOUR_US = 3_600_000_000
Event = tuple[str, dict[str, object]]


def put(control: Control, kind: str, body: dict[str, object], who: str = "sentinel", at: int = 0) -> Control:
    facts = r.ControlFacts(kind, who, "a test", rfc8785.dumps(body))  # type: ignore[arg-type]
    return control_fold.fold(control, control.head + 1, facts, at or control.at + 1)


def two_releases() -> Control:
    """`good` was deployed, `bad` is."""
    control = Control()
    for digest in ("good", "bad"):
        control = put(
            control, "release.published", {"digest": digest, "name": digest, "version": "1"}, "olga"
        )
        control = put(control, "release.deployed", {"digest": digest}, "olga")
    return control


def alarm(ident: str = "a1", action: str = "rollback", **more: object) -> dict[str, object]:
    base: dict[str, object] = {
        "id": ident, "rule": "refused", "stream": f"s-{ident}", "action": action, "agent_id": "", "tool": "",
        "release": "bad", "until": 5, "cool_down_s": 3_600,
    }  # fmt: skip
    return {**base, **more}


def roll(ident: str = "a1", to: str = "good") -> Event:
    return "release.rolled_back", {"to": to, "alarm": ident}


def test_an_alarm_rolls_back_once() -> None:
    control = put(two_releases(), "alarm.raised", alarm())
    control = put(control, *roll())
    assert control.deployed == "good"
    assert control.alarms["a1"].acted == control.head
    assert control.acts == (control.at,)
    again = put(control, "release.deployed", {"digest": "bad"}, "olga")
    assert "acted on already" in may_act(again, "sentinel", *roll())
    assert put(again, *roll()).deployed == "bad"


@pytest.mark.parametrize(
    ("about", "kind", "body", "said"),
    [
        ({}, "release.rolled_back", {"to": "good"}, "cites no alarm"),
        ({}, "release.rolled_back", {"to": "good", "alarm": "other"}, "cites no alarm"),
        ({}, "release.rolled_back", {"to": "", "alarm": "a1"}, "last known good"),
        ({}, "release.rolled_back", {"to": "bad", "alarm": "a1"}, "last known good"),
        ({"release": "good"}, "release.rolled_back", {"to": "good", "alarm": "a1"}, "is not deployed any more"),
        ({}, "canary.aborted", {"alarm": "a1"}, "is no running canary"),
        ({"action": "notify"}, "release.rolled_back", {"to": "good", "alarm": "a1"}, "asks for `notify`"),
        ({}, "release.deployed", {"digest": "good"}, "is for people"),
        ({}, "alarm.acked", {"id": "a1"}, "is for people"),
        ({}, "alarms.bounded", {"per_day": 99}, "is for people"),
        ({}, "agent.suspended", {"agent_id": "x", "alarm": "a1"}, "is for people"),
        ({"action": "quarantine", "tool": "t"}, "quarantine.added", {"scope": "tool", "value": "u", "alarm": "a1"}, "is about tool `t`"),
        ({"action": "review", "agent_id": "x"}, "review.begun", {"agent_id": "y", "alarm": "a1"}, "is about agent `x`"),
        ({"action": "rollback_agent", "agent_id": "x", "began": 7}, "agent.rolled_back", {"agent_id": "x", "at": 1, "alarm": "a1"}, "would go back to 1"),
        ({"action": "rollback_agent", "agent_id": "x", "began": 7}, "agent.rolled_back", {"agent_id": "y", "at": 7, "alarm": "a1"}, "is about agent `x`"),
        ({"action": "review"}, "review.begun", {"agent_id": "", "alarm": "a1"}, "is about agent ``"),
    ],
)  # fmt: skip
def test_what_a_sentinel_may_not(
    about: dict[str, object], kind: str, body: dict[str, object], said: str
) -> None:
    control = put(two_releases(), "alarm.raised", alarm(**about))
    assert said in may_act(control, "sentinel", kind, body)
    before = put(control, "nothing.known", {}, "olga")
    after = put(before, kind, body)
    kept = ("deployed", "alarms", "quarantines", "reviews", "bounds", "agents", "acts")
    assert [getattr(after, k) for k in kept] == [getattr(before, k) for k in kept]


def test_a_person_of_that_role_is_bound_too_and_others_are_not() -> None:
    control = put(
        two_releases(), "people.registered", {"people": [{"person_id": "wd", "roles": ["sentinel"]}]}, "olga"
    )
    assert may_act(control, "wd", "release.rolled_back", {"to": "good"})
    assert not may_act(control, "olga", "release.rolled_back", {"to": "good"})


def test_two_sentinels_raise_it_once() -> None:
    control = put(two_releases(), "alarm.raised", alarm())
    first = control.alarms["a1"]
    control = put(control, "alarm.raised", alarm(until=9))
    assert control.alarms == {"a1": first}


def test_cool_down_is_of_the_rule_and_stream() -> None:
    control = put(two_releases(), "alarm.raised", alarm(), at=HOUR_US)
    same = alarm("a2", stream="s-a1")
    assert "a2" not in put(control, "alarm.raised", same, at=2 * HOUR_US - 1).alarms
    assert "a2" in put(control, "alarm.raised", same, at=2 * HOUR_US).alarms
    assert "a2" in put(control, "alarm.raised", alarm("a2"), at=HOUR_US + 1).alarms
    # A rule that says nothing still waits a minute, and a clock that runs backwards shortens no wait.
    eager = put(two_releases(), "alarm.raised", alarm(cool_down_s=0), at=HOUR_US)
    assert "a2" not in put(eager, "alarm.raised", {**same, "cool_down_s": -5}, at=5).alarms


def quarantined(control: Control, n: int) -> Control:
    """One more alarm, and what it asks for."""
    control = put(control, "alarm.raised", alarm(f"q{n}", "quarantine", agent_id=f"x{n}"))
    return put(control, "quarantine.added", {"scope": "agent", "value": f"x{n}", "why": "", "alarm": f"q{n}"})


def test_bounds_and_what_gives_room() -> None:
    control = two_releases()
    for n in range(5):
        control = quarantined(control, n)
    assert len(control.quarantines) == Bounds().unacknowledged == 3
    assert "wait to be acknowledged" in exhausted(control)
    assert {"q3", "q4"} <= control.alarms.keys()  # they were raised; nothing was done
    control = put(control, "alarm.acked", {"id": "q0"}, "olga")
    assert control.alarms["q0"].acked_by == "olga"
    assert len(quarantined(control, 9).quarantines) == 4
    assert len(quarantined(put(control, "alarms.bounded", {"unacknowledged": 0}, "olga"), 9).quarantines) == 3


def test_the_day_is_decided_time() -> None:
    control = two_releases()
    for n in range(12):
        control = put(quarantined(control, n), "alarm.acked", {"id": f"q{n}"}, "olga")
    assert len(control.quarantines) == 10
    assert "within a day" in exhausted(control)
    control = put(control, "nothing.known", {}, "olga", at=control.at + 25 * HOUR_US)
    assert len(quarantined(control, 12).quarantines) == 11


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 8), st.sampled_from(["raise", "act", "act twice", "ack"]), st.integers(-9, 9)
        ),
        max_size=60,
    )
)
def test_no_number_of_sentinels_does_more(steps: list[tuple[int, str, int]]) -> None:
    control = two_releases()
    for n, what, ahead in steps:
        act: Event = ("quarantine.added", {"scope": "agent", "value": f"x{n}", "alarm": f"q{n}"})
        now = max(1, control.at + ahead)
        if what == "raise":
            control = put(control, "alarm.raised", alarm(f"q{n}", "quarantine", agent_id=f"x{n}"), at=now)
        elif what == "ack":
            control = put(control, "alarm.acked", {"id": f"q{n}"}, "olga", now)
        else:
            for _ in what.split():
                control = put(control, *act, at=now)
        spent = [a for a in control.alarms.values() if a.acted >= 0 and a.open]
        assert len(spent) <= 3
        assert len(control.quarantines) <= 10
        assert len(control.quarantines) == sum(a.acted >= 0 for a in control.alarms.values())


def test_what_is_forgotten_gives_no_room() -> None:
    control = two_releases()
    for n in range(3):
        control = quarantined(control, n)
    for n in range(MAX_ALARMS + 10):
        control = put(control, "alarm.raised", alarm(f"n{n}", "notify", stream=f"n{n}"))
    assert len(control.alarms) == MAX_ALARMS
    assert exhausted(control)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("alarm.raised", {}),
        ("alarm.raised", {"id": "x", "action": "explode"}),
        ("alarm.raised", {"id": "x", "cool_down_s": "soon", "until": None}),
        ("alarm.acked", {"id": "nobody"}),
        ("review.begun", {}),
        ("review.ended", {"agent_id": "nobody"}),
        ("alarms.bounded", {"per_day": -4, "unacknowledged": True}),
    ],
)
def test_other_forms_break_nothing(kind: str, body: dict[str, object]) -> None:
    after = put(two_releases(), kind, body, "olga")
    assert after.deployed == "bad"
    assert after.bounds.per_day >= 0
