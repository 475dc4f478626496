"""`ledger verify`'s pure half: a sound ledger passes; every kind of damage is found and named rightly.

`forge` plays the clever forger: it rewrites the ledger so that chain, ids and hashes fit again, and only what the
record means is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from sluicegate.processors import lifecycle
from sluicegate.processors.verify import reading, reading_facts
from sluicegate.processors.verify.control import ControlChecker
from sluicegate.processors.verify.invariants import INVARIANTS
from sluicegate.processors.verify.partition import PartitionChecker
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.streams.commands.ledger import place_of

from tests.driver import Driver, Event, Record, read, release
from tests.forging import forge, where, with_header


@dataclass
class Found:
    """What a verification found."""

    names: set[str]
    checker: PartitionChecker
    counts: dict[str, object]

    def first(self, name: str) -> tuple[int, int]:
        """Position of the first violation."""
        violation = self.checker.findings.first[name]
        assert violation.sentence and violation.invariant in INVARIANTS
        return violation.seq, violation.offset


def verify(driver: Driver, records: list[Record] | None = None) -> Found:
    """Run both checkers."""
    control = ControlChecker(driver.rules)
    for record in driver.control_records:
        control.add(*record)
    assert not control.findings.counts
    checker = PartitionChecker(driver.partition, control.controls)
    for record in driver.records if records is None else records:
        checker.add(*record)
    counts = checker.close()
    return Found(set(checker.findings.counts), checker, counts)


@pytest.fixture
def driver() -> Driver:
    """A ledger with a bit of everything, and a second release half way."""
    made = Driver()
    made.everyday(2)
    made.deploy(release(edition="2"))
    made.everyday(1)
    return made


def test_a_sound_ledger_passes_and_every_intent_is_accounted_for(driver: Driver) -> None:
    found = verify(driver)
    assert found.names == set()
    assert found.counts["in"] == found.counts["accounted"] == 45
    assert found.counts["refused"] == 15
    assert found.counts["released"] == 24
    assert found.checker.input_counts["intents"] == len(driver.inputs["intents"])
    assert verify(driver, forge(driver, lambda events: events)).names == set()


def test_reading_agrees_with_the_avro_library(driver: Driver) -> None:
    for record in driver.records:
        event, parts = read(record), reading.split(record.value)
        head, h = reading.head(parts.header), event.header
        rest = reading.rest(head.rest)
        assert codec.encode(event.facts) == parts.facts
        assert parts.content == event.sealed
        assert (head.seq, head.event_id, head.stage, head.status, head.reason) == (
            h.seq, h.event_id, h.stage, h.status, h.reason
        )  # fmt: skip
        assert (head.facts_hash, head.content_commitment, head.prev_hash) == (
            h.facts_hash, h.content_commitment, h.prev_hash
        )  # fmt: skip
        assert tuple(rest) == (
            h.intent_id, h.tenant, h.agent_id, h.session_id, h.subject, h.decided_at, h.input_topic,
            h.input_partition, h.input_offset, h.control_head, h.release, h.engine,
        )  # fmt: skip
        facts = event.facts
        if isinstance(facts, r.IntentFacts):
            assert reading_facts.intent_facts(parts.facts) == (facts.issued_at, facts.remembered)
        elif isinstance(facts, r.PlanFacts):
            assert reading_facts.plan_facts(parts.facts) == (facts.tool_class, facts.attempt)
        elif isinstance(facts, r.HoldFacts):
            assert reading_facts.hold_facts(parts.facts) == (facts.tool_class, facts.quorum, facts.reviewers)
        elif isinstance(facts, r.ReviewFacts):
            assert tuple(reading_facts.review_facts(parts.facts)) == (
                facts.reviewer, facts.approvals, facts.quorum, facts.reviewers, facts.edited
            )  # fmt: skip
        elif isinstance(facts, r.ClaimFacts | r.ResultFacts):
            assert reading_facts.first_long(parts.facts) == facts.attempt


def test_every_flipped_byte_is_found() -> None:
    driver = Driver()
    driver.open_session()
    driver.finish(driver.call("desk.pay").dispatches[0])
    target = driver.records[3].value
    for at in range(len(target)):
        damaged = target[:at] + bytes([target[at] ^ 0x15]) + target[at + 1 :]
        records = [*driver.records[:3], Record(driver.records[3].offset, damaged), *driver.records[4:]]
        assert verify(driver, records).names, f"byte {at}"


def test_damaged_bytes_are_unreadable_and_nothing_else(driver: Driver) -> None:
    for value in (b"", b"garbage", driver.records[5].value[:-1], driver.records[5].value + b"x"):
        with pytest.raises(Unreadable):
            reading.head(reading.split(value).header)
        records = [*driver.records[:5], Record(driver.records[5].offset, value), *driver.records[6:]]
        found = verify(driver, records)
        assert "readable" in found.names
        assert found.first("readable")[1] == driver.records[5].offset


def test_a_dropped_record(driver: Driver) -> None:
    found = verify(driver, [*driver.records[:5], *driver.records[6:]])
    assert {"dense", "chain"} <= found.names
    assert found.first("dense") == (5, driver.records[6].offset)
    assert found.checker.findings.counts["dense"] == 1
    assert found.checker.findings.counts["chain"] == 1


def test_an_inserted_record(driver: Driver) -> None:
    found = verify(driver, [*driver.records[:6], driver.records[5], *driver.records[6:]])
    assert {"dense", "chain"} <= found.names


def test_two_records_change_places(driver: Driver) -> None:
    a, b = driver.records[4:6]
    found = verify(driver, [*driver.records[:4], b, a, *driver.records[6:]])
    assert {"dense", "chain"} <= found.names


def test_edited_facts(driver: Driver) -> None:
    outcome = codec.decode_as(r.Outcome, driver.records[6].value)
    facts = codec.decode_as(r.PlanFacts, outcome.facts)
    changed = codec.encode(replace(outcome, facts=codec.encode(replace(facts, tool_class="irreversible"))))
    records = list(driver.records)
    records[6] = Record(records[6].offset, changed)
    found = verify(driver, records)
    assert "facts_hash" in found.names
    assert found.first("facts_hash") == (6, records[6].offset)
    assert "chain" not in found.names  # the header was left alone


@pytest.mark.parametrize("content", [b"something else", None])
def test_edited_content(driver: Driver, content: bytes | None) -> None:
    outcome = codec.decode_as(r.Outcome, driver.records[3].value)
    records = list(driver.records)
    records[3] = Record(records[3].offset, codec.encode(replace(outcome, content=content)))
    assert verify(driver, records).names == {"content_commitment"}


def test_an_edited_header_breaks_the_chain_at_the_next_record(driver: Driver) -> None:
    event, outcome = read(driver.records[4]), codec.decode_as(r.Outcome, driver.records[4].value)
    header = codec.encode(replace(event.header, policies=["another"]))
    records = list(driver.records)
    records[4] = Record(records[4].offset, codec.encode(replace(outcome, header=header)))
    found = verify(driver, records)
    assert found.names == {"chain"}
    assert found.first("chain") == (5, records[5].offset)


def forged(driver: Driver, change: Callable[[list[Event]], list[Event]]) -> set[str]:
    """Names found in a forged ledger."""
    return verify(driver, forge(driver, change)).names


def test_a_missing_claim(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        at = where(events, "claimed", 2)  # of desk.pay, after desk.set and desk.look
        assert isinstance(events[at - 1].facts, r.PlanFacts)
        assert events[at - 1].facts.tool_class == "irreversible"
        return events[:at] + events[at + 1 :]

    assert forged(driver, change) == {"claim"}


def test_a_claim_of_another_attempt(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        at = where(events, "claimed")
        facts = events[at].facts
        assert isinstance(facts, r.ClaimFacts)
        events[at] = replace(events[at], facts=replace(facts, attempt=2))
        return events

    assert forged(driver, change) == {"claim"}


def test_an_irreversible_call_claimed_twice(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        at = where(events, "claimed", 2)
        plan, claim = events[at - 1], events[at]
        again = with_header(plan, input_topic="tick")
        later = with_header(claim, input_topic="reviews", input_offset=0)
        events[at + 1 : at + 1] = [again, later]
        return [
            e for e in events if e is later or e.header.input_topic != "reviews" or e.header.status == "noted"
        ]

    assert "duplicates" in forged(driver, change)


def test_a_held_call_that_went_on_without_enough_people() -> None:
    driver = Driver()
    driver.open_session()
    call = driver.call("desk.wire", {"value": "1"})
    driver.review(call)
    driver.review(call, person="person-3")
    assert verify(driver).names == set()

    def change(events: list[Event]) -> list[Event]:
        at = where(events, "held", 2)
        facts = events[at].facts
        assert isinstance(facts, r.ReviewFacts)
        events[at] = replace(events[at], facts=replace(facts, approvals=["person-2", "person-2"]))
        return events

    assert forged(driver, change) == {"approval"}


def test_a_result_given_twice(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        at = where(events, "released", 3)
        again = with_header(events[at], input_topic="reviews", input_offset=0)
        rest = [e for e in events[at + 1 :] if e.header.input_topic != "reviews"]
        return [*events[: at + 1], again, *rest]

    assert "lifecycle" in forged(driver, change)


def test_a_step_left_out(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        at = where(events, "permitted")
        return events[:at] + events[at + 1 :]

    assert forged(driver, change) == {"lifecycle"}


def test_every_step_the_table_forbids_is_found() -> None:
    statuses = {s for row in lifecycle.TABLE.values() for s in row}
    driver = Driver()
    driver.open_session()
    driver.call("desk.pay")
    for status in sorted(statuses - set(lifecycle.TABLE["validated"])):
        assert "lifecycle" in forged(driver, lambda e, s=status: [*e[:-1], with_header(e[-1], status=s)])  # type: ignore[misc]


def test_the_wrong_release(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        return [with_header(e, release="sha256:00") if e.header.input_offset == 2 else e for e in events]

    assert forged(driver, change) == {"control_head"}


def test_the_release_of_another_head(driver: Driver) -> None:
    """The release exists and was deployed, but not at the head the header names."""
    old = read(driver.records[1]).header.release

    def change(events: list[Event]) -> list[Event]:
        last = events[-1].header
        assert last.release != old
        return [*events[:-1], with_header(events[-1], release=old)]

    assert forged(driver, change) == {"control_head"}


@pytest.mark.parametrize("head", [0, 99, -1])
def test_a_control_head_that_goes_back_or_is_not_there(driver: Driver, head: int) -> None:
    assert forged(driver, lambda e: [*e[:-1], with_header(e[-1], control_head=head)]) == {"control_head"}


def test_time_that_goes_back(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        early = events[0].header.decided_at
        return [*events[:-1], with_header(events[-1], decided_at=early)]

    assert forged(driver, change) == {"time"}


def test_an_input_decided_twice(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        noted = where(events, "noted")
        return [*events, with_header(events[noted], decided_at=events[-1].header.decided_at, release=events[-1].header.release, control_head=events[-1].header.control_head)]  # fmt: skip

    assert forged(driver, change) == {"inputs"}


def test_an_input_whose_outcomes_are_torn_apart(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        at = where(events, "dispatched")
        claim = where(events, "heard", 1)
        moved = events.pop(at)
        events.insert(claim - 1, moved)
        return events

    assert "inputs" in forged(driver, change)


@pytest.mark.parametrize("field", ["input_partition", "input_topic"])
def test_an_input_of_another_place(driver: Driver, field: str) -> None:
    value: object = 3 if field == "input_partition" else "replies"
    assert forged(driver, lambda e: [*e[:-1], with_header(e[-1], **{field: value})]) == {"inputs"}


def test_another_event_id(driver: Driver) -> None:
    records = list(driver.records)
    outcome = codec.decode_as(r.Outcome, records[-1].value)
    header = codec.decode_as(r.Header, outcome.header)
    changed = codec.encode(replace(header, event_id=bytes(16)))
    records[-1] = Record(records[-1].offset, codec.encode(replace(outcome, header=changed)))
    assert verify(driver, records).names == {"event_id"}


def test_another_log(driver: Driver) -> None:
    records = list(driver.records)
    outcome = codec.decode_as(r.Outcome, records[-1].value)
    header = codec.decode_as(r.Header, outcome.header)
    for field, value in (("log_id", bytes(16)), ("partition", 2)):
        changed = codec.encode(replace(header, **{field: value}))  # type: ignore[arg-type]
        records[-1] = Record(records[-1].offset, codec.encode(replace(outcome, header=changed)))
        assert "log_id" in verify(driver, records).names


def test_another_genesis(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        facts = events[0].facts
        assert isinstance(facts, r.GenesisFacts)
        events[0] = replace(events[0], facts=replace(facts, partitions=7))
        return events

    assert forged(driver, change) == {"genesis"}
    assert "genesis" in forged(driver, lambda e: e[1:])
    assert "genesis" in forged(driver, lambda e: [*e, e[0]])


def test_an_input_without_its_bytes(driver: Driver) -> None:
    def change(events: list[Event]) -> list[Event]:
        return [*events[:-1], replace(events[-1], sealed=None)]

    assert forged(driver, change) == {"content_commitment"}


def test_many_violations_are_counted_and_the_first_is_kept(driver: Driver) -> None:
    records = forge(driver, lambda e: [with_header(x, release="sha256:00") for x in e])
    found = verify(driver, records)
    assert found.names == {"control_head"}
    assert found.checker.findings.counts["control_head"] > 50
    assert found.first("control_head")[0] == 1


def test_ids_are_forgotten_as_the_ledger_forgets_them() -> None:
    """The same id a day later is another intent, and a repeat that is too old ends nothing."""
    driver = Driver()
    driver.open_session()
    first = driver.intent("desk.read", intent_id="again")
    driver.finish(driver.feed("intents", first).dispatches[0])
    driver.now += 25 * 3_600_000_000
    assert driver.feed("intents", first).outcomes[0].reason == "too_old"
    driver.now += 2 * 3_600_000_000
    driver.open_session("later")
    driver.finish(driver.call("desk.read", intent_id="again", session="later").dispatches[0])
    found = verify(driver)
    assert found.names == set()
    assert found.counts["in"] == 3
    assert found.counts["refused"] == 1


def test_control_has_a_chain_of_its_own(driver: Driver) -> None:
    def names(records: list[Record]) -> set[str]:
        checker = ControlChecker(driver.rules)
        for record in records:
            checker.add(*record)
        return set(checker.findings.counts)

    records = driver.control_records
    assert names(records) == set()
    assert {"dense", "chain"} <= names([*records[:2], *records[3:]])
    assert {"dense", "chain"} <= names([records[0], records[2], records[1], *records[3:]])
    assert "genesis" in names(records[1:])
    outcome = codec.decode_as(r.Outcome, records[1].value)
    facts = codec.decode_as(r.ControlFacts, outcome.facts)
    changed = codec.encode(replace(outcome, facts=codec.encode(replace(facts, who="somebody"))))
    assert names([records[0], Record(1, changed), *records[2:]]) == {"facts_hash"}
    assert "readable" in names([records[0], Record(1, b"x"), *records[2:]])


def test_what_was_found_in_a_file_is_told_without_an_offset() -> None:
    assert place_of(3, {"seq": 17, "offset": 40}) == "partition 3, seq 17, offset 40"
    assert place_of(-1, {"seq": 0, "offset": 0}) == "control, seq 0, offset 0"
    assert place_of(3, {"seq": 17, "offset": -1}) == "partition 3, seq 17"
