"""The sink without Kafka and without ClickHouse: freeze rules, crashes at every step, rejects, backing off."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from sluicegate.schemas import codec, records
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.topics import TOPICS
from sluicegate.sinks import clickhouse, contents, facts, native, ranges, rows, tables, writer
from sluicegate.sinks.block import TYPES, Block
from sluicegate.sinks.ranges import Collector, Frozen, Range
from sluicegate.sinks.rows import Record

from tests.fake_clickhouse import Down, FakeClickHouse, FakePartition, Killed, Run, read_block
from tests.ledger_records import Ledger, log_id

MONTH_US = 31 * 24 * 3600 * 1_000_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ranges of 20 rows, no waiting."""
    monkeypatch.setattr(ranges, "RANGE_ROWS", 20)
    monkeypatch.setattr(ranges, "QUIET_S", 0.0)
    monkeypatch.setattr(ranges, "RANGE_EVERY_S", 0.0)
    monkeypatch.setattr(clickhouse, "BACKOFF_MIN_S", 0.001)
    monkeypatch.setattr(clickhouse, "BACKOFF_MAX_S", 0.002)
    return


def collector(**more: object) -> Collector:
    return Collector(log_id(), "outcomes", 0, **more)  # type: ignore[arg-type]


def cut(collected: Collector, ledger: list[Record], now: float = 0.0) -> list[Range]:
    """All ranges, the last one by waiting."""
    found = []
    for record in ledger:
        collected.add(record, now)
        while collected._ready:
            found.append(collected._ready.popleft())
    if (last := collected.take(float("inf"))) is not None:
        found.append(last)
    return found


def check(server: FakeClickHouse, ledger: list[Record]) -> None:
    """Every record is there once, and the manifest covers all of it, in order, without a hole."""
    good = [item for item in map(rows.row, ledger) if not isinstance(item, rows.Reject)]
    wanted = {(item[0][rows.LOG_ID], item[0][rows.PARTITION], item[0][rows.SEQ]): 1 for item in good}
    assert dict(server.counted()) == wanted
    with_content = {
        (i[0][rows.LOG_ID], i[0][rows.PARTITION], i[0][rows.SEQ]): 1 for i in good if i[-1] is not None
    }
    assert dict(server.counted("contents")) == with_content
    # INVARIANT: the tool of a call is on each of its outcomes, whoever wrote them (every test here).
    for row in server.tables["events"]:
        number = row["intent_id"].rpartition(b"-")[2]
        assert row["call_tool"] == (b"tool-%d" % (int(number) % 7) if number else b""), row["seq"]
    manifest = sorted(server.tables["ingest_batches"], key=lambda r: (r["log_id"], r["first_offset"]))
    assert sum(r["n"] + r["rejects"] for r in manifest) == len(ledger)
    assert len(server.tables.get("ingest_rejects", [])) == len(ledger) - len(good)
    for before, after in pairwise(r for r in manifest if r["n"]):
        assert before["log_id"] != after["log_id"] or after["first_seq"] == before["last_seq"] + 1
    by_place = {(r["log_id"], r["seq"]): r["header_hash"] for r in server.tables["events"]}
    for line in manifest:
        hashes = [by_place[line["log_id"], seq] for seq in range(line["first_seq"], line["last_seq"] + 1)]
        assert line["sha256"] == sha256(b"".join(hashes)).digest()
    assert not any(r["offset"] < 0 for r in server.tables.get("ingest_rejects", []))


# Step 1: what a range is.


def test_a_range_is_full_at_its_number_of_rows() -> None:
    found = cut(collector(), Ledger().many(50))
    assert [r.n for r in found] == [20, 20, 12]
    assert [(r.first_seq, r.last_seq) for r in found] == [(0, 19), (20, 39), (40, 51)]
    assert found[0].token == f"{log_id().hex()}:outcomes:0:0-19"


