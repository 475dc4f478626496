"""Sessions that rest are the same sessions: as a dictionary, as state bytes, and as decisions."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sluicegate.processors import snapshot
from sluicegate.processors.sessions.resting import InMemory, Sessions
from sluicegate.processors.sessions.session import Session, Source, learn
from sluicegate.processors.state import HOUR_US, session_key
from sluicegate.streams.lanes.resting_file import RestingFile

from tests.driver import AGENT, Driver
from tests.exchange_driver import folded
from tests.unit.test_cache import intact

NAMES = [f"agent\0s{n}" for n in range(6)]
step = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(NAMES), st.integers(0, 100)),
    st.tuples(st.just("use"), st.sampled_from(NAMES), st.integers(0, 100)),
    st.tuples(st.just("pop"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("rest"), st.just(""), st.integers(0, 120)),
    st.tuples(st.just("move"), st.just(""), st.just(0)),
)


def made(name: str, at: int) -> Session:
    session = Session(
        "agent",
        name[6:],
        "person",
        "person",
        "channel",
        at,
        at,
        opened_by=bytes([at]) * 16,
        release=f"sha256:{at % 2}",
    )
    for n in range(at % 4):
        learn(session, Source(bytes([n]) * 16, "result", "receipts", n, "a.tool"))
    session.counts, session.cells = ({"a.tool": at} if at % 2 else session.counts), (bytes(16),) * (at % 3)
    return session


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_it_holds_what_a_dictionary_would_hold(kind: str, tmp_path: Path) -> None:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(step, max_size=40))
    def check(steps: list[tuple[str, str, int]]) -> None:
        store: Callable[[], InMemory | RestingFile] = InMemory if kind == "memory" else lambda: RestingFile(tmp_path)  # fmt: skip
        mine, model = Sessions(store()), dict[str, Session]()
        for what, name, at in steps:
            if what == "set":
                mine[name], model[name] = made(name, at), made(name, at)
            elif what == "use":
                found, wanted = mine.get(name), model.get(name)
                assert found == wanted
                if found is not None and wanted is not None:  # what is changed stays changed, rested or not
                    for one in (found, wanted):
                        one.last_at, one.calls = at, one.calls + 1
            elif what == "pop":
                assert mine.pop(name, None) == model.pop(name, None)
            elif what == "rest":
                mine.rest(at)
            else:
                mine.move(store())
            assert len(mine) == len(model) and set(mine) == set(model) and dict(mine.items()) == model
            assert mine.idle(50) == sorted(n for n, s in model.items() if s.last_at < 50)
            assert mine.releases() == {s.release for s in model.values()}
            for name in model:
                assert name in mine and mine.packed(name) == snapshot.pack_session(model[name])

    check()


def test_a_file_is_written_anew_when_half_of_it_is_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluicegate.streams.lanes.resting_file.COMPACT_BYTES", 1_000)
    file = RestingFile(tmp_path)
    spots = [file.put(bytes([n]) * 100) for n in range(50)]
    for spot in spots[::3] + spots[1::3]:
        file.drop(spot)
    assert file._end < 5_000
    assert [file.get(spot) for spot in spots[2::3]] == [bytes([n]) * 100 for n in range(50)[2::3]]
    assert list(tmp_path.iterdir()) == []  # it has no name


@pytest.mark.parametrize("left", [0, 7])
def test_a_full_disk_loses_nothing(left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no byte more, or a part of what it is given."""
    monkeypatch.setattr("sluicegate.streams.lanes.resting_file.COMPACT_BYTES", 0)
    file, pwrite = RestingFile(tmp_path), os.pwrite
    before = {n: file.put(bytes([n]) * 100) for n in range(4)}

    def full(handle: int, data: bytes, at: int) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "no space left on device")
        return pwrite(handle, data[:left], at)

    monkeypatch.setattr(os, "pwrite", full)
    after = {n: file.put(bytes([n]) * 100) for n in range(4, 8)}
    for n in (0, 1, 2):  # more than half is holes now, and cannot be written anew
        file.drop(before.pop(n))
    file.drop(after.pop(4))
    assert {n: file.get(spot) for n, spot in (before | after).items()} == {
        n: bytes([n]) * 100 for n in (3, 5, 6, 7)
    }
    monkeypatch.setattr(os, "pwrite", pwrite)
    for n in (5, 6, 7):
        file.drop(after.pop(n))
    later = file.put(b"x" * 100)
    file.drop(file.put(b"y" * 1_000))
    assert file.get(later) == b"x" * 100 and file.get(before[3]) == bytes([3]) * 100


def busy(d: Driver) -> None:
    """Sessions that are used, left alone for hours, used again, and closed."""
    for n in range(4):
        d.open_session(f"s-{n}")
        d.say("please", f"s-{n}")
        d.finish(d.call("desk.read", {"value": str(n)}, session=f"s-{n}").dispatches[0])
    held = d.call("desk.ask", {"value": "1"}, session="s-1")
    for hour in range(4):
        d.now += HOUR_US
        d.open_session(f"new-{hour}")
    d.review(held)
    d.call("desk.pay", {"value": "no"}, session="s-2")
    d.say("still there?", "s-0")
    d.close_session("s-3")


def test_decisions_and_state_bytes_do_not_know_who_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resting, file, awake = Driver(), Driver(), Driver()
    file.state.sessions.move(RestingFile(tmp_path))
    busy(resting)
    busy(file)
    assert resting.state.sessions.resting > 0 and file.state.sessions.resting > 0
    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "rest", lambda self, since: None)
        busy(awake)
    assert awake.state.sessions.resting == 0
    assert [x.value for x in resting.records] == [x.value for x in awake.records] == [x.value for x in file.records]  # fmt: skip
    assert snapshot.encode(resting.state) == snapshot.encode(awake.state) == snapshot.encode(file.state)
    again = snapshot.decode(snapshot.encode(resting.state))
    assert again.sessions == resting.state.sessions == folded(resting).sessions
    intact(resting)
    session = copy.copy(resting.state.sessions[session_key(AGENT, "s-0")])
    assert session == awake.state.sessions[session_key(AGENT, "s-0")]
