"""Proofs that events are in the log: the newest checkpoint from the topic, hashes from the tiles, the header from Kafka.

A proof is checked here before it is given out, so that one that does not hold is found where it is made. Never writes.
Next: `processors/transparency/proofs.py` (the file), `commands/prove.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from sluicegate.processors.control.control import Control
from sluicegate.processors.transparency import checkpoints, merkle
from sluicegate.processors.transparency.checkpoints import CONTROL, Signed, keys_of
from sluicegate.processors.transparency.proofs import Inclusion
from sluicegate.processors.transparency.tiles import TileNodes
from sluicegate.processors.verify import reading
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.control import log as control_log
from sluicegate.streams.inspect import tail
from sluicegate.streams.inspect.find import Finder
from sluicegate.streams.lanes.recovery import read_one
from sluicegate.streams.scan import FETCH_WAIT_MS, Stretch, scan, stretches
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings
from sluicegate.streams.transparency import tile_store
from sluicegate.streams.transparency import topic as checkpoint_topic
from sluicegate.streams.transparency.tile_store import TileStore

MAX_PROBES = 200
"""Reads to find a `seq`: each leaves at most the share of markers among offsets, and half of them are none."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the ledger; partition -1 is control."""

    partition: int
    seq: int


def parse_position(text: str) -> Position | None:
    """`3:17` or `control:5`; None for another form, which then is an intent's id."""
    name, colon, seq = text.rpartition(":")
    digits = seq.isascii() and seq.isdigit()
    if not colon or not digits or not (name == "control" or (name.isascii() and name.isdigit())):
        return None
    return Position(CONTROL if name == "control" else int(name), int(seq))


class Prover:
    """Makes proofs in one environment. `close` it."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, control: Control, store: TileStore
    ) -> None:
        self.control = control
        self._settings, self._consumer, self._store = settings, consumer, store
        self._newest: dict[int, Signed] = {}

    @classmethod
    async def open(cls, settings: Settings) -> Prover:
        """Connect and read control. Raises `SluicegateError`."""
        control = (await control_log.read(settings)).control
        consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=FETCH_WAIT_MS))
        return cls(settings, consumer, control, tile_store.store_of(settings))

    async def close(self) -> None:
        """Disconnect."""
        await stop_consumer(self._consumer)

    async def intent(self, intent_id: str, agent: str = "") -> list[Inclusion]:
        """A proof for each record of an intent. Raises `Terminal` for one that the ledger does not know."""
        finder = Finder(self._settings, self._consumer)
        await finder.open()
        events = await finder.intent(intent_id, agent)
        if not events:
            raise Terminal(f"intent `{intent_id[:80]}` is not in the ledger, see `sluicegate intents`")
        found = []
        for event in events:
            place = TopicPartition(full_name(self._settings.space, "outcomes"), event.partition)
            record = await read_one(self._consumer, place, event.offset)
            assert record is not None  # it was just read
            header = reading.split(record.value).header
            found.append(await self._prove(Position(event.partition, event.header.seq), header))
        return found

    async def position(self, at: Position) -> Inclusion:
        """The proof for one place. Raises `Terminal`, `Retryable`."""
        if not CONTROL <= at.partition < self.control.partitions:
            raise Terminal(f"partition {at.partition} does not exist, there are {self.control.partitions}")
        return await self._prove(at, await self._header(at))

    async def _header(self, at: Position) -> bytes:
        """Offsets grow at least as fast as `seq`, so going on by what is missing never passes it."""
        name, index = ("control", 0) if at.partition == CONTROL else ("outcomes", at.partition)
        place = TopicPartition(full_name(self._settings.space, name), index)
        [stretch] = await stretches(self._consumer, [place])
        offset = max(stretch.begin, at.seq)
        for _ in range(MAX_PROBES):
            record = await self._first(place, offset, stretch.end)
            if record is None:
                break
            header = reading.split(record.value).header
            seq = reading.head(header).seq
            if seq == at.seq:
                return header
            if seq > at.seq:
                break
            offset = record.offset + at.seq - seq
        raise Terminal(await self._missing(at, stretch))

    async def _missing(self, at: Position, stretch: Stretch) -> str:
        """What the partition has instead, in the user's own numbers: a `seq`, not an offset."""
        where = checkpoints.partition_name(at.partition)
        last = await tail.newest(self._consumer, stretch, 1)
        if not last:
            return f"event `{at.seq}` of partition {where} is not in Kafka: the partition has no event yet"
        seq = last[0].header.seq
        if at.seq > seq:
            return f"event `{at.seq}` of partition {where} is not in Kafka, the last one is `{where}:{seq}`"
        return (
            f"event `{at.seq}` of partition {where} is not in Kafka, though the last one is `{where}:{seq}`: it was let go "
            "of, or the ledger is broken, see `sluicegate ledger verify`"
        )

    async def _first(self, place: TopicPartition, offset: int, end: int) -> ConsumerRecord | None:
        """The first committed record from there on."""
        async with contextlib.aclosing(scan(self._consumer, place, offset, end)) as batches:
            async for batch in batches:
                return batch[0]
        return None

    async def newest(self, partition: int) -> Signed:
        """The partition's newest checkpoint. Raises `Retryable` where there is none."""
        if partition not in self._newest:
            log_id = self.control.own_log if partition == CONTROL else self.control.log_id
            origin = checkpoints.origin_of(self._settings.env, log_id, partition)
            keys = keys_of(self.control)
            found = await checkpoint_topic.newest(self._consumer, self._settings.env, [origin], keys)
            if not found[origin]:
                raise Retryable(
                    f"`{origin}` has no checkpoint yet, start one: sluicegate worker --role checkpointer"
                )
            self._newest[partition] = found[origin][0]
        return self._newest[partition]

    async def _prove(self, at: Position, header: bytes) -> Inclusion:
        signed = await self.newest(at.partition)
        size, origin = signed.head.size, signed.head.origin
        if at.seq >= size:
            raise Retryable(
                f"event {at.seq} of `{origin}` is under no checkpoint yet (the newest has {size} events), try again in a few "
                "seconds"
            )
        nodes = TileNodes(size, tile_store.reader(self._store, origin))
        proof = await asyncio.to_thread(merkle.inclusion_proof, at.seq, size, nodes)
        made = Inclusion(header, at.seq, tuple(proof), signed.note)
        made.verify(keys_of(self.control), origin)
        return made