def test_a_range_is_full_at_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger().many(12)
    monkeypatch.setattr(ranges, "RANGE_BYTES", sum(len(r.value or b"") for r in ledger[:3]))
    assert next(r.n for r in cut(collector(), ledger)) == 3


def test_a_lone_record_waits_and_then_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "QUIET_S", 0.25)
    monkeypatch.setattr(ranges, "RANGE_EVERY_S", 1.0)
    ledger, collected = Ledger(), collector()
    assert collected.due() == float("inf")
    collected.add(ledger.genesis(), 100.0)
    assert collected.take(100.2) is None
    assert collected.take(100.25) is not None
    collected.add(ledger.noted(1), 100.3)
    assert collected.take(101.2) is None, "two small ranges within a second"
    assert collected.take(101.25) is not None
    assert len(collected) == 0


def test_a_range_ends_with_the_month() -> None:
    ledger = Ledger()
    first = ledger.many(4)
    ledger.now += MONTH_US
    assert [r.n for r in cut(collector(), first + ledger.many(4))] == [4, 4]


def test_a_gap_ends_a_range_and_is_counted() -> None:
    ledger = Ledger().many(12)
    collected = collector()
    found = cut(collected, ledger[:4] + ledger[6:])
    assert [(r.first_seq, r.last_seq) for r in found] == [(0, 3), (6, 11)]
    assert collected.gaps == 1


def test_a_repeated_seq_and_another_log_are_rejects() -> None:
    ledger, other = Ledger(holes=False), Ledger(log_id("b"))
    good = ledger.many(4)
    again = Record("outcomes", 0, 4, good[1].value)
    strange = Record("outcomes", 0, 5, other.genesis().value)
    (found,) = cut(collector(), [*good, again, strange])
    assert found.n == 4
    assert [r.reason for r in found.rejects] == ["seq_repeated", "wrong_log"]
    assert len(found) == 6
    assert (found.first_offset, found.last_offset) == (0, 5)


def test_a_range_of_rejects_only_has_a_place_of_its_own() -> None:
    ledger = Ledger()
    (found,) = cut(collector(next_seq=7), [ledger.raw(b"x"), ledger.raw(None)])
    assert (found.n, found.first_seq, found.last_seq) == (0, 7, 6)
    assert found.token.endswith(":offset:0-1")


def test_a_frozen_range_is_cut_as_it_was() -> None:
    ledger = Ledger(holes=False).many(60)
    for first, last in ((0, 6), (10, 33), (5, 5)):
        found = cut(collector(frozen=Frozen(first, last)), ledger)
        assert (first, last) in [(r.first_seq, r.last_seq) for r in found]
        assert [seq for r in found for seq in range(r.first_seq, r.last_seq + 1)] == list(range(60))


def test_a_frozen_range_is_not_cut_by_waiting() -> None:
    collected = collector(frozen=Frozen(0, 5))
    for record in Ledger(holes=False).many(8)[:5]:
        collected.add(record, 0.0)
    assert collected.take(1e9) is None


def test_a_frozen_range_whose_end_is_gone_does_not_hold_up() -> None:
    ledger = Ledger(holes=False).many(12)
    found = cut(collector(frozen=Frozen(2, 5)), [r for r in ledger if r.offset not in (4, 5)])
    assert [(r.first_seq, r.last_seq) for r in found] == [(0, 1), (2, 3), (6, 11)]


def test_what_is_written_down_is_read_back() -> None:
    (found,) = cut(collector(), Ledger().many(4))
    assert Frozen.parse(found.metadata(), log_id()) == Frozen(0, 3)
    assert Frozen.parse(found.metadata(), log_id("b")) is None
    for text in ("", "{}", "[2]", "null", '"x"', "[1, 2]"):
        assert Frozen.parse(text, log_id()) is None


# Crashes.

POINTS = [
    *(f"{when} {step}" for step in ("freeze", "done") for when in ("before", "after")),
    *(
        f"{when} {table}"
        for table in ("events", "contents", "ingest_rejects", "ingest_batches")
        for when in ("before", "half", "after")
    ),
]


