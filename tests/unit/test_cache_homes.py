"""The cache between partitions: equal calls of many agents run once, whoever asks, dies or is slow."""

from __future__ import annotations

import random

import pytest
from sluicegate.processors.cache.entries import AWAY, READY
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.releases.release import CompiledRelease, compile_release
from sluicegate.processors.state import OpenIntent
from sluicegate.schemas import records as r
from sluicegate.schemas.topics import partition_of

from tests.driver import AGENT, Driver, agents
from tests.exchange_driver import World
from tests.unit.test_cache import cached_release, intact

PARTITIONS = 3
TTL_US = 60_000_000


def named(partition: int, number: int = 0) -> str:
    """The nth agent that a partition owns."""
    names = (f"agent-{n}" for n in range(10_000))
    owned = [n for n, _ in zip((n for n in names if partition_of(n, PARTITIONS) == partition), range(5))]  # noqa: B905
    return owned[number]


NAMES = [named(p, n) for p in range(PARTITIONS) for n in range(2)]
ROW = next(a for a in agents() if a["agent_id"] == AGENT)


def world(compiled: CompiledRelease | None = None) -> World:
    """Three partitions with two agents of one tenant each; a session of every one is open."""
    w = World(PARTITIONS)
    w.control_event("agents.registered", agents=[{**ROW, "agent_id": name} for name in NAMES])
    w.deploy(compiled or compile_release(cached_release("tenant")))
    for name in NAMES:
        w.on(name).open_session(f"s-{name}", name)
    return w


def ask(w: World, name: str, value: str = "a", **more: object) -> Decision:
    return w.on(name).call("desk.read", {"value": value}, agent=name, session=f"s-{name}", **more)


def dispatches(w: World) -> list[tuple[Driver, r.Dispatch]]:
    return [(d, one) for d in w.drivers for one in d.dispatches]


def released(w: World) -> list[bytes | None]:
    return [
        x.result
        for d in w.drivers
        for x in d.replies
        if x.status == "released" and not x.duplicate and x.stage == "execute"
    ]


def home(w: World) -> int:
    """The home of the only entry."""
    (found,) = {e.home for d in w.drivers for e in d.state.cache.entries.values()}
    return found


def everything_holds(w: World) -> None:
    for index, d in enumerate(w.drivers):
        intact(d)
        w.crash(index)
        w.restore(index)


def test_equal_calls_of_all_partitions_run_once() -> None:
    w = world()
    for name in NAMES:
        ask(w, name)
    w.settle()
    ((d, dispatch),) = dispatches(w)
    d.finish(dispatch, b'{"n":1}')
    w.settle()
    assert released(w) == [b'{"n":1}'] * len(NAMES)
    assert len(dispatches(w)) == 1
    for name in NAMES:  # every partition has it by now: no exchange
        before = sum(len(d.exchanges) for d in w.drivers)
        assert ask(w, name).replies[0].result == b'{"n":1}'
        assert sum(len(d.exchanges) for d in w.drivers) == before
    everything_holds(w)


@pytest.mark.parametrize("runner", range(PARTITIONS))
def test_who_asks_later_is_told_by_the_home(runner: int) -> None:
    w = world()
    ask(w, named(runner))
    w.settle()
    ((d, dispatch),) = dispatches(w)
    assert d.partition == runner
    d.finish(dispatch, b'{"n":1}')
    w.settle()
    for name in NAMES:
        ask(w, name)
        w.settle()
    assert released(w) == [b'{"n":1}'] * (1 + len(NAMES))
    assert len(dispatches(w)) == 1
    everything_holds(w)


@pytest.mark.parametrize("how", ["failed", "withheld"])
def test_when_a_run_ends_badly_the_next_partition_runs(how: str) -> None:
    w = world()
    for name in NAMES:
        ask(w, name)
        w.settle()
    for tries in range(len(NAMES)):
        running = dispatches(w)
        assert len(running) == tries + 1  # never two at a time
        d, dispatch = next(pair for pair in running if isinstance(_entry(pair), OpenIntent))
        if how == "failed":
            d.receipt(dispatch, "failed", error_class="refused_by_tool")
        else:
            d.finish(dispatch, b"nonsense")
        w.settle()
    assert len(dispatches(w)) == len(NAMES)
    assert [e for d in w.drivers for e in d.state.cache.entries.values()] == []
    everything_holds(w)


def _entry(pair: tuple[Driver, r.Dispatch]) -> object:
    from sluicegate.processors.state import intent_key

    d, one = pair
    return d.state.intents.get(intent_key(one.tenant, one.agent_id, one.intent_id))


