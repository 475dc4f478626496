"""Entries of the cache end in decided time, whatever became of the partition they wait for."""

from __future__ import annotations

from sluicegate.processors import snapshot
from sluicegate.processors.cache.entries import ASKING, AWAY, READY
from sluicegate.schemas import records as r

from tests.driver import Driver
from tests.exchange_driver import World
from tests.unit.test_cache import driver, intact, read, settle
from tests.unit.test_cache_homes import NAMES, TTL_US, ask, dispatches, everything_holds, world

HOUR_US = 3_600_000_000


def entries(w: World) -> list[str]:
    return sorted(e.state for d in w.drivers for e in d.state.cache.entries.values())


def lose(w: World) -> list[r.Exchange]:
    """What is on its way does not arrive before its deadline: its partition had no owner for a day."""
    return [x for lane in w.collect() for x in w.lanes.pop(lane)]


def pass_by(w: World, span_us: int) -> None:
    """Time passes everywhere, and something is decided in every partition after it."""
    for d in w.drivers:
        d.now += span_us
    for index, d in enumerate(w.drivers):
        while d.tick().outcomes:
            pass
        d.feed("messages", b"anything: an hour has begun")
        w.restore(index)


def test_a_home_that_never_answers_keeps_no_entry_and_no_waiter() -> None:
    w = world()
    for name in NAMES:
        ask(w, name)
    lost = lose(w)
    assert lost and ASKING in entries(w)
    pass_by(w, 2 * HOUR_US)
    assert not any(e.waiters for d in w.drivers for e in d.state.cache.entries.values())
    assert all(not d.state.open_count for d in w.drivers)
    pass_by(w, 2 * HOUR_US)
    assert entries(w) == []
    for exchange in lost:  # late: taken, refused, and nothing comes of it
        w.again(exchange)
    w.settle()
    assert entries(w) == []
    everything_holds(w)


def test_a_run_in_a_partition_that_never_tells_ends_at_the_home() -> None:
    w = world()
    away = next(name for name in NAMES if w.at(name) != _home_of(name))
    ask(w, away)
    w.settle()
    assert AWAY in entries(w)
    ((d, dispatch),) = dispatches(w)
    d.finish(dispatch)
    told = lose(w)
    assert [x.kind for x in told] == ["cache.done"]
    pass_by(w, 2 * HOUR_US)
    assert entries(w) == [], "neither the run at the home nor the result, whose minute is over"
    ask(w, away)
    w.settle()
    assert len(dispatches(w)) == 2, "it is asked for anew"
    everything_holds(w)


def _home_of(name: str) -> int:
    w = world()
    ask(w, name)
    return next(e.home for d in w.drivers for e in d.state.cache.entries.values())


def test_results_end_without_any_traffic_of_the_cache() -> None:
    d = driver()
    d.finish(read(d).dispatches[0])
    assert [e.state for e in d.state.cache.entries.values()] == [READY]
    d.now += TTL_US + HOUR_US
    d.feed("messages", b"anything")
    assert not d.state.cache.entries
    intact(d)


def test_what_still_runs_or_waits_is_not_swept() -> None:
    d = driver()
    begin = read(d).dispatches[0]
    read(d)
    before = snapshot.encode(d.state)
    d.state.swept_hour -= 1
    _noise(d)
    assert before != snapshot.encode(d.state)
    (entry,) = d.state.cache.entries.values()
    assert entry.runner and len(entry.waiters) == 1
    d.finish(begin, b'{"n":1}')
    settle(d)
    assert [x.result for x in d.replies if x.status == "released"] == [b'{"n":1}'] * 2


def test_waiters_that_are_gone_are_forgotten() -> None:
    """A ledger of an earlier version may hold some: its entries end as well."""
    d = driver()
    d.finish(read(d).dispatches[0])
    (entry,) = d.state.cache.entries.values()
    entry.waiters.append(bytes(16))
    d.now += TTL_US + HOUR_US
    _noise(d)
    assert not d.state.cache.entries


def _noise(d: Driver) -> None:
    d.feed("messages", b"anything")
