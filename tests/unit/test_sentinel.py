"""The sentinel over a world in memory: a fault becomes an alarm becomes an action, and what is not seen is never fine."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace

import pytest
import rfc8785
from sluicegate.processors.control import control as control_fold
from sluicegate.processors.control.control import Control
from sluicegate.processors.drift.rules import DriftRow, compile_drift
from sluicegate.processors.drift.sentinel_plan import Event
from sluicegate.processors.drift.streams import Row
from sluicegate.processors.drift.watch import Signal, Watch
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.watch.drift_feed import run_start
from sluicegate.streams.watch.sentinel import Sentinel
from sluicegate.streams.watch.windows import Head, MemoryWindows, Seen, coverage

from tests.driver import release

LOG_ID = bytes(range(16))
LOG = LOG_ID.hex()
T0 = 1_795_003_200_000_000
S = 1_000_000
HOUR = 3_600 * S

Rows = list[dict[str, object]]


def drift_release(edition: str, alarms: Rows, **more: object) -> CompiledRelease:
    row = DriftRow.model_validate({"alarms": alarms, "bucket_s": 10, "blind_after_s": 60, **more})
    return replace(release(edition=edition), digest=edition, drift=compile_drift(row))


@dataclass
class World:
    """Control, a store, a clock, and any number of sentinels."""

    releases: dict[str, CompiledRelease]
    now: int = T0
    control: Control = field(default_factory=Control)
    windows: MemoryWindows = field(default_factory=lambda: MemoryWindows(LOG))
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    partitions: int = 2
    behind: int = 0
    """Outcomes of partition 0 that Kafka has and the store has not."""
    seqs: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        genesis = {
            "log_id": LOG,
            "env": "test",
            "partitions": self.partitions,
            "signing": "dev",
            "operator": "",
        }
        self.put("genesis", genesis)
        for digest in self.releases:
            self.put("release.published", {"digest": digest, "name": digest, "version": "1"})

    def put(self, kind: str, body: dict[str, object], who: str = "olga") -> None:
        facts = r.ControlFacts(kind, who, "", rfc8785.dumps(body))  # type: ignore[arg-type]
        new = control_fold.fold(self.control, self.control.head + 1, facts, self.now)
        new.release = self.releases.get(new.deployed)
        self.control = new

    def deploy(self, digest: str) -> None:
        self.put("release.deployed", {"digest": digest})

    async def propose(self, events: list[Event], why: str, expected: int) -> Control:
        if expected != self.control.head:
            raise Terminal(f"control moved from {expected} to {self.control.head}")
        for kind, body in events:
            self.put(kind, body, "sentinel")
        return self.control

    async def heads(self) -> dict[int, Head]:
        stored = dict(self.windows.stored(LOG)) if not self.windows.away else {0: Head(9, self.now)}
        if self.behind:
            there = stored.get(0, Head(-1, 0))
            stored[0] = Head(there.seq + self.behind, self.now)
        return stored

    def sentinel(self) -> Sentinel:
        return Sentinel(self.windows, self, self.heads, self.propose, lambda: self.now)

    def outcome(self, at: int, **more: object) -> None:
        partition = self.chance.randrange(self.partitions)
        seq = self.seqs[partition] = self.seqs.get(partition, -1) + 1
        self.windows.events.append(Seen(partition, seq, at, **more))  # type: ignore[arg-type]

    def traffic(self, seconds: int, *, bad: float = 0.02, per_s: int = 5, agents: int = 4, tool: str = "t", fails: float = 0.0, release: str = "") -> None:  # fmt: skip
        """Calls as time passes; `bad`: the share that is refused, `fails`: of the others that fail."""
        digest = release or self.control.deployed
        for second in range(seconds):
            for n in range(per_s):
                at = self.now + second * S + n * (S // per_s)
                about = {"release": digest, "agent_id": f"agent-{self.chance.randrange(agents)}", "tool": tool, "intent_id": f"i{at}"}  # fmt: skip
                refused = self.chance.random() < bad
                if refused:
                    self.outcome(
                        at, stage="authorize", status="refused", asked=True, shape="a:string", **about
                    )
                else:
                    self.outcome(at, stage="route", status="routed", asked=True, shape="a:string", **about)
                    failed = self.chance.random() < fails
                    self.outcome(at + 1, stage="execute", status="failed" if failed else "released", **about)
        self.now += seconds * S

    def idle(self, seconds: int) -> None:
        self.now += seconds * S

    def look(self, *sentinels: Sentinel) -> list[Signal]:
        found: list[Signal] = []
        for one in sentinels:
            found += asyncio.run(one.look())
        return found


ROLLBACK: Rows = [{"id": "refused", "stream": "refused", "per": "release", "action": "rollback"}]
NONE = ("failed", "withheld", "ungrounded", "low-quality", "tools", "bigrams", "shapes", "model")


def only(rows: Rows) -> Rows:
    """These, and none of the defaults."""
    named = {row["id"] for row in rows}
    return [
        *rows,
        *({"id": name, "stream": "refused", "action": "none"} for name in NONE if name not in named),
    ]


def two(rows: Rows = ROLLBACK, **more: object) -> World:
    """`good` has been deployed for ten minutes of traffic, then `bad` is."""
    rules = only(rows)
    world = World({name: drift_release(name, rules, **more) for name in ("good", "bad")})
    world.deploy("good")
    world.traffic(600)
    world.deploy("bad")
    return world


def test_a_bad_release_is_rolled_back_by_itself() -> None:
    world = two()
    watching = world.sentinel()
    for _ in range(30):
        world.traffic(10, bad=0.15)
        world.idle(3)
        world.look(watching)
        if world.control.deployed == "good":
            break
    took_s = (world.now - world.control.deployed_at) / S
    assert world.control.deployed == "good", watching.blind
    [alarm] = [a for a in world.control.alarms.values() if a.action == "rollback"]
    assert alarm.acted == world.control.head
    assert (alarm.rule, alarm.release, alarm.open) == ("refused", "bad", True)
    assert took_s < 120
    assert not watching.blind
    world.traffic(60)
    world.look(watching)
    assert len(world.control.alarms) == 1


def test_without_a_change_nothing_is_raised() -> None:
    world = two()
    watching = world.sentinel()
    for _ in range(60):
        world.traffic(10)
        world.idle(3)
        assert world.look(watching) == []
    assert not world.control.alarms
    assert watching.metrics()["sluicegate_sentinel_streams"] == 1


def test_after_a_restart_the_same_comes_out() -> None:
    world = two([{"id": "refused", "stream": "refused", "per": "agent"}])
    steady = world.sentinel()
    for _ in range(12):
        world.traffic(10, bad=0.05)
        world.idle(3)
        world.look(steady)
    fresh = world.sentinel()
    world.look(steady, fresh)
    assert steady.feed is not None and fresh.feed is not None
    assert steady.feed.watch.runs == fresh.feed.watch.runs
    assert steady.feed.watch.runs
    assert fresh.feed.watch.start == world.control.deployed_at  # nothing before it is read again


def test_two_sentinels_do_it_once() -> None:
    world = two()
    one, other = world.sentinel(), world.sentinel()
    for _ in range(30):
        world.traffic(10, bad=0.3)
        world.idle(3)
        seen = world.control  # both see the same control: the second one's proposal comes too late
        world.look(one)
        moved = world.control
        if moved.head != seen.head:
            world.control = seen
            signals = asyncio.run(other.look())
            world.control = moved
            assert signals or len(moved.alarms) == 1
            break
    world.look(one, other)
    assert len(world.control.alarms) == 1
    assert world.control.deployed == "good"
    assert world.control.acts == (world.control.acts[0],)


def test_a_failing_tool_is_quarantined_and_cools_down() -> None:
    world = two(
        [{"id": "failed", "stream": "failed", "per": "tool", "action": "quarantine", "cool_down_s": 600}]
    )
    watching = world.sentinel()
    for _ in range(40):
        world.traffic(10, fails=0.5)
        world.idle(3)
        world.look(watching)
    assert world.control.quarantines.keys() == {("tool", "t")}
    raised = [a for a in world.control.alarms.values() if a.rule == "failed"]
    assert len(raised) == 1 + (world.now - raised[0].at > 600 * S)
    world.idle(700)
    for _ in range(10):
        world.traffic(10, fails=0.5)
        world.look(watching)
    held = [a for a in world.control.alarms.values() if a.held_back]
    assert held and "is quarantined already" in held[0].held_back


def test_an_agent_goes_under_review() -> None:
    world = two([{"id": "refused", "stream": "refused", "action": "review"}])
    watching = world.sentinel()
    for _ in range(60):
        world.traffic(10, bad=0.02, agents=3)
        for _ in range(8):
            world.outcome(
                world.now - 5 * S, release="bad", agent_id="agent-9", tool="t", intent_id="x", asked=True,
                stage="authorize", status="refused",
            )  # fmt: skip
        world.idle(3)
        world.look(watching)
    # It was never there before: what it does from its first 500 calls on is its own measure, and it never changed.
    assert not world.control.reviews
    assert watching.feed is not None
    promised = two([{"id": "refused", "stream": "refused", "action": "review", "expected": 0.05}])
    watching = promised.sentinel()
    for _ in range(10):
        promised.traffic(10, bad=0.4, agents=1)
        promised.idle(3)
        promised.look(watching)
    assert promised.control.reviews.keys() == {"agent-0"}


def test_no_good_release_to_go_back_to() -> None:
    rules = only([{**ROLLBACK[0], "expected": 0.02}])
    world = World({"only": drift_release("only", rules)})
    world.deploy("only")
    watching = world.sentinel()
    for _ in range(20):
        world.traffic(10, bad=0.4)
        world.idle(3)
        world.look(watching)
    [alarm, *_] = world.control.alarms.values()
    assert alarm.action == "notify"
    assert alarm.held_back == "rollback: no earlier release is known to be good"
    assert world.control.deployed == "only"


def test_the_bound_is_reached_and_said() -> None:
    world = two(automatic={"unacknowledged": 0})
    watching = world.sentinel()
    for _ in range(20):
        world.traffic(10, bad=0.4)
        world.idle(3)
        world.look(watching)
    assert world.control.deployed == "bad"
    [alarm, *_] = world.control.alarms.values()
    assert alarm.action == "notify"
    assert "wait to be acknowledged, the release allows 0" in alarm.held_back


def test_a_release_that_is_gone_is_not_rolled_back_again() -> None:
    """Somebody rolled back between the look and the word: the proposal is for a head that is gone."""
    world = two()
    watching = world.sentinel()
    world.traffic(100, bad=0.4)
    world.idle(3)

    async def too_late(events: list[Event], why: str, expected: int) -> Control:
        world.put("release.rolled_back", {"to": "good"})
        return await world.propose(events, why, expected)

    watching._propose = too_late
    world.look(watching)
    assert world.control.deployed == "good"
    assert not world.control.alarms
    world.traffic(20)
    assert world.look(watching) == []  # and nobody looks at `bad` any more


@pytest.mark.parametrize("how", ["away", "behind", "missing", "empty"])
def test_what_is_not_seen_is_blind_and_never_fine(how: str) -> None:
    world = two()
    watching = world.sentinel()
    if how == "empty":
        world.windows.events.clear()
        world.seqs.clear()
    else:
        world.traffic(20)
        world.look(watching)
        assert not watching.blind
    if how == "away":
        world.windows.away = True
    elif how == "behind":
        world.behind = 100
    elif how == "missing":
        world.traffic(10)
        last = world.windows.events[-3]
        world.windows.missing.add((last.partition, last.seq))
    else:
        world.behind = 5
    for _ in range(9):
        world.idle(10)
        world.look(watching)
    [alarm] = world.control.alarms.values()
    assert (alarm.rule, alarm.action) == ("blind", "notify")
    assert watching.metrics()["sluicegate_sentinel_blind"] == (how != "missing")
    said = {"away": "away", "behind": "behind", "missing": "promises", "empty": "not in ClickHouse"}[how]
    events = str(watching.blind) if how != "missing" else "promises"
    assert said in events
    if how == "missing":
        assert watching.skipped_us > 0  # it goes on beyond, and says what it did not see
        world.idle(10)
        world.look(watching)
        assert not watching.blind
    else:
        world.windows.away, world.behind = False, 0
        world.traffic(20, bad=0.02)
        world.idle(3)
        world.look(watching)
        assert not watching.blind


def test_a_clock_that_runs_backwards_changes_nothing() -> None:
    world = two()
    watching = world.sentinel()
    world.traffic(60)
    world.idle(3)
    world.look(watching)
    assert watching.feed is not None
    before = watching.feed.watch.until
    world.now -= 40 * S
    world.look(watching)
    assert watching.feed.watch.until == before
    world.now += 60 * S
    world.look(watching)
    assert watching.feed.watch.until >= before


def test_scores_that_are_none_are_left_out_and_counted() -> None:
    world = two([{"id": "low-quality", "stream": "low_quality", "per": "release"}])
    watching = world.sentinel()
    for at, score in enumerate((0.5, 7.0, -1.0, 1.0)):
        world.outcome(world.now + at, release="bad", agent_id="a", intent_id="q", score=score)
    world.idle(30)
    world.look(watching)
    assert watching.metrics()["sluicegate_sentinel_scores_ignored_total"] == 2


def test_the_day_is_the_run() -> None:
    assert run_start(T0) % (24 * HOUR) == 0
    assert 24 * HOUR <= T0 - run_start(T0) < 48 * HOUR


@pytest.mark.parametrize(
    ("heads", "stored", "until", "said"),
    [
        ({0: Head(9, 90)}, {0: Head(9, 90)}, 100 * S - 2 * S, ""),
        ({0: Head(9, 90)}, {0: Head(12, 95)}, 100 * S - 2 * S, ""),
        ({0: Head(9, 90 * S)}, {0: Head(4, 50 * S)}, 50 * S, "5 outcomes behind in partition 0"),
        ({0: Head(9, 90), 1: Head(3, 9)}, {0: Head(9, 90)}, 0, "partition 1 is not in ClickHouse"),
        ({0: Head(9, 90), 1: Head(-1, 0)}, {0: Head(9, 90)}, 100 * S - 2 * S, ""),
        ({0: Head(9, 90)}, {}, 0, "partition 0 is not in ClickHouse"),
    ],
)
def test_coverage(heads: dict[int, Head], stored: dict[int, Head], until: int, said: str) -> None:
    found = coverage(LOG, heads, stored, 100 * S)
    assert found.until == until
    assert said in found.blind if said else not found.blind


def test_the_same_hour_of_the_week_is_asked_first() -> None:
    """A batch that is refused a lot runs at this hour of every week; an hour later the same is an alarm."""
    week, hour = 7 * 24 * HOUR, T0 // HOUR * HOUR
    world = World({"r": drift_release("r", only(ROLLBACK))}, now=hour - 4 * week)
    world.deploy("r")
    for weeks in (4, 3, 2, 1):
        world.now = hour - weeks * week
        world.traffic(300, bad=0.3)
    world.now = hour - 60 * HOUR
    world.traffic(2_700, bad=0.02)
    world.now = hour
    watching = world.sentinel()
    for _ in range(60):
        world.traffic(10, bad=0.3)
        world.idle(3)
        world.look(watching)
    assert not world.control.alarms
    world.now = hour + HOUR
    for _ in range(20):
        world.traffic(10, bad=0.3)
        world.idle(3)
        world.look(watching)
    assert [a.rule for a in world.control.alarms.values()] == ["refused"]


def test_what_an_alarm_was_about_is_not_counted_again() -> None:
    drift = compile_drift(DriftRow.model_validate({"alarms": only([{"id": "refused", "stream": "refused", "expected": 0.02}])}))  # fmt: skip
    steady, fresh = Watch(drift, {"r": 0}), Watch(drift, {"r": 0})

    def feed(watch: Watch, at: int) -> None:
        watch.feed(at, [Row(at, "r", "a", "t", asked=5, refused=4)])

    for n in range(10):
        feed(steady, n * 10 * S)
    steady.reset("refused", "refused agent=a", 100 * S)
    fresh.reset("refused", "refused agent=a", 100 * S)
    for n in range(10):
        feed(fresh, n * 10 * S)
    assert not fresh.runs and not steady.runs
    for watch in (steady, fresh):
        feed(watch, 100 * S)
    assert steady.runs == fresh.runs and steady.runs
    assert [s.since for s in steady.signals()] in ([], [100 * S])