def test_a_lost_runner_s_turn_is_passed_on_when_its_lease_is_over() -> None:
    w = world()
    value = next(v for v in "abcdefghij" if _home_of(w, v) == 1)
    w.settle()
    before = len(dispatches(w))
    other = named(2)
    ask(w, other, value)  # from here on partition 0, which runs it, has no owner
    for _ in range(6):
        w.drivers[2].now = w.drivers[1].now = w.now + 10_000_000
        while w.drivers[2].tick().outcomes:
            pass
        while any(0 not in lane for lane in w.collect()):
            w.deliver(lambda lanes: next(lane for lane in lanes if 0 not in lane))
    new = dispatches(w)[before:]
    ran = [(d, one) for d, one in new if d.partition == 2]
    assert ran != []
    ran[-1][0].finish(ran[-1][1], b'{"n":2}')
    w.settle()
    assert b'{"n":2}' in released(w)
    everything_holds(w)


def _home_of(w: World, value: str) -> int:
    """The home of what partition 0 asks just now, with eight seconds of patience."""
    name = named(0)
    asked = ask(w, name, value, deadline_at=w.now + 8_000_000)
    facts = next(o.facts for o in asked.outcomes if isinstance(o.facts, r.CacheFacts))
    return facts.home


def test_exchanges_that_come_twice_change_nothing() -> None:
    w = world()
    for name in NAMES:
        ask(w, name)
    w.settle()
    ((d, dispatch),) = dispatches(w)
    d.finish(dispatch, b'{"n":1}')
    w.settle()
    for exchange in list(w.delivered):
        w.again(exchange)
    w.settle()
    assert len(dispatches(w)) == 1
    assert released(w) == [b'{"n":1}'] * len(NAMES)
    everything_holds(w)


def test_every_partition_forgets_at_the_same_moment() -> None:
    w = world()
    for name in NAMES[::2]:
        ask(w, name)
    w.settle()
    ((d, dispatch),) = dispatches(w)
    d.finish(dispatch)
    w.settle()
    ends = {e.expires_at for d in w.drivers for e in d.state.cache.entries.values()}
    assert len(ends) == 1
    w.drivers[0].now += TTL_US + 1_000_000
    for name in NAMES:
        ask(w, name)
    w.settle()
    assert len(dispatches(w)) == 2


def test_a_result_is_sealed_under_the_key_of_whom_it_is_about() -> None:
    w = world()
    name = named(0)
    w.on(name).open_session("of-ana", name, user="ana")
    w.on(name).call("desk.read", {"value": "a"}, agent=name, session="of-ana")
    w.settle()
    ((d, dispatch),) = dispatches(w)
    d.finish(dispatch, b'{"n":1}')
    w.settle()
    for other in (named(1), named(2)):
        ask(w, other)
        w.settle()
    kept = [e for d in w.drivers for e in d.state.cache.entries.values() if e.state == READY]
    assert len(kept) == PARTITIONS
    assert len({e.subject for e in kept}) == 1
    runner = d.state.sessions[f"{name}\0of-ana"]
    assert {e.subject for e in kept} == {runner.subject}


def test_an_answer_that_nobody_wants_any_more_is_given_back() -> None:
    w = world()
    first = named(0)
    ask(w, first, deadline_at=w.now + 5_000_000)
    at_home = home(w)
    if at_home == 0:
        first = named(1)
        ask(w, first, "z", deadline_at=w.now + 5_000_000)
    w.collect()
    asker = w.on(first)
    asker.tick(6_000_000)
    w.settle()
    assert all(e.state != AWAY for d in w.drivers for e in d.state.cache.entries.values())
    everything_holds(w)


def test_the_bar_in_memory() -> None:
    """1,000 requests of 50 agents on three partitions, 100 distinct, 64 at a time, lanes and ends in any order."""
    chance, w, total, each = random.Random(1), World(PARTITIONS), 1_000, 10
    names = [f"cache-agent-{n}" for n in range(50)]
    w.control_event("agents.registered", agents=[{**ROW, "agent_id": name} for name in names])
    w.deploy(compile_release(cached_release("tenant")))
    for name in names:
        w.on(name).open_session(f"s-{name}", name)
    asked, ended = 0, set[bytes]()
    while len(released(w)) < total:
        while asked < total and asked - len(released(w)) < 64:
            ask(w, names[asked * 7 % len(names)], str(asked // each))
            asked += 1
        for _ in range(4):
            w.deliver(chance.choice)
        for index in w.due():
            w.tick(index)
        running = [(d, one) for d, one in dispatches(w) if one.dispatch_id not in ended]
        if running and chance.random() < 0.7:
            d, one = chance.choice(running)
            d.now = w.now
            ended.add(one.dispatch_id)
            d.receipt(one, "finished", result=one.arguments)
    assert len(dispatches(w)) == total // each
    assert {w.at(name) for name in names} == set(range(PARTITIONS))
