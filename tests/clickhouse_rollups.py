"""What every ClickHouse must do with minutes: `drift`, `sessions` and `freshness`, whatever was repeated.

Part of the contract (`clickhouse_contract.py`): a subclass gives `sink` and `database`.
"""

from __future__ import annotations

from typing import Any

import pytest
from sluicegate.schemas import records as r
from sluicegate.sinks import ddl, rollup
from sluicegate.sinks.ranges import Collector, Range
from sluicegate.sinks.rows import Record
from sluicegate.sinks.writer import Sink

from tests.driver import AGENT, LOG_ID, PERSON, SESSION, Driver

MINUTE_US = 60_000_000


class Open:
    """Opens what the driver sealed."""

    def __init__(self, driver: Driver) -> None:
        self.open = driver.keys.open


def day() -> Driver:
    """Two sessions over two minutes: released, failed, refused and held calls, a word of the user; one is closed."""
    d = Driver()
    d.open_session()
    d.say("pay Ana")
    d.finish(d.call("desk.read", {"value": "a"}).dispatches[0])
    d.finish(d.call("desk.read", {"value": "b"}).dispatches[0])
    d.call("desk.pay", {"value": "no"})
    d.now += MINUTE_US
    d.open_session("session-2")
    paid = d.call("desk.pay", {"value": "yes"}).dispatches[0]
    d.claim(paid)
    d.receipt(paid, "failed", error_class="tool_error")
    d.call("desk.wire", {"value": "much"})
    d.call("desk.read", {})
    d.call("no.such.tool", {})
    d.close_session()
    for value, metric in ((9_000, "quality"), (4_000, "quality"), (0, "tone")):
        d.feed("reviews", r.Score(d.new_id("score"), AGENT, SESSION, PERSON, "person", metric, value, d.now))
    return d


def ranges(d: Driver, cut: int = 10_000) -> list[Range]:
    """Its ledger, frozen every `cut` records."""
    collector, found = Collector(LOG_ID, "outcomes", 0), list[Range]()
    for at, (offset, value) in enumerate(d.records, 1):
        collector.add(Record("outcomes", 0, offset, value), 0.0)
        if at % cut == 0 or at == len(d.records):
            while (frozen := collector.take(float("inf"))) is not None:
                found.append(frozen)
    return found


