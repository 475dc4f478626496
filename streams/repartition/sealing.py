"""A generation's partitions, folded to where they end: what a seam takes from them. For the repartition and for verify.

A partition is folded from its very first record, since a snapshot does not say whose a remembered id is; its tree grows beside it.
Never writes. Next: `repartition/repartition.py` (who seals), `verify/seam.py` (who compares), `processors/seam/seam.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.folding import Folder
from sluicegate.processors.seam import records as seam_records
from sluicegate.processors.seam import seam
from sluicegate.processors.seam.generations import Generation
from sluicegate.processors.seam.seam import Seal
from sluicegate.processors.state import PartitionState
from sluicegate.processors.transparency.merkle import Frontier
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas.records import ImportFacts, SealFacts
from sluicegate.schemas.topics import full_name, space_of
from sluicegate.streams.lanes.recovery import read_range
from sluicegate.streams.scan import Advance


class Folded:
    """One partition of a generation, as far as it was read.

    Attributes:
        sound: the seal, once it was read, names what stands before it.
    """

    def __init__(self, env: str, one: Generation, partition: int) -> None:
        self.place = TopicPartition(full_name(space_of(env, one.number), "outcomes"), partition)
        self.generation = one
        self.state = PartitionState(b"", partition)
        self.state.owners = {}
        self.tree = Frontier()
        self.sound = True
        self._folder = Folder(self.state)
        self._offset = 0

    async def catch_up(self, consumer: AIOKafkaConsumer, advance: Advance) -> None:
        """Fold what is there by now. Raises `Terminal` where the chain is broken."""
        async for batch in read_range(consumer, self.place, self._offset):
            for record in batch:
                self.take(record.value or b"")
            self._offset = batch[-1].offset + 1
            advance(len(batch))
            await asyncio.sleep(0)

    def take(self, value: bytes) -> None:
        """Fold one record."""
        before = self.state.sealed
        self._folder.add(value)
        if self.state.sealed and not before:
            said = codec.decode_as(SealFacts, reading.split_two(value)[1])
            self.sound = (said.size, said.root) == (self.state.seq - 1, self.tree.root())
        self.tree.append(self.state.prev_hash)

    @property
    def next_offset(self) -> int:
        """Where reading goes on."""
        return self._offset

    def wrote(self, last: int) -> None:
        """Records that were folded already stand up to this offset."""
        self._offset = last + 1

    @property
    def seal(self) -> Seal:
        """As the next generation names it. Only of one that is sealed."""
        one = self.generation
        return Seal(one.number, self.state.log_id, self.state.partition, self.state.seq - 1, self.tree.root())


@dataclass(slots=True)
class Seam:
    """What all sealed partitions leave, by partition of the next generation."""

    seals: list[Seal] = field(default_factory=list)
    slices: list[list[list[bytes]]] = field(default_factory=list)
    """Old partition -> new partition -> rows."""
    wrong: list[str] = field(default_factory=list)
    """Seals that do not say what they seal."""

    def expected(self, partition: int) -> list[ImportFacts]:
        """What a new partition imports."""
        return seam_records.expected(self.seals, [rows[partition] for rows in self.slices])


def seam_of(folded: Sequence[Folded], partitions: int) -> Seam:
    """The seam to a generation of so many partitions."""
    made = Seam()
    for one in folded:
        made.seals.append(one.seal)
        if not one.sound:
            made.wrong.append(
                f"the seal of partition {one.place.partition} of generation {one.generation.number} names another root than its records have"
            )
        made.slices.append(seam.slices(one.state, one.generation.number, partitions))
    return made
