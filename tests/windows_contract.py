"""What every store must tell the sentinel, and the ledger of a driver as the store in memory has it.

A subclass gives `filled`: a store that holds all of a driver's ledger. Next: `tests/contracts/test_windows.py`.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from sluicegate.processors.drift.streams import START, Row
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.kinds import CALL_KINDS
from sluicegate.sinks.contents import shape_of
from sluicegate.streams.watch.windows import Head, MemoryWindows, Seen, Windows

from tests.driver import AGENT, LOG_ID, PEOPLE, PERSON, SESSION, Driver, read

LOG = LOG_ID.hex()
MINUTE_US = 60_000_000


def seen_of(driver: Driver) -> list[Seen]:
    """A ledger, outcome by outcome, read by the Avro library."""
    tools: dict[str, str] = {}
    last: dict[str, str] = {}
    found = []
    for seq, record in enumerate(driver.records):
        event = read(record)
        h, facts = event.header, event.facts
        more: dict[str, Any] = {}
        if isinstance(facts, r.IntentFacts) and facts.kind in CALL_KINDS:
            tools[h.intent_id] = facts.tool
            content = driver.keys.open(h.subject, h.event_id, event.sealed or b"")
            intent = codec.decode_as(r.Intent, content or b"")
            more = {
                "asked": True,
                "previous": last.get(h.session_id, ""),
                "shape": shape_of(orjson.loads(intent.arguments)).decode(),
            }
            last[h.session_id] = facts.tool
            if not facts.executor:
                more["tool"] = "(unresolved)"
        if isinstance(facts, r.AnswerFacts):
            more["model"] = facts.served_model
        release = h.release
        if isinstance(facts, r.ScoreFacts):
            more["score"], release = facts.value / 10_000, facts.release
        found.append(
            Seen(
                driver.partition, seq, h.decided_at, release, h.agent_id, h.intent_id, h.stage, h.status,
                more.pop("tool", tools.get(h.intent_id, "")),
                nowhere="nowhere" in getattr(facts, "grounded_from", ()), reason=h.reason,
                observed=bool(getattr(facts, "observed", ())), **more,
            )
        )  # fmt: skip
    return found


def day() -> Driver:
    """Released, failed, refused and held calls of two sessions over three minutes."""
    d = Driver()
    d.control_event("people.registered", people=PEOPLE)
    d.open_session()
    for value in ("a", "b", "c"):
        d.finish(d.call("desk.read", {"value": value}).dispatches[0])
    d.call("desk.pay", {"value": "no"})
    d.now += MINUTE_US
    paid = d.call("desk.pay", {"value": "yes"}).dispatches[0]
    d.claim(paid)
    d.now += MINUTE_US
    d.receipt(paid, "failed", error_class="tool_error")
    d.open_session("session-2")
    d.call("desk.wire", {"value": "much"}, session="session-2")
    d.call("desk.read", {"value": 7}, session="session-2")
    d.call("no.such.tool", {}, session=SESSION)
    d.feed("intents", b"garbage")
    for value in (9_000, 4_000):
        score = r.Score(d.new_id("score"), AGENT, SESSION, PERSON, "person", "quality", value, d.now, "", "")
        assert d.feed("reviews", score).outcomes[0].status == "scored"
    d.close_session()
    return d


def numbers(row: Row) -> tuple[str, int, int, int, int]:
    return row.tool, row.asked, row.refused, row.executed, row.failed


class WindowsContract:
    """The contract."""

    def filled(self, driver: Driver) -> Windows:
        """A store of all of it."""
        raise NotImplementedError

    @pytest.fixture
    def d(self) -> Driver:
        return day()

    @pytest.fixture
    def windows(self, d: Driver) -> Windows:
        return self.filled(d)

    def cut(self, d: Driver) -> dict[int, int]:
        return {0: len(d.records) - 1}

    def test_how_far_it_is(self, windows: Windows, d: Driver) -> None:
        last = len(d.records) - 1
        assert windows.stored(LOG) == {0: Head(last, read(d.records[-1]).header.decided_at)}
        assert windows.stored("ab" * 16) == {}
        assert windows.count(LOG, {}, {0: last}) == last + 1
        assert windows.count(LOG, {0: 4}, {0: 9}) == 5
        assert windows.count(LOG, {}, {}) == windows.count("ab" * 16, {}, {0: last}) == 0

    def test_what_happened(self, windows: Windows, d: Driver) -> None:
        rows = windows.rows(LOG, 0, d.now + 1, 0, self.cut(d))
        assert {numbers(row) for row in rows if row.tool} == {
            ("(unresolved)", 1, 0, 0, 0), ("desk.pay", 2, 1, 1, 1), ("desk.read", 4, 1, 3, 0), ("desk.wire", 1, 0, 0, 0),
        }  # fmt: skip
        by_tool = {row.tool: row for row in rows}
        assert by_tool["desk.read"].after == {START: 1, "desk.read": 2, "desk.wire": 1}
        assert by_tool["desk.read"].shapes == {"value:string": 3, "value:number": 1}
        assert sum(row.scored for row in rows) == 2
        assert sum(row.bad for row in rows) == pytest.approx(0.7)
        assert {row.agent_id for row in rows} == {AGENT}
        assert {row.release for row in rows} == {d.control.deployed}

    def test_what_an_operator_took_back_counts_for_nobody(self) -> None:
        d = Driver()
        d.open_session()
        flying = d.call("desk.pay", {"value": "1"}).dispatches[0]
        d.claim(flying)
        d.roll_back(cut=d.state.seq - 1)
        ended = d.receipt(flying, "finished", result=b'{"ok":true}').outcomes[0]
        assert (ended.status, ended.reason) == ("withheld", "rolled_back")
        rows = self.filled(d).rows(LOG, 0, d.now + 1, 0, self.cut(d))
        assert [(row.asked, row.executed, row.withheld) for row in rows if row.tool == "desk.pay"] == [
            (1, 0, 0)
        ]

    def test_what_is_only_observed_counts_once_a_call(self) -> None:
        d = Driver()
        d.control_event(
            "people.registered", people=[{"person_id": "operator", "name": "O", "roles": ["operator"]}]
        )
        d.control_event("mode.set", scope="tool", value="desk.pay", mode="observe")
        d.open_session()
        start = d.now
        for value in ("no", "yes"):
            d.call("desk.pay", {"value": value})
        windows = self.filled(d)
        for rows in (
            windows.rows(LOG, 0, d.now + 1, 0, self.cut(d)),
            windows.week(LOG, start - MINUTE_US, d.now + 60 * MINUTE_US),
        ):
            assert [(r.asked, r.refused, r.observed) for r in rows if r.tool == "desk.pay"] == [(2, 0, 1)]

    def test_it_is_what_the_ledger_says(self, windows: Windows, d: Driver) -> None:
        memory = MemoryWindows(LOG, seen_of(d))
        for bucket in (0, 10_000_000, MINUTE_US):
            args = (LOG, 0, d.now + 1, bucket, self.cut(d))
            assert windows.rows(*args) == memory.rows(*args), bucket

    def test_buckets_add_up_however_they_are_cut(self, windows: Windows, d: Driver) -> None:
        whole = windows.rows(LOG, 0, d.now + 1, MINUTE_US, self.cut(d))
        first = min(row.at for row in whole)
        parts = []
        for start in range(first, d.now + 1, MINUTE_US):
            parts += windows.rows(LOG, start, min(start + MINUTE_US, d.now + 1), MINUTE_US, self.cut(d))
        assert parts == whole

    def test_nothing_beyond_the_cut_or_the_times(self, windows: Windows, d: Driver) -> None:
        memory = MemoryWindows(LOG, seen_of(d))
        for last in (0, 5, 11, 20):
            args = (LOG, 0, d.now + 1, 0, {0: last})
            assert windows.rows(*args) == memory.rows(*args), last
        middle = read(d.records[8]).header.decided_at
        args = (LOG, middle, d.now, 0, self.cut(d))
        assert windows.rows(*args) == memory.rows(*args)
        assert windows.rows(LOG, 5, 5, 0, self.cut(d)) == windows.rows(LOG, 0, d.now, 0, {}) == []

    def test_a_week_is_the_same_in_one(self, windows: Windows, d: Driver) -> None:
        def summed(rows: list[Row]) -> dict[str, list[int]]:
            found: dict[str, list[int]] = {}
            for row in rows:
                sums = found.setdefault(row.tool, [0, 0, 0, 0])
                for at, n in enumerate(numbers(row)[1:]):
                    sums[at] += int(n)
            return found

        start = read(d.records[0]).header.decided_at
        later = d.now + 60 * MINUTE_US  # long ago by then: added up before
        whole = summed(windows.rows(LOG, start, later, 0, self.cut(d)))
        assert {k: v for k, v in summed(windows.week(LOG, start, later)).items() if k} == {
            k: v for k, v in whole.items() if k
        }