class RollupContract:
    """The contract of minutes."""

    def ask(self, sink: Any, database: str, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in sink.query(query.format(d=f"`{database}`")).result_rows]

    def everything(self, sink: Any, database: str) -> list[list[tuple[Any, ...]]]:
        """What the views say, but for how far."""
        return [
            self.ask(sink, database, f"SELECT * EXCEPT (until_seq) FROM {{d}}.{view} ORDER BY ALL")
            if view == "drift"
            else self.ask(sink, database, f"SELECT * FROM {{d}}.{view} ORDER BY session_id")
            for view in ("drift", "sessions")
        ]

    def test_sessions_are_what_was_decided_in_them(self, sink: Any, database: str) -> None:
        d = day()
        writer = Sink(lambda: sink, database, Open(d))
        (frozen,) = ranges(d)
        writer.write(frozen, True)
        assert writer.rollup(LOG_ID, 0).step(frozen.last_seq) is False
        names = "session_id, calls, executed, released, refused, failed, held, user_messages, origin, on_behalf_of, isNull(closed_at), scores, quality"
        assert self.ask(sink, database, f"SELECT {names} FROM {{d}}.sessions ORDER BY 1") == [
            (SESSION, 7, 3, 2, 2, 1, 1, 1, "channel", "person-1", False, 2, 0.65),
            ("session-2", 0, 0, 0, 0, 0, 0, 0, "channel", "person-1", True, 0, None),
        ]
        opened, head, closed, seq, release = self.ask(
            sink, database,
            "SELECT opened_at, opened_head, closed_at, close_seq, release FROM {d}.sessions ORDER BY session_id",
        )[0]  # fmt: skip
        events = "SELECT decided_at, toInt64(seq), control_head, release FROM {d}.events WHERE session_id = 'session-1' AND status = "
        assert self.ask(sink, database, events + "'opened'") == [(opened, 1, head, release)]
        assert self.ask(sink, database, events + "'closed'")[0][:2] == (closed, seq)
        since = "SELECT session_id FROM {{d}}.sessions_since(since = '{}')"
        late = f"{closed:%Y-%m-%d %H:%M:00}"
        assert [row[0] for row in sorted(self.ask(sink, database, since.format(late)))] == [
            SESSION,
            "session-2",
        ]
        assert self.ask(sink, database, since.format("2027-01-01 00:00:00")) == []

    def test_minutes_add_up_to_the_events(self, sink: Any, database: str) -> None:
        d = day()
        writer = Sink(lambda: sink, database, Open(d))
        for frozen in ranges(d):
            writer.write(frozen, True)
            writer.rollup(LOG_ID, 0).step(frozen.last_seq)
        total = "SELECT sum(n), uniqExact(minute) FROM {d}.drift"
        assert self.ask(sink, database, total) == [(len(d.records), 2)]
        counted = "SELECT tool, sum(calls), sum(released), sum(failed), sum(refused), sum(violations), sum(held) FROM {d}.drift WHERE tool != '' GROUP BY tool ORDER BY tool"
        assert self.ask(sink, database, counted) == [
            ("(unresolved)", 1, 0, 0, 1, 0, 0),
            ("desk.pay", 2, 0, 1, 1, 1, 0),
            ("desk.read", 3, 2, 0, 0, 0, 0),
            ("desk.wire", 1, 0, 0, 0, 0, 1),
        ]
        scored = "SELECT sum(quality_sum), sum(scores), uniqExact(release) FROM {d}.drift WHERE scores > 0"
        assert self.ask(sink, database, scored) == [(13_000, 2, 1)]
        maps = "SELECT sumMap(shapes), sumMap(previous), sumMap(latency) FROM {{d}}.drift WHERE tool = '{}'"
        shapes, before, latency = self.ask(sink, database, maps.format("desk.read"))[0]
        assert (shapes, before) == ({"value:string": 2}, {"": 1, "desk.read": 1, "desk.wire": 1})
        assert sum(latency.values()) == 2
        fresh = "SELECT copied_until_seq, computed_until_seq, not_computed, computed FROM {d}.freshness"
        assert self.ask(sink, database, fresh) == [
            (len(d.records) - 1, len(d.records) - 1, 0, len(d.records))
        ]

    @pytest.mark.parametrize("cut", [1, 5, 11])
    def test_however_often_and_wherever_it_is_cut_it_is_the_same(
        self, sink: Any, database: str, cut: int
    ) -> None:
        """INVARIANT: repeated, cut otherwise, by an old owner, with rows twice in `events`: the minutes are those of the events."""
        d = day()
        writer = Sink(lambda: sink, database, Open(d))
        (whole,) = ranges(d)
        writer.write(whole, True)
        writer.rollup(LOG_ID, 0).step(whole.last_seq)
        wanted = self.everything(sink, database)
        sink.command(f"DROP DATABASE `{database}`")
        ddl.ensure_schema(sink, database)
        sleeper = writer.rollup(LOG_ID, 0)
        sleeper.step(3)
        owner = writer.rollup(LOG_ID, 0)
        for number, frozen in enumerate(ranges(d, cut)):
            writer.write(frozen, True)
            if number % 2:
                owner.step(frozen.last_seq)
            if number % 3:
                writer.rollup(LOG_ID, 0).step(frozen.last_seq)  # after a restart
        sink.command(
            f"ALTER TABLE `{database}`.events MODIFY SETTING non_replicated_deduplication_window = 1"
        )
        for frozen in ranges(d, 7):
            writer.write(frozen, True)  # tokens of another cut: rows are there twice
        sleeper.step(whole.last_seq)
        owner.step(whole.last_seq)
        assert self.everything(sink, database) == wanted

    def test_a_long_history_is_computed_in_steps(
        self, sink: Any, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        d = day()
        writer = Sink(lambda: sink, database, Open(d))
        (whole,) = ranges(d)
        writer.write(whole, True)
        writer.rollup(LOG_ID, 0).step(whole.last_seq)
        wanted = self.everything(sink, database)
        for table in ("drift_1m", "session_1m"):
            sink.command(f"TRUNCATE TABLE `{database}`.{table}")
        monkeypatch.setattr(rollup, "ROLL_ROWS", 4)
        steps = writer.rollup(LOG_ID, 0)
        count = 1
        while steps.step(whole.last_seq):
            count += 1
        assert count == -(-len(d.records) // 4)
        assert self.everything(sink, database) == wanted

    def test_a_rebuild_computes_the_minutes_anew(self, sink: Any, database: str) -> None:
        d = day()
        (whole,) = ranges(d)
        writer = Sink(lambda: sink, database, Open(d))
        writer.write(whole, True)
        writer.rollup(LOG_ID, 0).step(whole.last_seq)
        wanted = self.everything(sink, database)
        for _ in range(2):
            ddl.begin_rebuild(sink, database)
            again = Sink(lambda: sink, database, Open(d), ddl.REBUILD)
            again.write(whole, True)
            again.rollup(LOG_ID, 0).step(whole.last_seq)
            ddl.finish_rebuild(sink, database)
            assert self.everything(sink, database) == wanted

    def test_a_table_of_an_earlier_version_gets_its_columns(self, sink: Any, database: str) -> None:
        for name in ("call_tool", "previous_tool", "model", "money"):
            sink.command(f"ALTER TABLE `{database}`.events DROP COLUMN {name}")
        sink.command(f"ALTER TABLE `{database}`.contents DROP COLUMN shape")
        ddl.ensure_schema(sink, database)
        d = day()
        (whole,) = ranges(d)
        Sink(lambda: sink, database, Open(d)).write(whole, True)
        assert self.ask(sink, database, "SELECT count() FROM {d}.events WHERE call_tool != ''")[0][0] > 10

    def test_a_restart_knows_the_calls_that_are_open(self, sink: Any, database: str) -> None:
        d = Driver()
        d.open_session()
        first = d.call("desk.read", {"value": "a"}).dispatches[0]
        second = d.call("desk.set", {"value": "a"}).dispatches[0]
        writer = Sink(lambda: sink, database, None)
        (frozen,) = ranges(d)
        writer.write(frozen, True)
        d.finish(first)
        d.receipt(second, "claimed")
        d.call("desk.look", {})
        collector = Collector(
            LOG_ID, "outcomes", 0, next_seq=frozen.last_seq + 1,
            calls=writer.calls(LOG_ID, "outcomes", 0, frozen.last_seq + 1),
        )  # fmt: skip
        for offset, value in d.records[frozen.n :]:
            collector.add(Record("outcomes", 0, offset, value), 0.0)
        rest = collector.take(float("inf"))
        assert rest is not None
        tools, before = rest.calls
        assert tools[:2] == [b"desk.read", b"desk.set"]
        assert (b"desk.look", b"desk.set") in zip(tools, before, strict=True)
