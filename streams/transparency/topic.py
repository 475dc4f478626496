"""The topic `checkpoints`: heads as they were shown, newest last. Read from its end backwards, since it is kept for ever.

Whoever may write to the topic may write anything: what is read here is verified by the caller. Next: `transparency/checkpointer.py`,
`commands/checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.transparency import checkpoints
from sluicegate.processors.transparency.checkpoints import CheckpointFault, LogKey, Signed
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Unreadable
from sluicegate.streams.scan import places, scan, stretches

TOPIC = "checkpoints"
FIRST_LOOK = 2_000
"""Offsets that are read first, about 2 MB; each look further back is four times as far."""


def record_of(log_id: bytes, partition: int, signed: Signed) -> r.Checkpoint:
    """What goes to the topic."""
    names = [s.name for s in signed.note.signatures if s.name != signed.head.origin]
    head = signed.head
    return r.Checkpoint(
        log_id,
        partition,
        head.size,
        head.root,
        signed.kid,
        signed.second * 1_000_000,
        names,
        str(signed.note),
    )


async def _backwards(consumer: AIOKafkaConsumer, env: str) -> AsyncIterator[list[bytes]]:
    """The topic's records in stretches, the newest stretch first; within one in order."""
    [stretch] = await stretches(consumer, places(env, TOPIC, [0]))
    end, look = stretch.end, FIRST_LOOK
    while end > stretch.begin:
        start = max(stretch.begin, end - look)
        found: list[bytes] = []
        async for batch in scan(consumer, stretch.place, start, end):
            found += [record.value for record in batch if record.value]
        yield found
        end, look = start, look * 4


async def newest(
    consumer: AIOKafkaConsumer,
    env: str,
    origins: Iterable[str],
    keys: Iterable[LogKey],
    *,
    every: bool = False,
    recent: bool = False,
) -> dict[str, list[Signed]]:
    """Each log's newest verified checkpoint, or with `every` all of them, the oldest first. Others are passed over.

    `recent`: all that were looked at until each log had one, for who has to choose among them.
    """
    history = tuple(keys)
    found: dict[str, list[Signed]] = {origin: [] for origin in origins}
    async for stretch in _backwards(consumer, env):
        before: dict[str, list[Signed]] = {origin: [] for origin in found}
        for value in stretch:
            signed = verified(value, history)
            if signed is not None and signed.head.origin in before:
                before[signed.head.origin].append(signed)
        found = {origin: before[origin] + later for origin, later in found.items()}
        if not every and all(found.values()):
            break
    if every or recent:
        return found
    return {origin: [max(all_of, key=checkpoints.age)] if all_of else [] for origin, all_of in found.items()}


def verified(value: bytes, keys: Iterable[LogKey]) -> Signed | None:
    """The checkpoint in a record, or None for one that nobody here signed."""
    try:
        return checkpoints.verify(codec.decode_as(r.Checkpoint, value).note, keys)
    except (Unreadable, CheckpointFault):
        return None