def killed_at(point: str, nth: int, kafka: FakePartition, server: FakeClickHouse) -> Callable[[], None]:
    """Be killed the nth time a point is passed; returns what disarms it."""
    left = nth
    lock = threading.Lock()

    def fault(passed: str) -> None:
        nonlocal left
        with lock:
            if passed == point:
                left -= 1
                if left == 0:
                    raise Killed(point)

    def disarm() -> None:
        kafka.fault = server.fault = lambda passed: None

    kafka.fault = server.fault = fault
    return disarm


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_every_record_is_there_once(point: str, nth: int) -> None:
    ledger = Ledger()
    written = [ledger.genesis(), *ledger.many(30), ledger.raw(b"garbage"), *ledger.many(30)]
    kafka, server = FakePartition(written), FakeClickHouse()
    disarm = killed_at(point, nth, kafka, server)
    died = False
    try:
        # Steps of 7: ranges are cut otherwise in each life.
        asyncio.run(Run(kafka, server, at_once=7).to_the_end())
    except Killed:
        died = True
    assert died or nth > 1, f"`{point}` was never passed"
    disarm()
    asyncio.run(Run(kafka, server, at_once=11).to_the_end())
    check(server, written)


def test_killed_again_and_again() -> None:
    written = Ledger().many(100)
    kafka, server = FakePartition(written), FakeClickHouse()
    for point in POINTS * 2:
        disarm = killed_at(point, 1, kafka, server)
        try:
            asyncio.run(Run(kafka, server, at_once=5).to_the_end())
        except Killed:
            pass
        disarm()
    asyncio.run(Run(kafka, server).to_the_end())
    check(server, written)


@pytest.mark.parametrize("point", ["half ingest_rejects", "after ingest_rejects"])
def test_killed_in_a_range_of_rejects_only(point: str) -> None:
    ledger = Ledger()
    good = ledger.many(4)
    written = [*good, *(ledger.raw(b"garbage %d" % n) for n in range(5))]
    kafka, server = FakePartition(written[:4]), FakeClickHouse()
    asyncio.run(Run(kafka, server).to_the_end())
    kafka.records = written
    disarm = killed_at(point, 1, kafka, server)
    with pytest.raises(Killed):
        asyncio.run(Run(kafka, server).to_the_end())
    disarm()
    asyncio.run(Run(kafka, server).to_the_end())
    check(server, written)


def test_offsets_lost_and_cut_otherwise_rows_are_recognised_by_seq() -> None:
    written = Ledger().many(60)
    kafka, server = FakePartition(written), FakeClickHouse()
    disarm = killed_at("after events", 2, kafka, server)
    with pytest.raises(Killed):
        asyncio.run(Run(kafka, server, at_once=7).to_the_end())
    disarm()
    kafka.committed = (0, "")  # the group was idle for a week, and Kafka forgot it
    asyncio.run(Run(kafka, server, at_once=13).to_the_end())
    check(server, written)


def test_an_old_owner_that_wakes_up_changes_nothing() -> None:
    written = Ledger().many(20)
    kafka, server = FakePartition(written), FakeClickHouse()
    old = Run(kafka, server)
    (frozen,) = cut(collector(), written)
    asyncio.run(old.source.commit(frozen.first_offset, frozen.metadata()))
    asyncio.run(Run(kafka, server, at_once=3).to_the_end())  # takes the partition over
    check(server, written)
    old._sink.write(frozen, True)  # its insert was on the way all the time
    check(server, written)
    with pytest.raises(Down):
        asyncio.run(old.source.commit(frozen.last_offset + 1, ""))


def test_who_cannot_commit_does_not_insert() -> None:
    kafka, server = FakePartition(Ledger().many(40)), FakeClickHouse()
    run = Run(kafka, server)
    kafka.owner = object()
    asyncio.run(run.until(lambda: run.counters.retries >= 5))
    assert server.tables == {}
    assert "another generation" in run.counters.errors["partition `outcomes/0`"]


