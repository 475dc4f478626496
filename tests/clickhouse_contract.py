"""What every ClickHouse must do for Sluicegate: the embedded one and a server run the same tests.

A subclass gives `sink`, a client that may write. Every test uses a database of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from sluicegate.schemas import codec, records
from sluicegate.schemas.errors import Terminal
from sluicegate.sinks import ddl, tables
from sluicegate.sinks.ranges import Collector, Range
from sluicegate.sinks.rows import Record
from sluicegate.sinks.writer import Sink
from sluicegate.streams.inspect.decided import Decided
from sluicegate.streams.settings import Settings

from tests.driver import AGENT, LOG_ID, SESSION, Driver
from tests.ledger_records import Ledger, PlainOpener, log_id
from tests.unit import test_spend as spending

DAY_US = 24 * 3600 * 1_000_000
_numbers = itertools.count()


def one_range(ledger: list[Record], **more: Any) -> Range:
    """All of it, as one frozen range."""
    collector = Collector(log_id(), ledger[0].topic, ledger[0].partition, **more)
    for record in ledger:
        collector.add(record, 0.0)
    found = collector.take(float("inf"))
    assert found is not None
    assert len(found) == len(ledger)
    return found


class ClickHouseContract:
    """The contract."""

    @pytest.fixture
    def sink(self) -> Any:
        """A client that may write."""
        raise NotImplementedError

    @pytest.fixture
    def database(self, sink: Any) -> Iterator[str]:
        """A fresh database with the schema."""
        name = f"test-{next(_numbers)}"
        ddl.ensure_schema(sink, name)
        yield name
        sink.command(f"DROP DATABASE `{name}`")

    def rows(self, sink: Any, database: str, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in sink.query(query.format(d=f"`{database}`")).result_rows]

    def counts(self, sink: Any, database: str, table: str = "events") -> tuple[int, int]:
        """Rows, and different ones."""
        query = f"SELECT count(), uniqExact(log_id, src_topic, src_partition, seq) FROM {{d}}.{table}"
        return self.rows(sink, database, query)[0]  # type: ignore[return-value]

    # Tables.

    def test_the_schema_may_be_made_again(self, sink: Any, database: str) -> None:
        Sink(lambda: sink, database, None).write(one_range(Ledger().many(4)), True)
        ddl.ensure_schema(sink, database)
        assert self.counts(sink, database) == (4, 4)

    def test_every_column_is_as_described_and_explained(self, sink: Any, database: str) -> None:
        for table in tables.TABLES:
            found = self.rows(sink, database, f"DESCRIBE TABLE {{d}}.{table.name}")
            assert [row[0] for row in found] == [column.name for column in table.columns]
            assert all(row[4] for row in found), "a column without a comment"
        said = self.rows(
            sink, database, f"SELECT name, comment FROM system.tables WHERE database = '{database}'"
        )
        assert {name for name, _ in said} >= {
            "decisions",
            "intents",
            "refusals",
            "tool_failures",
            "latency",
            "events",
        }
        assert all(comment for _, comment in said), said

    def test_what_comes_out_is_what_went_in(self, sink: Any, database: str) -> None:
        ledger = Ledger()
        written = [ledger.genesis(), *ledger.many(30), *ledger.execution(1), ledger.noted(1)]
        Sink(lambda: sink, database, PlainOpener()).write(one_range(written), True)
        names = ", ".join(f"`{name}`" for name in tables.EVENTS.names)
        found = sink.query(
            f"SELECT {names} FROM `{database}`.events ORDER BY seq",
            query_formats={"FixedString": "bytes"},
            column_formats={"header": "bytes", "facts": "bytes", "digest": "bytes"},
        )
        rows = [dict(zip(tables.EVENTS.names, row, strict=True)) for row in found.result_rows]
        assert len(rows) == len(written)
        before = bytes(32)
        for record, row in zip(written, rows, strict=True):
            outcome = codec.decode_as(records.Outcome, record.value or b"")
            assert (row["header"], row["facts"], row["src_offset"]) == (
                outcome.header,
                outcome.facts,
                record.offset,
            )
            header = codec.decode(outcome.header)
            for name in codec.field_names(records.Header):
                value = row["src_partition" if name == "partition" else name]
                if name == "decided_at":
                    value = round(value.timestamp() * 1_000_000)
                assert value == getattr(header, name), name
            # The chain holds on what ClickHouse has.
            assert row["prev_hash"] == before
            before = row["header_hash"]
            assert before == sha256(b"\x00" + row["header"]).digest()
        assert rows[1]["tool"] == "tool-1"
        assert rows[1]["authenticated"] is True
        assert rows[2]["authenticated"] is None
        assert rows[2]["issued_at"] is None
        assert rows[-2]["result_bytes"] == 17

    # Once.

    def test_the_same_token_twice_is_once(self, sink: Any, database: str) -> None:
        writer = Sink(lambda: sink, database, PlainOpener())
        frozen = one_range([*Ledger().many(100)])
        for _ in range(3):
            writer.write(frozen, True)
        assert self.counts(sink, database) == (100, 100)
        assert self.counts(sink, database, "contents") == (25, 25)
        assert self.rows(sink, database, "SELECT count(), sum(n) FROM {d}.ingest_batches") == [(1, 100)]

    def test_one_insert_is_one_part(self, sink: Any, database: str) -> None:
        """Else a token would cover a range part by part."""
        Sink(lambda: sink, database, None).write(one_range(Ledger().many(9_000)), True)
        query = f"SELECT count(), sum(rows) FROM system.parts WHERE database = '{database}' AND table = 'events' AND active"
        assert self.rows(sink, database, query) == [(1, 9_000)]

    def test_another_partition_or_log_is_not_a_repetition(self, sink: Any, database: str) -> None:
        writer = Sink(lambda: sink, database, None)
        frozen = one_range(Ledger().many(8))
        other = Ledger(log_id("b")).many(8)
        collector = Collector(log_id("b"), "outcomes", 0)
        for record in other:
            collector.add(record, 0.0)
        another_log = collector.take(float("inf"))
        assert another_log is not None
        for one in (frozen, one_range(Ledger(partition=1).many(8)), another_log):
            writer.write(one, True)
        assert self.counts(sink, database) == (24, 24)

    def test_a_token_that_swallows_is_noticed(self, sink: Any, database: str) -> None:
        """ClickHouse knows the token, but the rows are not there: so it is after a kill between the two."""
        writer = Sink(lambda: sink, database, PlainOpener())
        frozen = one_range(Ledger().many(8))
        writer.write(frozen, True)
        sink.command(f"ALTER TABLE `{database}`.events DELETE WHERE 1 SETTINGS mutations_sync = 2")
        writer.write(frozen, True)
        assert self.counts(sink, database) == (0, 0), "the trap is gone: the token alone would do"
        writer.write(frozen, False)
        assert self.counts(sink, database) == (8, 8)
        writer.write(frozen, False)
        assert self.counts(sink, database) == (8, 8)

    def test_a_forgotten_token_does_not_double(self, sink: Any, database: str) -> None:
        sink.command(
            f"ALTER TABLE `{database}`.events MODIFY SETTING non_replicated_deduplication_window = 2"
        )
        writer = Sink(lambda: sink, database, None)
        ledger = Ledger()
        first = one_range(ledger.many(8))
        writer.write(first, True)
        for _ in range(4):
            writer.write(one_range(ledger.many(8), next_seq=ledger.seq - 8), True)
        writer.write(first, False)
        assert self.counts(sink, database) == (40, 40)
        # An old owner that was asleep all the time: the net under the tokens.
        sink.command(f"SYSTEM STOP MERGES `{database}`.events")
        writer.write(first, True)
        assert self.counts(sink, database) == (48, 40)
        assert self.rows(sink, database, "SELECT count() FROM {d}.events FINAL") == [(40,)]
        assert self.rows(sink, database, "SELECT count() FROM {d}.decisions") == [(40,)]
        sink.command(f"SYSTEM START MERGES `{database}`.events")
        sink.command(f"OPTIMIZE TABLE `{database}`.events FINAL")
        assert self.counts(sink, database) == (40, 40)

    def test_half_a_range_is_completed(self, sink: Any, database: str) -> None:
        writer = Sink(lambda: sink, database, None)
        whole = one_range(Ledger().many(20))
        writer.write(one_range(Ledger().many(8)), True)
        writer.write(whole, False)
        assert self.counts(sink, database) == (20, 20)

    def test_the_manifest_says_where_to_go_on(self, sink: Any, database: str) -> None:
        writer = Sink(lambda: sink, database, None)
        ledger = Ledger()
        assert writer.position(log_id(), "outcomes", 0).last_offset == -1
        first = ledger.many(8)
        writer.write(one_range(first), True)
        second = one_range(ledger.many(8), next_seq=8)
        writer._put_events(second, True)  # killed before the manifest
        at = writer.position(log_id(), "outcomes", 0)
        assert (at.last_seq, at.last_offset, at.rows_until) == (7, first[-1].offset, 15)
        assert writer.position(log_id("b"), "outcomes", 0).last_offset == -1
        assert writer.position(log_id(), "control", 0).last_offset == -1

    def test_rejects_are_kept_and_counted(self, sink: Any, database: str) -> None:
        ledger = Ledger()
        bad = [ledger.raw(b"\x00garbage" * 1_000), ledger.raw(None)]
        written = [*ledger.many(4), *bad]
        written.sort(key=lambda r: r.offset)
        Sink(lambda: sink, database, None).write(one_range(written), True)
        found = self.rows(
            sink,
            database,
            "SELECT reason, length, length(head), hex(sha256) FROM {d}.ingest_rejects ORDER BY length",
        )
        assert [row[:3] for row in found] == [("not_avro", 0, 0), ("not_avro", 8_000, 4_096)]
        assert found[1][3] == sha256(b"\x00garbage" * 1_000).hexdigest().upper()
        assert self.rows(sink, database, "SELECT n, rejects FROM {d}.ingest_batches") == [(4, 2)]

    # Audit and rebuild.

    def audit(self, sink: Any, database: str) -> list[tuple[Any, ...]]:
        return self.rows(
            sink,
            database,
            "SELECT first_seq, found = expected, same_hash FROM {d}.ingest_audit ORDER BY first_seq",
        )

    def test_the_audit_sees_a_row_that_is_gone_or_changed(self, sink: Any, database: str) -> None:
        writer, ledger = Sink(lambda: sink, database, None), Ledger()
        for _ in range(3):
            writer.write(one_range(ledger.many(8), next_seq=ledger.seq - 8 if ledger.seq > 8 else 0), True)
        assert self.audit(sink, database) == [(0, 1, 1), (8, 1, 1), (16, 1, 1)]
        sink.command(f"ALTER TABLE `{database}`.events DELETE WHERE seq = 9 SETTINGS mutations_sync = 2")
        assert self.audit(sink, database) == [(0, 1, 1), (8, 0, 0), (16, 1, 1)]
        change = f"ALTER TABLE `{database}`.events UPDATE header_hash = toFixedString('x', 32) WHERE seq = 17"
        sink.command(change + " SETTINGS mutations_sync = 2")
        assert self.audit(sink, database) == [(0, 1, 1), (8, 0, 0), (16, 1, 0)]

    def test_a_rebuild_swallows_nothing(self, sink: Any, database: str) -> None:
        frozen = one_range(Ledger().many(40))
        Sink(lambda: sink, database, PlainOpener()).write(frozen, True)
        sink.command(f"ALTER TABLE `{database}`.events DELETE WHERE seq > 10 SETTINGS mutations_sync = 2")
        ddl.begin_rebuild(sink, database)
        Sink(lambda: sink, database, None, ddl.REBUILD).write(
            one_range(Ledger().many(8)), True
        )  # and given up
        for _ in range(2):
            ddl.begin_rebuild(sink, database)
            Sink(lambda: sink, database, PlainOpener(), ddl.REBUILD).write(frozen, True)
            assert self.counts(sink, database) != (0, 0), "the live table answers meanwhile"
            ddl.finish_rebuild(sink, database)
            assert self.counts(sink, database) == (40, 40)
            assert self.counts(sink, database, "contents") == (10, 10)
        assert self.audit(sink, database) == [(0, 1, 1)]
        # The sink goes on in the rebuilt tables, and the tokens of the rebuild hold there.
        Sink(lambda: sink, database, PlainOpener()).write(frozen, True)
        assert self.counts(sink, database) == (40, 40)

    # Views.

    def story(self, sink: Any, database: str) -> None:
        """Intent 1 released, 2 refused, 3 failed, 4 dispatched, 5 only routed; duplicates noted, a message heard."""
        ledger = Ledger()
        written = [ledger.genesis(), *ledger.intent(1), *ledger.intent(2, refused=True), *ledger.intent(3)]
        written += [
            *ledger.execution(1),
            *ledger.execution(3, "timeout"),
            *ledger.intent(4),
            *ledger.intent(5)[:1],
        ]
        written += [ledger.noted(1), ledger.noted(2), ledger.noted(2), ledger.noted(4), ledger.heard(1)]
        # `intent(5)` wrote four records, three of which are left out here: the noted ones follow a gap.
        frozen = [one_range(written[:-5]), one_range(written[-5:], next_seq=ledger.seq - 5)]
        for one in frozen:
            Sink(lambda: sink, database, None).write(one, True)

    def test_intents(self, sink: Any, database: str) -> None:
        self.story(sink, database)
        query = "SELECT intent_id, state, life, last_reason, tool, error_class, attached FROM {d}.intents ORDER BY intent_id"
        assert self.rows(sink, database, query) == [
            ("intent-1", "released", "executed", "", "tool-1", "", 1),
            ("intent-2", "refused", "decided", "no_permit", "tool-2", "", 2),
            ("intent-3", "failed", "executed", "timeout", "tool-3", "timeout", 0),
            ("intent-4", "dispatched", "open", "", "tool-4", "", 1),
            ("intent-5", "routed", "passing", "", "tool-5", "", 0),
        ]

    def test_when_the_newest_answer_was_decided(self, sink: Any, database: str) -> None:
        """What the gateway asks, so that it need not read a day of replies."""
        self.story(sink, database)
        asks = Decided(Settings())
        asks._client, asks._database = sink, database
        query = "SELECT agent_id, toInt64(max(toUnixTimestamp64Micro(decided_at))) FROM {d}.events WHERE intent_id = 'intent-1' AND status = 'released' GROUP BY 1"
        [(agent, at)] = self.rows(sink, database, query)
        assert asks._ask(agent, "intent-1") == at
        assert asks._ask(agent, "intent-4") is None  # under way
        assert asks._ask("somebody else", "intent-1") is None

    def test_decisions_refusals_and_failures(self, sink: Any, database: str) -> None:
        self.story(sink, database)
        query = "SELECT stage, status FROM {d}.decisions WHERE intent_id = 'intent-3' ORDER BY seq"
        assert self.rows(sink, database, query) == [
            ("route", "routed"),
            ("authorize", "permitted"),
            ("validate", "validated"),
            ("plan", "dispatched"),
            ("execute", "claimed"),
            ("execute", "failed"),
        ]
        refused = self.rows(
            sink, database, "SELECT intent_id, tool, stage, reason, policies, detail FROM {d}.refusals"
        )
        assert refused == [
            ("intent-2", "tool-2", "authorize", "no_permit", ["deny-all"], "nearest policy `payments`")
        ]
        failed = self.rows(
            sink, database, "SELECT intent_id, tool, error_class, call_ms FROM {d}.tool_failures"
        )
        assert failed == [("intent-3", "tool-3", "timeout", 20.0)]

    def test_latency(self, sink: Any, database: str) -> None:
        self.story(sink, database)
        hops = "to_decision_ms, to_dispatch_ms, to_claim_ms, to_finish_ms, to_end_ms, total_ms"
        query = f"SELECT intent_id, {hops} FROM {{d}}.latency ORDER BY intent_id"
        found = {row[0]: row[1:] for row in self.rows(sink, database, query)}
        # Of intent 1: issued 4 ms before its decision, claimed when 2 and 3 had been decided, then 20 ms of work.
        assert found["intent-1"] == (4.0, 0.0, 3.0, 20.0, 0.0, 27.0)
        assert found["intent-2"] == (4.0, None, None, None, None, 4.0)
        assert found["intent-4"] == (4.0, 0.0, None, None, None, None)
        assert "message-1" not in found, "a message is no intent"
        under = "SELECT count() FROM {d}.latency AS l INNER JOIN {d}.intents AS i USING (agent_id, intent_id, release)"
        assert self.rows(sink, database, under) == [(len(found),)]
        quantiles = (
            "SELECT hop, n, p50_ms, p99_ms FROM {d}.latency_quantiles WHERE tool = 'tool-1' ORDER BY hop"
        )
        assert ("finish", 1, 20.0, 20.0) in self.rows(sink, database, quantiles)

    def test_the_view_of_approvals_is_what_became_of_held_calls(self, sink: Any, database: str) -> None:
        d = Driver()
        d.open_session()
        held = {name: d.call("desk.wire", {"value": name}) for name in ("yes", "no", "late", "open", "edit")}
        d.call("desk.pay", {"value": "never held"})
        for person in ("person-2", "person-3"):
            d.review(held["yes"], person=person)
        d.review(held["yes"], person="person-4")  # late
        d.review(held["no"], "reject", person="person-3")
        edited = d.review(held["edit"], arguments=b'{"value":"less"}')
        d.review(held["edit"], person="person-3")  # of what it was
        d.review(edited, person="person-3")
        d.now += 4 * 3_600_000_000
        still = d.call("desk.ask", {"value": "open"})
        while d.tick(10_000_000).outcomes:
            pass
        d.control_event("agent.suspended", agent_id=AGENT)
        d.review(still)
        collector = Collector(LOG_ID, "outcomes", 0)
        for offset, value in d.records:
            collector.add(Record("outcomes", 0, offset, value), 0.0)
        frozen = collector.take(float("inf"))
        assert frozen is not None
        for _ in range(2):  # the same rows again are no other rows
            Sink(lambda: sink, database, None).write(frozen, True)
        names = {held[n].outcomes[0].origin.intent_id: n for n in held}
        names[still.outcomes[0].origin.intent_id] = "still"
        query = "SELECT intent_id, decision, agreed, last_reviewer, was_edited, times_asked, void_reviews, round(waited_s) FROM {d}.approvals"
        found = {names[row[0]]: row[1:] for row in self.rows(sink, database, query)}
        both = ["person-2", "person-3"]
        assert {name: row[:6] for name, row in found.items()} == {
            "yes": ("approved", both, "person-3", 0, 1, 1),
            "no": ("rejected", [], "person-3", 0, 1, 0),
            "edit": ("approved", both, "person-3", 1, 1, 1),
            "late": ("expired", [], "", 0, 1, 0),
            "open": ("expired", [], "", 0, 1, 0),
            "still": ("refused", ["person-2"], "person-2", 0, 1, 0),
        }
        assert found["yes"][6] == 0 and 4 * 3_600 <= found["late"][6] < 5 * 3_600
        query = (
            "SELECT tool, quorum, reviewers, policies FROM {d}.approvals WHERE decision = 'expired' LIMIT 1"
        )
        assert self.rows(sink, database, query) == [("desk.wire", 2, ["desk", "treasury"], ["desk-wire"])]

    def test_contents_can_be_read(self, sink: Any, database: str) -> None:
        ledger = Ledger()
        Sink(lambda: sink, database, PlainOpener()).write(
            one_range([*ledger.intent(1), *ledger.execution(1)]), True
        )
        query = "SELECT record, JSONExtractString(content, 'arguments', 'to'), JSONExtractBool(content, 'result', 'ok') FROM {d}.contents ORDER BY seq"
        assert self.rows(sink, database, query) == [("intent", "x", 0), ("receipt", "", 1)]

    def test_a_month_is_cut_before_it_is_inserted(self, sink: Any, database: str) -> None:
        ledger = Ledger()
        first = ledger.many(4)
        ledger.now += 31 * DAY_US
        collector = Collector(log_id(), "outcomes", 0)
        for record in first + ledger.many(4):
            collector.add(record, 0.0)
        while (frozen := collector.take(float("inf"))) is not None:
            Sink(lambda: sink, database, None).write(frozen, True)
        query = f"SELECT partition, rows FROM system.parts WHERE database = '{database}' AND table = 'events' AND active ORDER BY 1"
        assert self.rows(sink, database, query) == [("202611", 4), ("202612", 4)]

    def test_a_name_that_cannot_be_a_database_is_refused(self, sink: Any) -> None:
        with pytest.raises(Terminal, match="cannot be a database"):
            ddl.ensure_schema(sink, "x`; DROP DATABASE y")

    def test_the_view_of_spend_adds_up_what_was_reported(self, sink: Any, database: str) -> None:
        d = spending.driver()
        spending.traffic(d)
        for topic, written in (("outcomes", d.records), ("control", d.control_records)):
            collector = Collector(LOG_ID, topic, 0)
            for offset, value in written:
                collector.add(Record(topic, 0, offset, value), 0.0)
            frozen = collector.take(float("inf"))
            assert frozen is not None
            for _ in range(2):  # the same rows again are no other rows
                Sink(lambda: sink, database, None).write(frozen, True)
        query = (
            "SELECT team, agent_id, tool, candidate, model, calls, tokens, micros, calls_without_money "
            "FROM {d}.spend ORDER BY tool, candidate"
        )
        assert self.rows(sink, database, query) == spending.SPENT
        assert self.rows(
            sink, database, "SELECT countIf(round(money * 1000000) != micros) FROM {d}.spend"
        ) == [(0,)]
        hours = "SELECT DISTINCT hour = toStartOfHour(hour), session_id, tenant, release FROM {d}.spend"
        assert self.rows(sink, database, hours) == [
            (1, SESSION, d.control.agents[AGENT].tenant, d.control.deployed)
        ]

    def test_a_table_of_an_earlier_version_gets_its_columns(self, sink: Any, database: str) -> None:
        writer = Sink(lambda: sink, database, None)
        ledger = Ledger()
        writer.write(one_range(ledger.many(8)), True)
        for view in ("spend",):
            sink.command(f"DROP VIEW `{database}`.{view}")
        sink.command(f"ALTER TABLE `{database}`.events DROP COLUMN money, DROP COLUMN model")
        for _ in range(2):
            ddl.ensure_schema(sink, database)
        found = [row[0] for row in self.rows(sink, database, "DESCRIBE TABLE {d}.events")]
        assert found == [column.name for column in tables.EVENTS.columns]
        writer.write(one_range(ledger.many(8), next_seq=8), True)
        assert self.counts(sink, database) == (16, 16)
        assert self.rows(sink, database, "SELECT count(money) FROM {d}.events") == [(0,)]
