"""Where bytes stand that a state refers to, across generations: an offset of this partition, or a far one.

A place is (topic, offset) in the deciding partition. What was imported from another generation stands in a partition of
that one: its offset says which, in the bits that no offset of Kafka reaches, so that states, snapshots and facts keep their
form. Never reads anything. Next: `topics.py` (names), `processors/seam/seam.py` (who makes far places).
"""

from __future__ import annotations

from typing import NamedTuple

OFFSET_BITS, PARTITION_BITS, GENERATION_BITS = 44, 10, 8
"""2^44 records of one partition are 5 years at 100,000/s; `settings.PARTITIONS_MAX` fits 10 bits; together 62 of 63 bits."""

MAX_GENERATION = (1 << GENERATION_BITS) - 2
_FAR = 1 << OFFSET_BITS


class Stand(NamedTuple):
    """A partition of an earlier generation, and an offset in it."""

    generation: int
    partition: int
    offset: int


def far(generation: int, partition: int, offset: int) -> int:
    """The offset that stands for one in a partition of another generation. What is far already, or nowhere, stays."""
    if not 0 <= offset < _FAR:
        return offset
    return ((generation + 1) << PARTITION_BITS | partition) << OFFSET_BITS | offset


def stand(offset: int) -> Stand | None:
    """Where a far offset stands; None for one of this partition."""
    if offset < _FAR:
        return None
    slot = offset >> OFFSET_BITS
    partition = slot & (1 << PARTITION_BITS) - 1
    return Stand((slot >> PARTITION_BITS) - 1, partition, offset & _FAR - 1)