def test_broker_wiped_clickhouse_kept() -> None:
    server = FakeClickHouse()
    before, after = Ledger(log_id("a")).many(30), Ledger(log_id("b")).many(30)
    for written in (before, after):
        asyncio.run(Run(FakePartition(written), server).to_the_end())
    assert len(server.counted()) == len(before) + len(after)
    assert set(server.counted().values()) == {1}


def test_clickhouse_wiped_broker_kept() -> None:
    written = Ledger().many(60)
    kafka = FakePartition(written)
    asyncio.run(Run(kafka, FakeClickHouse(), at_once=9).to_the_end())
    server = FakeClickHouse()
    asyncio.run(Run(kafka, server).to_the_end())
    check(server, written)


# ClickHouse away, and ClickHouse wrong.


def test_clickhouse_down_is_lag_with_bounded_memory() -> None:
    written = Ledger().many(400)
    kafka, server = FakePartition(written), FakeClickHouse()

    def down(point: str) -> None:
        if point != "query":
            raise Down("connection refused")

    server.fault = down
    run = Run(kafka, server, at_once=10)
    asyncio.run(run.until(lambda: run.counters.retries >= 20))
    assert run.source.fetched <= 3 * ranges.RANGE_ROWS + 2 * 10, "more was read than three ranges"
    assert run.projection.lag >= len(written) - 10, "what is held counts as lag"
    assert "connection refused" in run.counters.errors["partition `outcomes/0`"]
    server.fault = lambda point: None
    run = Run(kafka, server)
    asyncio.run(run.to_the_end())
    check(server, written)
    assert run.counters.errors == {}
    assert run.counters.rows == len(written)


def test_attempts_are_further_and_further_apart_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse, "BACKOFF_MIN_S", 0.2)
    monkeypatch.setattr(clickhouse, "BACKOFF_MAX_S", 15.0)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(clickhouse.asyncio, "sleep", sleep)
    counters = clickhouse.Counters()

    async def work() -> str:
        if len(waits) < 9:
            raise Down("refused")
        return "done"

    assert asyncio.run(clickhouse.retrying(work, counters, "it")) == "done"
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0]
    assert (counters.retries, counters.errors) == (9, {})


def test_an_insert_that_was_done_but_not_answered_is_not_repeated() -> None:
    written = Ledger().many(20)
    kafka, server = FakePartition(written), FakeClickHouse()
    cuts = iter([True, True])

    def cut_off(point: str) -> None:
        if point == "after events" and next(cuts, False):
            raise Down("the connection was cut")

    server.fault = cut_off
    run = Run(kafka, server)
    asyncio.run(run.to_the_end())
    check(server, written)
    assert run.counters.retries == 1, "the second attempt sees the rows and inserts nothing"


def test_rows_that_never_appear_are_an_alarm_not_a_silence() -> None:
    """Somebody deletes what is inserted: the range must not count as there."""
    server = FakeClickHouse()
    (frozen,) = cut(collector(), Ledger().many(4))
    sink = writer.Sink(lambda: server, "test", None)

    def thief(point: str) -> None:
        if point == "after events":
            server.tables["events"].clear()

    server.fault = thief
    with pytest.raises(Terminal, match="do not appear"):
        sink.write(frozen, False)
    assert "ingest_batches" not in server.tables


def test_every_setting_that_decides_about_repetition_is_explicit() -> None:
    server = FakeClickHouse()
    (frozen,) = cut(collector(), Ledger().many(4))
    writer.Sink(lambda: server, "test", None).write(frozen, True)
    for settings in server.settings:
        assert settings["insert_deduplicate"] == "1"
        assert settings["async_insert"] == "0"
        assert settings["deduplicate_blocks_in_dependent_materialized_views"] == "1"
        assert int(settings["max_insert_block_size"]) > ranges.RANGE_ROWS
        assert settings["insert_deduplication_token"].startswith(frozen.token)
    assert len({s["insert_deduplication_token"] for s in server.settings}) == len(server.settings)


