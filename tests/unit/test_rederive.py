"""Deciding again from the ledger: what differs is named, what was erased is said, and nothing can be executed."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from sluicegate.processors import snapshot
from sluicegate.processors.inputs import Input
from sluicegate.processors.pipeline import machinery_failed
from sluicegate.processors.replay import diff, rederive
from sluicegate.processors.replay.recorded import Event
from sluicegate.processors.replay.rederive import Rederive, Tally
from sluicegate.processors.sessions.library import Library
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import MAX_INTENT_BYTES
from sluicegate.streams.commands.window import window_of
from sluicegate.streams.replay.window import Window

from tests.driver import AGENT, T0, Driver, Record, read, release
from tests.forging import forge, where, with_header


@pytest.fixture
def driver() -> Driver:
    """A ledger with a bit of everything, under two releases."""
    made = Driver()
    made.everyday(1)
    made.deploy(release(edition="2"))
    made.everyday(1)
    return made


def check(
    driver: Driver, records: list[Record] | None = None, selected: Callable[[list[Event]], bool] | None = None
) -> Tally:
    """Decide everything again."""
    again = Rederive(driver.partition, driver.controls, driver.keys.open, selected)
    for record in driver.records if records is None else records:
        again.add(*record)
    return again.finish()


def test_every_outcome_comes_out_again(driver: Driver) -> None:
    tally = check(driver)
    assert tally.differences == []
    assert (tally.same, tally.inputs, tally.outcomes) == (tally.inputs - 1, tally.inputs, len(driver.records))
    assert dict(tally.skipped) == {"genesis": 1}


@pytest.mark.parametrize(
    ("status", "changes", "field"),
    [
        ("permitted", {"policies": ["another"]}, "policies"),
        ("refused", {"reason": "forbidden"}, "reason"),
        ("validated", {"status": "refused"}, "status"),
        ("released", {"caused_by": []}, "caused_by"),
        ("noted", {"labels": ["secret"]}, "labels"),
        ("opened", {"tenant": "somebody"}, "tenant"),
    ],
)
def test_another_header_is_named(driver: Driver, status: str, changes: dict[str, object], field: str) -> None:
    at = where([read(x) for x in driver.records], status)
    records = forge(driver, lambda e: [*e[:at], with_header(e[at], **changes), *e[at + 1 :]])
    tally = check(driver, records)
    assert tally.different >= 1
    first = tally.differences[0]
    assert (first.seq, first.field) == (at, field)
    assert first.recorded != first.remade
    assert first.input.startswith(read(driver.records[at]).header.input_topic)


def test_other_facts_are_named_and_the_recorded_ones_folded(driver: Driver) -> None:
    at = where([read(x) for x in driver.records], "dispatched")

    def change(events: list[Event]) -> list[Event]:  # type: ignore[type-arg]
        facts = events[at].facts
        assert isinstance(facts, r.PlanFacts)
        events[at] = replace(events[at], facts=replace(facts, timeout_ms=9_999))
        return events

    tally = check(driver, forge(driver, change))  # type: ignore[arg-type]
    assert [d.field for d in tally.differences] == ["facts.timeout_ms"]
    assert (tally.differences[0].recorded, tally.differences[0].remade) == ("9999", "2000")


def test_an_outcome_too_many_or_too_few(driver: Driver) -> None:
    at = where([read(x) for x in driver.records], "dispatched")
    tally = check(driver, forge(driver, lambda e: e[:at] + e[at + 1 :]))
    assert tally.differences[0].field == "outcomes"
    assert tally.differences[0].recorded == "routed permitted validated"
    assert tally.differences[0].remade == "routed permitted validated dispatched"


def test_changed_content_is_a_difference(driver: Driver) -> None:
    """A detail of a refusal, sealed anew for the same event by somebody who holds the key."""
    at = where([read(x) for x in driver.records], "refused", reason="forbidden")
    event = read(driver.records[at])
    assert event.sealed is not None
    sealed = driver.keys.seal(event.header.subject, event.header.event_id, b"another detail")
    records = forge(driver, lambda e: [*e[:at], replace(e[at], sealed=sealed), *e[at + 1 :]])
    assert [(d.seq, d.field) for d in check(driver, records).differences] == [(at, "content")]


def test_erased_content_is_said_and_the_rest_compared(driver: Driver) -> None:
    driver.open_session("other", user="person-9")
    driver.finish(driver.call("desk.pay", session="other").dispatches[0])
    driver.keys.destroyed.add("person-9")
    tally = check(driver)
    assert (tally.erased, tally.different) == (4, 0)  # opened, call, claim, end
    assert tally.same == tally.inputs - 1 - 4


def test_a_repeat_whose_bytes_were_gone_then(driver: Driver) -> None:
    """The input topic had lost the receipt when the repeat was answered; the ledger still has it."""
    intent = driver.intent("desk.read")
    driver.open_session()
    dispatch = driver.feed("intents", intent).dispatches[0]
    driver.finish(dispatch)
    driver.inputs["receipts"].clear()
    driver.feed("intents", intent)
    assert check(driver).differences == []
    driver.call("desk.read")
    driver.inputs["intents"].clear()
    driver.library = Library()  # as after a restart
    driver.tick(8_000_000)  # cannot be offered again without its bytes
    tally = check(driver)
    assert tally.differences == []
    assert tally.without_bytes == 1


def test_what_broke_the_machinery_is_skipped_and_counted() -> None:
    driver = Driver()
    driver.open_session()
    value = codec.encode(driver.intent("desk.read"))
    broken = machinery_failed(
        driver.state, driver.control, Input("intents", 0, 0, value), driver.now, "tainted three times"
    )
    driver.next_offset["intents"] = 1
    driver._fold(broken)
    driver.call("desk.read")
    tally = check(driver)
    assert dict(tally.skipped) == {"genesis": 1, "machinery_failed": 1}
    assert (tally.same, tally.different) == (2, 0)


def test_an_input_of_which_only_the_beginning_was_kept() -> None:
    driver = Driver()
    driver.feed("intents", b"x" * (MAX_INTENT_BYTES + 7))
    driver.feed("messages", b"y" * MAX_INTENT_BYTES)
    tally = check(driver)
    assert (tally.same, tally.different) == (2, 0)


def test_another_engine_is_counted_not_a_difference(driver: Driver) -> None:
    records = forge(driver, lambda e: [with_header(x, engine="0.0.9") for x in e])
    tally = check(driver, records)
    assert tally.different == 0
    assert tally.other_engine["0.0.9"] > 10


def test_what_is_not_selected_is_folded_only(driver: Driver) -> None:
    tally = check(driver, selected=lambda group: group[0].header.seq >= 40)
    assert tally.outside > 20
    assert tally.different == 0
    assert tally.same + tally.outside == tally.inputs


def test_a_broken_ledger_is_sent_to_verify(driver: Driver) -> None:
    with pytest.raises(Terminal, match="ledger verify"):
        check(driver, [*driver.records[:9], *driver.records[10:]])
    with pytest.raises(Terminal, match="ledger verify"):
        check(driver, forge(driver, lambda e: [*e[:-1], with_header(e[-1], control_head=77)]))


def test_replay_holds_nothing_that_could_execute() -> None:
    """By construction: no executor is loaded, and no name that sends, seals with a key or runs is used."""
    code = (
        "import sys, sluicegate.streams.replay.replay as m;"
        "bad=[n for n in sys.modules if n.startswith(('sluicegate.executors','httpx','aiohttp'))];"
        "print(*bad, end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    from sluicegate.streams import scan
    from sluicegate.streams.replay import replay

    forbidden = {
        "producer",
        "send",
        "send_batch",
        "Transaction",
        "append_event",
        "seal_content",
        "AIOKafkaProducer",
    }
    for module in (replay, scan, rederive, diff):
        tree = ast.parse(inspect.getsource(module))
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        names |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        assert not names & forbidden


def test_the_window_an_operator_names() -> None:
    window = window_of("intents", ["2:100", "0:7"], "2026-11-18T00:00:00", ["2:120"])
    assert (window.first, window.last, window.partitions) == ({2: 100, 0: 7}, {2: 120}, {0, 2})
    assert window.since == 1_794_960_000_000_000
    assert not window.everything
    assert window_of("outcomes", [], None, []).everything
    assert window_of("outcomes", [], None, ["2026-11-18T01:00:00+01:00"]).until == 1_794_960_000_000_000
    for first, since, last in (
        (["x"], None, []), (["1:2:3"], None, []), ([], "yesterday", []), ([], None, ["2026-01-01", "2026-01-02"])
    ):  # fmt: skip
        with pytest.raises(Terminal, match=r"write|give one"):
            window_of("outcomes", first, since, last)


@pytest.mark.parametrize(
    ("window", "count"),
    [
        (Window("intents", {0: 3}, {0: 5}), 3),
        (Window("messages", {0: 0}), 6),
        (Window("outcomes", {0: 0}, {0: 4}), 3),  # genesis, opened, heard
        (Window(since=T0 + 3_600_000_000), 0),
        (Window(until=T0), 0),
    ],
)
def test_what_a_window_compares(driver: Driver, window: Window, count: int) -> None:
    tally = check(driver, selected=window.holds)
    assert tally.same + sum(tally.skipped.values()) == count
    assert tally.different == 0


# What random inputs found (tests/properties/test_replay.py), one by one.


def test_an_executors_clock_cannot_break_a_claim() -> None:
    driver = Driver()
    driver.open_session()
    dispatch = driver.call("desk.pay").dispatches[0]
    for when in (2**63 - 1, -(2**63)):
        claim = driver.receipt(dispatch, "claimed", started_at=when)
        assert claim.outcomes[0].status in ("claimed", "noted")
    snapshot.encode(driver.state)
    due = [e.due_at for e in driver.state.intents.values() if getattr(e, "state", "") == "claimed"]
    assert due == [driver.now - 1_000 + 4_000_000]  # of the first: by the ledger's clock


@pytest.mark.parametrize("attempt", [0, -1, 2, 2**31 - 1])
def test_a_claim_of_an_attempt_that_was_not_offered_is_noted(attempt: int) -> None:
    driver = Driver()
    driver.open_session()
    dispatch = driver.call("desk.pay").dispatches[0]
    assert driver.receipt(dispatch, "claimed", attempt=attempt).outcomes[0].status == "noted"
    assert driver.claim(dispatch).outcomes[0].status == "claimed"
    assert driver.receipt(dispatch, "finished", attempt=attempt, result=b"{}").outcomes[0].status == "noted"
    assert driver.receipt(dispatch, "finished", result=b"{}").outcomes[0].status == "released"


def test_a_word_in_a_session_that_was_idle_for_a_day() -> None:
    driver = Driver()
    driver.open_session()
    driver.now += 25 * 3_600_000_000
    driver.say("still there?")
    assert driver.call("desk.read", agent=AGENT).outcomes[0].reason == "unknown_session"
