"""Bytes of inputs of before a repartition, out of the ledger that had them: for who decides again what was decided after.

A state that was imported refers to them by far offsets (`schemas/places.py`). Each old partition that is asked is read once, from
the archive where Kafka has let go of it; what is not there is left out. Never opens what is sealed, never writes.
Next: `processors/replay/rederive.py` (who asks), `replay/reproduce.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition
from sluicegate.processors.inputs import Place
from sluicegate.processors.replay.rederive import Kept
from sluicegate.processors.verify import reading
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.places import far, stand
from sluicegate.schemas.topics import MAX_INTENT_BYTES, full_name, space_of
from sluicegate.streams.scan import scan, stretches
from sluicegate.streams.settings import Settings


class Picked:
    """Some inputs of one old partition, taken record by record from its first on.

    Attributes:
        found: far place -> its bytes as they are sealed there.
    """

    def __init__(self, generation: int, partition: int, wanted: set[tuple[str, int]]) -> None:
        self.found: dict[Place, Kept] = {}
        self._generation, self._partition, self._wanted = generation, partition, wanted
        self._before = ("", -1)

    def take(self, value: bytes) -> None:
        """One ledger record. The first one of an input carries its bytes."""
        header, _ = reading.split_two(value)
        head = reading.head(header)
        rest = reading.rest(head.rest)
        place = rest.topic, rest.offset
        first, self._before = place != self._before, place
        if not first or place not in self._wanted:
            return
        parts = reading.split(value)
        if parts.content is None:
            return
        facts = codec.decode(parts.facts)
        cut = isinstance(facts, r.IntakeFacts) and facts.length > MAX_INTENT_BYTES
        there = rest.topic, far(self._generation, self._partition, rest.offset)
        self.found[there] = Kept(rest.subject, head.event_id, parts.content, cut)


def by_partition(places: Iterable[Place]) -> dict[tuple[int, int], set[tuple[str, int]]]:
    """(generation, partition) -> which inputs of it, by topic and offset there."""
    wanted: dict[tuple[int, int], set[tuple[str, int]]] = defaultdict(set)
    for topic, offset in places:
        there = stand(offset)
        if there is not None:
            wanted[there.generation, there.partition].add((topic, there.offset))
    return dict(wanted)


async def read(settings: Settings, consumer: AIOKafkaConsumer, places: Iterable[Place]) -> dict[Place, Kept]:
    """What stands at far places."""
    found: dict[Place, Kept] = {}
    for (generation, partition), wanted in by_partition(places).items():
        picked = Picked(generation, partition, wanted)
        place = TopicPartition(full_name(space_of(settings.env, generation), "outcomes"), partition)
        [stretch] = await stretches(consumer, [place])
        async for batch in scan(consumer, place, stretch.begin, stretch.end):
            for record in batch:
                picked.take(record.value or b"")
        found |= picked.found
    return found