# Contents.


def test_contents_are_those_that_can_be_opened() -> None:
    ledger = Ledger()
    written = ledger.many(80)
    kafka, server = FakePartition(written), FakeClickHouse()
    run = Run(kafka, server)
    run.opener.erased = {"person-0"}
    asyncio.run(run.to_the_end())
    found = server.tables["contents"]
    assert found, "nothing was opened"
    assert {r["subject"] for r in found} == {f"person-{n}".encode() for n in range(1, 20)}
    assert {r["record"] for r in found} == {b"intent"}
    assert all(json.loads(r["content"])["arguments"] == {"to": "x"} for r in found)
    assert sum(r["contents"] for r in server.tables["ingest_batches"]) == len(found)


@pytest.mark.parametrize(
    ("plain", "record", "text"),
    [
        (b"plain words \xc3\xa9", "", b"plain words \xc3\xa9"),
        (b'{"a":1}', "", b'{"a":1}'),
        (b"\xff\xfe", "", b"fffe"),
        (
            codec.SCHEMAS["intent"].prefix + b"\x02",
            "",
            (codec.SCHEMAS["intent"].prefix + b"\x02").hex().encode(),
        ),
        (b"", "", b""),
    ],
)
def test_content_that_is_no_record_stays_a_text(plain: bytes, record: str, text: bytes) -> None:
    assert contents.readable(plain) == (record.encode(), text, b"")


def test_content_that_is_a_record_becomes_json() -> None:
    asked = records.Intent(
        "i", "a", "s", "tool_call", "pay", b'{"to":"x","n":1}', 7, None, "goal", ["e1"], ""
    )
    name, text, shape = contents.readable(codec.encode(asked))
    assert shape == b"n:number,to:string"
    wanted = {"intent_id": "i", "agent_id": "a", "session_id": "s", "kind": "tool_call", "tool": "pay"}
    wanted |= {"arguments": {"to": "x", "n": 1}, "issued_at": 7, "deadline_at": None, "goal": "goal"}
    assert (name, json.loads(text)) == (
        b"intent",
        {**wanted, "derived_from": ["e1"], "traceparent": "", "request": "", "arguments_ref": None},
    )
    asked.arguments = b"{not json"
    assert json.loads(contents.readable(codec.encode(asked))[1])["arguments"] == b"{not json".hex()
    signed = records.Envelope("key-1", "ed25519", "dev", 1, 2, codec.encode(asked), bytes(64))
    name, text, shape = contents.readable(codec.encode(signed))
    assert shape == b"not json"
    assert (name, json.loads(text)["signed_by"], json.loads(text)["tool"]) == (b"intent", "key-1", "pay")


def test_a_persons_word_and_what_is_handed_on_become_json_too() -> None:
    said = records.Resolution("r", "a", "i", "happened", "person-1", 5, "the bank says so", b'{"ok":true}')
    name, text, _ = contents.readable(codec.encode(said))
    told = json.loads(text)
    assert (name, told["verdict"], told["why"], told["result"]) == (
        b"resolution",
        "happened",
        "the bank says so",
        {"ok": True},
    )
    assert contents._READERS.keys() >= {
        schema.prefix
        for name, schema in codec.SCHEMAS.items()
        if name in {kind for topic in TOPICS for kind, _ in topic.accepts} - {"exchange"}
    }


def test_without_an_opener_there_are_no_contents() -> None:
    server = FakeClickHouse()
    (frozen,) = cut(collector(), Ledger().many(4))
    writer.Sink(lambda: server, "test", None).write(frozen, True)
    assert "contents" not in server.tables


# Rows.


def block_of(written: list[Record]) -> tuple[Block, dict[str, list[Any]]]:
    """The columns that are sent."""
    block = Block("outcomes")
    for record in written:
        item = rows.row(record)
        assert not isinstance(item, rows.Reject)
        block.append(item)
    return block, {name: list(values) for name, values in read_block(block.finish()[0]).items()}


