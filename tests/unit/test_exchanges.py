"""Exchanges: taken once, for the partition they name, until their deadline; alarms; their fold survives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.crossing import alarms, exchanges, homes, sending
from sluicegate.processors.outcomes import Outcome
from sluicegate.processors.state import PartitionState
from sluicegate.processors.work import Work
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import AGENT, Driver, read
from tests.exchange_driver import World
from tests.signed_driver import SignedDriver

HOME = "test:x"


def _ask(work: Work, exchange: r.Exchange) -> None:
    outcome = sending.taken(work, exchange, {"asked": 1})
    to = exchange.from_partition
    sending.send(work, outcome, "test.answer", exchange.home, to, {"n": 1}, deadline_at=work.now + 1_000_000)
    sending.send(work, outcome, "test.answer", exchange.home, to, {"n": 2})


def _answer(work: Work, exchange: r.Exchange) -> None:
    sending.taken(work, exchange, sending.amounts_of(exchange))


def _alarm(work: Work, name: str) -> None:
    sending.alarmed(work, "test.alarm", name, {})


def _broken(work: Work, name: str) -> None:
    raise ValueError("a bug")


def _fold(state: PartitionState, outcome: Outcome) -> None:
    facts = outcome.facts
    assert isinstance(facts, r.ExchangeFacts)
    amounts = sending.amounts_of(facts)
    state.marks["took"] = state.marks.get("took", 0) + amounts.get("n", 0) + 10 * amounts.get("asked", 0)
    if facts.kind == "test.ask":
        alarms.set_alarm(state, "test:later", state.now + 5_000_000)
        alarms.set_alarm(state, "broken:later", state.now + 6_000_000)
    elif facts.kind == "test.alarm":
        alarms.set_alarm(state, facts.home, 0)


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(exchanges.HANDLERS, "test.ask", _ask)
    monkeypatch.setitem(exchanges.HANDLERS, "test.answer", _answer)
    monkeypatch.setitem(exchanges.ALARMS, "test", _alarm)
    monkeypatch.setitem(exchanges.ALARMS, "broken", _broken)
    monkeypatch.setitem(homes.FOLDS, "test", _fold)
    yield


def exchange(
    d: Driver, kind: str = "test.ask", *, ident: int = 1, deadline_us: int = 1_000_000
) -> r.Exchange:
    return r.Exchange(
        bytes([ident]) * 16, kind, HOME, d.partition, 1, "", "", "", "", d.now, d.now + deadline_us, [], [], b"",
    )  # fmt: skip


def test_ask_and_answer() -> None:
    w = World(3)
    home = w.drivers[0]
    home.feed("transfers", exchange(home))
    assert [(x.kind, x.to_partition, x.amounts) for x in home.exchanges] == [
        ("test.answer", 1, [1]),
        ("test.answer", 1, [2]),
    ]
    assert len({x.exchange_id for x in home.exchanges}) == 2
    w.settle()
    assert home.state.marks["took"] == 10
    assert w.drivers[1].state.marks["took"] == 3
    for index in range(3):
        w.crash(index)
        w.restore(index)


def test_taken_once() -> None:
    d = Driver(partitions=2)
    sent = exchange(d)
    d.feed("transfers", sent)
    again = d.feed("transfers", sent)
    assert [(o.status, o.reason) for o in again.outcomes] == [("noted", "duplicate")]
    assert d.state.marks["took"] == 10 and not again.exchanges
    d.state = snapshot.decode(snapshot.encode(d.state))
    assert d.feed("transfers", sent).outcomes[0].reason == "duplicate"


def test_late_unknown_and_misrouted() -> None:
    d = Driver(partitions=2)
    late = exchange(d, deadline_us=0)
    assert d.feed("transfers", late).outcomes[0].reason == "late"
    assert d.feed("transfers", exchange(d, "test.what")).outcomes[0].reason == "unknown_kind"
    other = d.feed("transfers", replace(exchange(d), to_partition=1))
    assert [(o.status, o.reason) for o in other.outcomes] == [("unreadable", "misrouted")]
    assert "took" not in d.state.marks and not d.state.seen


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MAX_SEEN", 2)
    d = Driver(partitions=2)
    for ident in range(1, 4):
        last = d.feed("transfers", exchange(d, ident=ident))
    assert last.outcomes[0].reason == "overloaded"
    d.now += 2_000_000
    assert d.feed("transfers", exchange(d, ident=5)).outcomes[0].reason == "overloaded"
    assert not d.state.seen  # the times of the first two were over
    assert not d.feed("transfers", exchange(d, ident=6)).outcomes[0].reason


def test_alarms_come_once_and_a_broken_one_goes() -> None:
    d = Driver(partitions=2)
    d.feed("transfers", exchange(d))
    assert not d.tick().outcomes
    d.state = snapshot.decode(snapshot.encode(d.state))
    due = d.tick(5_100_000)
    assert [(o.stage, o.status) for o in due.outcomes] == [("transfer", "noted")]
    broken = d.tick(1_000_000)
    assert broken.outcomes[0].reason == "machinery_failed"
    assert not d.tick(9_000_000).outcomes and not d.state.alarms


def test_only_the_pipeline_sends_them() -> None:
    d = SignedDriver()
    sent = replace(exchange(d), to_partition=0)
    assert d.feed("transfers", codec.encode(sent)).outcomes[0].reason == "unsigned"
    forged = d.sign(sent, "transfers", f"agent:{AGENT}")
    assert d.feed("transfers", forged).outcomes[0].reason == "wrong_signer"
    assert not d.feed("transfers", sent).outcomes[0].reason


def test_facts_say_what_came() -> None:
    d = Driver(partitions=2)
    d.feed("transfers", exchange(d))
    facts = read(d.records[-1]).facts
    assert facts == r.ExchangeFacts(
        bytes([1]) * 16, "test.ask", HOME, 1, exchange_deadline(d), ["asked"], [1]
    )


def exchange_deadline(d: Driver) -> int:
    """As `exchange` made it, one step before it arrived."""
    return d.now - 1_000 + 1_000_000


def test_what_is_due_longest_comes_first() -> None:
    d = Driver(partitions=1)
    d.open_session()
    d.call("desk.read")  # offered again 7 s later
    d.feed("transfers", replace(exchange(d), to_partition=0))  # an alarm 5 s later
    assert d.tick(8_000_000).outcomes[0].stage == "transfer"
    assert d.tick().outcomes[0].stage == "transfer"  # the broken one, at 6 s
    assert d.tick().outcomes[0].status == "dispatched"
