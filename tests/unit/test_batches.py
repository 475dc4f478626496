"""Records out of batches, as aiokafka's consumer takes them: what is aborted is left out, and where to go on is the same."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.streams.lanes.batches import committed

CONTROL = 0x20
ATTRIBUTES_AT, CRC_AT = 21, 17
HEADERS = [("ce_type", b"ai.sluicegate.outcome")]


class Step(NamedTuple):
    """A batch of one producer, or the end of its transaction."""

    producer: int
    records: int
    aborts: bool = False


def batch(offset: int, producer: int, values: list[bytes], *, marker: bytes = b"") -> bytes:
    """A batch as the broker keeps it."""
    made = DefaultRecordBatchBuilder(2, 0, int(producer >= 0), producer, 0, 0, 1 << 20)
    for n, value in enumerate(values):
        made.append(n, 1_000 + n, marker or b"k", value, [] if marker else HEADERS)
    raw = bytearray(made.build())
    if marker:
        raw[ATTRIBUTES_AT : ATTRIBUTES_AT + 2] = struct.pack(">H", CONTROL | 0x10)
        raw[CRC_AT:ATTRIBUTES_AT] = struct.pack(">I", calc_crc32c(bytes(raw[ATTRIBUTES_AT:])))
    raw[:8] = struct.pack(">q", offset)
    return bytes(raw)


def log(steps: list[Step]) -> tuple[bytes, list[tuple[int, int]]]:
    """A stretch of a partition, and which transactions were aborted."""
    data, offset = b"", 0
    began: dict[int, int] = {}
    aborted: list[tuple[int, int]] = []
    for step in steps:
        if step.records:
            data += batch(offset, step.producer, [b"%d" % (offset + n) for n in range(step.records)])
            began.setdefault(step.producer, offset)
            offset += step.records
        elif step.producer >= 0:
            data += batch(offset, step.producer, [b"\0" * 6], marker=struct.pack(">HH", 0, not step.aborts))
            if step.aborts and step.producer in began:
                aborted.append((step.producer, began[step.producer]))
            began.pop(step.producer, None)
            offset += 1
    return data, aborted


STEPS = st.lists(
    st.builds(Step, st.sampled_from([-1, 1, 2]), st.integers(0, 3), st.booleans()), min_size=1, max_size=12
)


@given(STEPS, st.integers(0, 6), st.integers(0, 80))
def test_it_takes_what_the_consumer_takes(steps: list[Step], start: int, cut: int) -> None:
    whole, aborted = log(steps)
    data = whole[: len(whole) - cut]  # the last batch of an answer is often cut off
    start = min(start, max(0, steps[0].records - 1))  # a broker begins with the batch that has it
    place = TopicPartition("dev.outcomes", 0)
    reader = PartitionRecords(
        place, MemoryRecords(data), list(aborted), start, None, None, True, READ_COMMITTED
    )
    want = [(record.offset, record.value) for record in reader]
    found = committed(data, aborted, start)
    assert found.records == want
    assert found.next_offset == max(start, reader.next_fetch_offset)


def test_nothing_is_an_answer() -> None:
    assert committed(b"", None, 7) == ([], 7)


def test_a_changed_byte_is_no_record() -> None:
    data = bytearray(batch(0, 1, [b"value"]))
    data[-3] ^= 1
    with pytest.raises(CorruptRecordException):
        committed(bytes(data), [], 0)