def test_a_row_has_a_value_for_every_column() -> None:
    ledger = Ledger()
    block, columns = block_of([ledger.genesis(), *ledger.many(300), *ledger.execution(1, "timeout")])
    assert list(columns) == [name for name in tables.EVENTS.names if name in columns]
    assert {len(column) for column in columns.values()} == {303}
    assert columns["seq"] == list(range(303))
    assert columns["tool"][:2] == [b"", b"tool-1"]
    assert columns["error_class"] == [b""] * 302 + [b"timeout"]
    assert columns["facts_type"][-2:] == [b"claim_facts", b"result_facts"]
    assert len(block.sealed) == 76


def test_a_column_is_left_out_only_where_every_row_has_its_default() -> None:
    """And the default is what ClickHouse fills in: empty, zero, NULL; never false, which is not NULL."""
    _, columns = block_of([*Ledger().many(12), *Ledger(seq=12).execution(1, "timeout")])
    left_out = {"who", "why", "body", "caused_by", "approvals", "edited"}
    assert set(tables.EVENTS.names) - columns.keys() >= left_out
    assert columns["control_stale"].count(False) == 3, "false is said"
    assert columns["attempt"].count(1) == 5
    for name, default in facts.DEFAULTS.items():
        zero = native.column(TYPES[name]).zero
        assert (zero, type(zero)) == (default, type(default)), name


def test_header_columns_are_the_header_in_its_order() -> None:
    names = ["src_partition" if n == "partition" else n for n in codec.field_names(records.Header)]
    assert tables.EVENTS.names[2 : 2 + len(names)] == names


def test_facts_columns_are_the_facts() -> None:
    assert tables.EVENTS.names[-len(facts.DEFAULTS) :] == list(facts.DEFAULTS)
    for name in codec.NAMES:
        if name.endswith("_facts"):
            for field in codec.field_names(codec.SCHEMAS[name].cls):
                known = facts.RENAMED.get((name, field), field) in facts.DEFAULTS
                assert known or (name, field) in facts.ONLY_IN_BYTES, f"`{name}.{field}` has no column"


def test_facts_of_an_unknown_schema_still_make_a_row() -> None:
    ledger = Ledger()
    record = ledger.noted(1)
    outcome = codec.decode_as(records.Outcome, record.value or b"")
    for raw in (b"\xc3\x01newer...rest", b"", codec.encode(records.StageFacts("x"))[:-1]):
        item = rows.row(Record("outcomes", 0, 0, codec.encode(records.Outcome(outcome.header, raw, None))))
        assert not isinstance(item, rows.Reject)
        assert item[4:7] == (raw, 0, ())
    record = Record("outcomes", 0, 0, codec.encode(records.Outcome(outcome.header, b"", None)))
    assert "facts_type" not in block_of([record])[1]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "not_avro"),
        (b"", "not_avro"),
        (b"garbage", "not_avro"),
        (codec.encode(records.StageFacts("x")), "unexpected_type"),
        (codec.encode(records.Outcome(b"x", b"y")), "unknown_schema"),
        (codec.encode(records.Outcome(b"x", b"y"))[:-1], "malformed_record"),
        (codec.encode(records.Outcome(codec.SCHEMAS["header"].prefix + b"\x02", b"")), "malformed_record"),
    ],
)
def test_what_cannot_be_read_is_a_reject(value: bytes | None, reason: str) -> None:
    found = rows.row(Record("outcomes", 0, 9, value))
    assert isinstance(found, rows.Reject)
    assert (found.reason, found.offset, found.value) == (reason, 9, value or b"")


def test_a_record_on_another_partition_than_its_header_says_is_a_reject() -> None:
    found = rows.row(Record("outcomes", 1, 0, Ledger(partition=0).genesis().value))
    assert isinstance(found, rows.Reject)
    assert found.reason == "misrouted"
