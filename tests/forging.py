"""What a forger does with a ledger: change events, and make seq, ids, hashes and chain fit again.

`forge` plays the clever one, who may write the topic and knows the format: only what the records mean is wrong afterwards.
Never signs for anybody else, and opens no content. Next: `tests/mutations` (what is done with it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from sluicegate.processors.outcomes import ZERO_HASH, event_id, header_hash
from sluicegate.schemas import codec
from sluicegate.schemas import records as r

from tests.driver import LOG_ID, Driver, Event, Record, read

Change = Callable[[list[Event]], list[Event]]


def rechain(events: list[Event], partition: int = 0, log_id: bytes = LOG_ID) -> list[Record]:
    """Records of these events, with dense seqs, ids that follow, hashes that fit and an unbroken chain."""
    out, prev, key, first = [], ZERO_HASH, None, 0
    for seq, event in enumerate(events):
        h, facts = event.header, codec.encode(event.facts)
        if (h.input_topic, h.input_offset) != key or not key:
            key, first = (h.input_topic, h.input_offset), seq
        place = first if h.input_topic == "tick" else h.input_offset
        header = codec.encode(
            replace(
                h, seq=seq, prev_hash=prev, facts_hash=hashlib.sha256(facts).digest(), input_offset=place,
                event_id=event_id(log_id, partition, first, h.stage, seq - first), log_id=log_id,
                content_commitment=None if event.sealed is None else hashlib.sha256(event.sealed).digest(),
                partition=partition,
            )
        )  # fmt: skip
        prev = header_hash(header)
        out.append(Record(seq, codec.encode(r.Outcome(header, facts, event.sealed))))
    return out


def rechain_control(events: list[Event]) -> list[Record]:
    """The same for control, whose every event is an input of its own."""
    out, prev = [], ZERO_HASH
    for seq, event in enumerate(events):
        facts = codec.encode(event.facts)
        header = codec.encode(
            replace(
                event.header, seq=seq, prev_hash=prev, facts_hash=hashlib.sha256(facts).digest(), input_offset=seq,
                control_head=seq - 1, event_id=event_id(LOG_ID, 0, seq, "control", 0),
            )
        )  # fmt: skip
        prev = header_hash(header)
        out.append(Record(2 * seq, codec.encode(r.Outcome(header, facts, event.sealed))))
    return out


def forge(driver: Driver, change: Change) -> list[Record]:
    """A driver's ledger with other events."""
    return rechain(change([read(x) for x in driver.records]), driver.partition)


def with_header(event: Event, **changes: object) -> Event:
    """The event with another header."""
    return Event(replace(event.header, **changes), event.facts, event.sealed)  # type: ignore[arg-type]


def with_facts(event: Event, **changes: object) -> Event:
    """The event with other facts."""
    return Event(event.header, replace(event.facts, **changes), event.sealed)  # type: ignore[type-var]


def where(events: list[Event], status: str, nth: int = 0, **fields: object) -> int:
    """Index of the nth event of a status."""
    found = [
        i for i, e in enumerate(events)
        if e.header.status == status and all(getattr(e.header, k) == v for k, v in fields.items())
    ]  # fmt: skip
    return found[nth]
