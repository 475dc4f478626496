"""Evidence that comes out again, what is said of an alarm, and rules over the past."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rfc8785
from sluicegate.processors.drift.alarm_events import exhausted
from sluicegate.processors.drift.rules import DEFAULT_DRIFT, DriftRow, compile_drift
from sluicegate.processors.drift.sentinel_plan import BLIND, Event, blind, plan
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.commands.alarms import read_rules
from sluicegate.streams.watch.alarm_backtest import backtest
from sluicegate.streams.watch.alarm_evidence import recompute, rules_in

from tests.unit.test_sentinel import LOG, ROLLBACK, Rows, S, World, drift_release, only, two


class Recorder(World):
    """Keeps what was proposed."""

    said: list[dict[str, object]]

    async def propose(self, events: list[Event], why: str, expected: int):  # type: ignore[no-untyped-def]
        self.said = [*getattr(self, "said", []), events[0][1]]
        return await super().propose(events, why, expected)


def faulty(rows: Rows, *, bad: float = 0.02, fails: float = 0.0, tool: str = "t", **more: object) -> Recorder:
    """A world in which the rules raised something about `bad`."""
    world = Recorder({name: drift_release(name, only(rows), **more) for name in ("good", "bad")})
    world.deploy("good")
    world.traffic(600)
    world.deploy("bad")
    watching = world.sentinel()
    for _ in range(25):
        world.traffic(10, bad=bad, fails=fails, tool=tool)
        world.idle(3)
        world.look(watching)
        if world.control.alarms:
            break
    assert world.control.alarms
    return world


CASES: list[tuple[Rows, dict[str, object]]] = [
    (ROLLBACK, {"bad": 0.3}),
    ([{"id": "failed", "stream": "failed", "per": "tool", "action": "quarantine"}], {"fails": 0.4}),
    ([{"id": "refused", "stream": "refused", "expected": 0.03}], {"bad": 0.3}),
    ([{"id": "tools", "stream": "tools", "per": "release"}], {"tool": "other"}),
    ([{"id": "bigrams", "stream": "bigrams", "per": "release"}], {"tool": "other"}),
]


@pytest.mark.parametrize(
    ("rows", "fault"), CASES, ids=["rollback", "quarantine", "expected", "tools", "bigrams"]
)
def test_evidence_comes_out_again(rows: Rows, fault: dict[str, object]) -> None:
    world = faulty(rows, **fault)  # type: ignore[arg-type]
    [body, *_] = world.said
    copied = json.loads(rfc8785.dumps(body))  # type: ignore[arg-type]  # as the event holds it
    assert recompute(world.windows, copied) == []
    world.traffic(300, bad=0.9)
    assert recompute(world.windows, copied) == []  # what came later is beyond the cut
    for gone in [e for e in world.windows.events if e.release == "bad"][:30]:
        world.windows.events.remove(gone)
    assert recompute(world.windows, copied), "outcomes that are gone show"


def test_evidence_of_another_form_is_said() -> None:
    world = faulty(ROLLBACK, bad=0.3)
    body = dict(world.said[0])
    with pytest.raises(Terminal, match="another version"):
        rules_in("refused", {"stream": "refused"})
    assert recompute(world.windows, {**body, "evidence": {"detector": BLIND}}) is None


def test_what_is_said_names_numbers_and_the_usual() -> None:
    world = faulty(ROLLBACK, bad=0.3)
    body = world.said[0]
    said = str(body["said"])
    assert said.startswith("of the environment under release bad: ")
    assert "calls are refused, at most " in said and "(before)" in said
    found = body["evidence"]
    assert isinstance(found, dict)
    assert found["run_length_s"] == 28 * 24 * 3_600
    assert found["alpha"] == pytest.approx(1 / 241_920, rel=1e-5)
    assert found["log_e"] >= found["threshold"]
    assert found["cut"] == {"0": pytest.approx(found["cut"]["0"]), "1": pytest.approx(found["cut"]["1"])}
    assert len(rfc8785.dumps(body)) < 4_000


def test_a_new_model_is_news() -> None:
    world = Recorder({"r": drift_release("r", [], reference=50)})
    world.deploy("r")
    watching = world.sentinel()

    def answers(model: str, count: int) -> None:
        for n in range(count):
            world.outcome(
                world.now + n * S, release="r", agent_id="a", tool="chat", intent_id=f"m{n}", model=model
            )
        world.now += count * S + 5 * S
        world.look(watching)

    answers("large-1", 60)
    answers("large-1", 30)
    assert not world.control.alarms
    answers("large-2", 11)
    [alarm] = world.control.alarms.values()
    assert (alarm.rule, alarm.tool, alarm.action) == ("model", "chat", "notify")
    assert "answered by `large-2`, never seen before" in str(world.said[0]["said"])
    assert recompute(world.windows, json.loads(rfc8785.dumps(world.said[0]))) == []  # type: ignore[arg-type]


def test_nothing_is_proposed_that_control_would_leave_out() -> None:
    """Whatever the bounds are, the events of a plan change control as they say."""
    for bound in (0, 3):
        world = two()
        world.put("alarms.bounded", {"unacknowledged": bound})
        watching = world.sentinel()
        for _ in range(20):
            world.traffic(10, bad=0.4)
            world.idle(3)
            for signal in world.look(watching):
                before = world.control
                events = plan(before, DEFAULT_DRIFT, signal, LOG, {}, world.now)
                assert len(events) < 2 or bound
        [alarm, *_] = world.control.alarms.values()
        assert (alarm.action == "rollback") == (world.control.deployed == "good") == (bound == 3)
        assert bound or "wait to be acknowledged" in alarm.held_back
        assert exhausted(world.control) == "" or not bound


def test_blind_is_raised_once_while_it_lasts() -> None:
    world = two()
    events = blind(world.control, "clickhouse is away", 5, world.now)
    assert [kind for kind, _ in events] == ["alarm.raised"]
    for kind, body in events:
        world.put(kind, body, "sentinel")
    assert blind(world.control, "clickhouse is away", 5, world.now + 30 * S) == []
    assert blind(world.control, "clickhouse is away", 9, world.now + 30 * S) == []
    assert blind(world.control, "clickhouse is away", 9, world.now + 3_700 * S)


# -- rules over the past -------------------------------------------------------------------------------------------


class Kept(World):
    """Keeps the history of control, too."""

    def put(self, kind: str, body: dict[str, object], who: str = "olga") -> None:
        super().put(kind, body, who)
        self.__dict__.setdefault("history", []).append(self.control)


def past() -> tuple[Kept, int]:
    """An hour of good traffic, an incident under `bad`, which a person rolled back ten minutes later."""
    world = Kept({name: drift_release(name, []) for name in ("good", "bad")})
    world.deploy("good")
    world.traffic(1_800)
    incident = world.now
    world.deploy("bad")
    world.traffic(600, bad=0.2)
    world.put("release.rolled_back", {"to": "good"})
    world.traffic(600)
    return world, incident


def test_a_backtest_says_when_what_and_how_late() -> None:
    world, incident = past()
    drift = compile_drift(DriftRow.model_validate({"alarms": only(ROLLBACK)}))
    history = world.__dict__["history"]
    seen: list[int] = []
    found = backtest(world.windows, drift, history, incident - 1_800 * S, world.now, [incident], seen.append)
    [one] = [f for f in found.fired if f.verdict == "hit"][:1]
    assert (one.action, one.release, one.stream) == ("rollback", "bad", "refused")
    [late] = found.late_s.values()
    assert late is not None and 10 <= late < 120
    assert (found.false, found.missing) == (0, 0)
    assert seen == sorted(seen) and found.buckets == len(seen) > 200
    assert world.control.alarms == {}  # nothing was written


def test_a_backtest_of_rules_that_see_nothing() -> None:
    world, incident = past()
    deaf = compile_drift(DriftRow.model_validate({"alarms": only([{"id": "refused", "stream": "refused", "at_least": 0.5}])}))  # fmt: skip
    found = backtest(
        world.windows, deaf, world.__dict__["history"], incident - 900 * S, world.now, [incident]
    )
    assert (found.fired, found.late_s) == ([], {incident: None})
    nervous = compile_drift(DriftRow.model_validate({"alarms": only([{"id": "refused", "stream": "refused", "expected": 0.0005, "at_least": 0.001, "cool_down_s": 60}]), "run_length_h": 0.02}))  # fmt: skip
    found = backtest(
        world.windows, nervous, world.__dict__["history"], incident - 900 * S, world.now, [incident]
    )
    assert found.false


def test_a_backtest_of_several_incidents_or_of_none() -> None:
    world, incident = past()
    drift = compile_drift(DriftRow.model_validate({"alarms": only(ROLLBACK)}))
    history, start = world.__dict__["history"], incident - 1_800 * S
    unlabelled = backtest(world.windows, drift, history, start, world.now)
    assert unlabelled.fired and (unlabelled.false, unlabelled.late_s) == (None, {})
    assert {one.verdict for one in unlabelled.fired} == {""}
    # An alarm is about the newest incident before it: an earlier one, and one after it, were missed.
    at = unlabelled.fired[0].at
    early, late = incident - 600 * S, at + S
    found = backtest(world.windows, drift, history, start, world.now, [late, incident, early])
    assert found.late_s == {early: None, incident: (at - incident) / 1e6, late: None}
    assert found.false == 0
    assert backtest(world.windows, drift, history, start, world.now, [late]).false == 1


def test_a_backtest_says_what_is_missing() -> None:
    world, incident = past()
    gone = world.windows.events[100]
    world.windows.missing.add((gone.partition, gone.seq))
    found = backtest(world.windows, DEFAULT_DRIFT, world.__dict__["history"], incident, world.now)
    assert found.missing == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drift:\n  alarms:\n    - {id: x, stream: refused, action: rollback}\n", ""),
        ("name: r\nversion: '1'\n", ""),
        ("alarms:\n  - {id: x, stream: failed}\n", ""),
        ("drift: {alarms: [{id: x, stream: vibes}]}", "Input should be"),
        ("bucket: 7", "Extra inputs"),
        ("- 1", "valid dictionary"),
        ("{", "cannot be read"),
    ],
)
def test_rules_of_a_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "candidate.yaml"
    path.write_text(text, "utf-8")
    if said:
        with pytest.raises(Terminal, match=said):
            read_rules(path)
    else:
        read_rules(path)
    with pytest.raises(Terminal, match="cannot be read"):
        read_rules(tmp_path / "none.yaml")


def test_an_agent_goes_back_to_before_it_began() -> None:
    world = two([{"id": "refused", "stream": "refused", "action": "rollback_agent", "expected": 0.05}])
    watching = world.sentinel()
    world.traffic(60, agents=1)
    world.idle(3)
    world.look(watching)
    for _ in range(10):
        world.traffic(10, bad=0.5, agents=1)
        world.idle(3)
        world.look(watching)
    [alarm, *_] = world.control.alarms.values()
    assert (alarm.action, alarm.agent_id) == ("rollback_agent", "agent-0")
    assert alarm.acted == alarm.raised + 1
    order = world.control.agent_orders["agent-0"]
    assert (order.at, order.alarm, order.event) == (alarm.began, alarm.alarm_id, alarm.acted)
    assert alarm.began > world.control.deployed_at
