"""Which generation of the log a process works in, and whether that is the one that decides.

`SLUICEGATE_GENERATION` says it, or the file that `topics repartition` leaves in the state directory, or nobody: then it is the
first. A process of another generation stops with what to set; readers may ask for an earlier one. Never writes.
Next: `repartition/repartition.py`, `processors/seam/generations.py`.
"""

from __future__ import annotations

from dataclasses import replace

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from sluicegate.processors.control.control import Control
from sluicegate.processors.seam import generations
from sluicegate.processors.state import PartitionState
from sluicegate.schemas.errors import Terminal
from sluicegate.schemas.places import stand
from sluicegate.schemas.topics import full_name, space_of
from sluicegate.streams.settings import Settings


def part_name(generation: int, partition: int) -> str:
    """A partition as people read it: `3`, and of a later generation `g1/3`."""
    return f"g{generation}/{partition}" if generation else str(partition)


def up_to(settings: Settings) -> list[Settings]:
    """Settings of each generation up to the one that these name, the earliest first: for who looks across seams."""
    return [replace(settings, generation=number) for number in range((settings.generation or 0) + 1)]


def lane_id(settings: Settings, partition: int) -> str:
    """The fixed transactional id of one partition of the ledger."""
    number = f"g{settings.generation}." if settings.generation else ""
    return f"sluicegate.{settings.env}.ledger.{number}{partition}"


def place_of(settings: Settings, topic: str, partition: int, offset: int) -> tuple[TopicPartition, int]:
    """Where bytes stand that a partition's state refers to: there, or before a seam in one of an earlier generation."""
    there = stand(offset)
    if there is None:
        return TopicPartition(full_name(settings.space, topic), partition), offset
    old = full_name(space_of(settings.env, there.generation), topic)
    return TopicPartition(old, there.partition), there.offset


def check(settings: Settings, control: Control, state: PartitionState) -> None:
    """Raises `Terminal` where a lane must not decide: its generation is over, or it has not begun."""
    now, mine = generations.current(control), settings.generation or 0
    if state.sealed or mine < now.number:
        # INVARIANT: nobody decides in a generation that was sealed (tests/integration/test_rebuild.py).
        raise Terminal(
            f"generation {mine} of `{settings.env}` is sealed: start this process with SLUICEGATE_GENERATION={max(now.number, mine + 1)}"
        )
    if mine > now.number:
        raise Terminal(
            f"generation {mine} of `{settings.env}` has not been started: finish `sluicegate topics repartition`"
        )
    if mine and not state.seq:
        raise Terminal(
            f"partition {state.partition} of generation {mine} has no imports: run `sluicegate topics repartition` again"
        )


def same_log(control: Control, state: PartitionState) -> None:
    """Raises `Terminal` where a partition is none of the log that control names."""
    if state.log_id != control.log_id:
        raise Terminal(
            f"ledger partition {state.partition} belongs to another log than control, use another SLUICEGATE_ENV"
        )


def seen(settings: Settings, control: Control) -> Control:
    """Control for who reads the generation that the settings name. Raises `Terminal` when nobody named one and it is not the first."""
    now, asked = generations.current(control), settings.generation
    if asked is None and now.number:
        raise Terminal(
            f"the log of `{settings.env}` is in generation {now.number}, with {now.partitions} partitions: set "
            f"SLUICEGATE_GENERATION={now.number} (an earlier number reads what was before)"
        )
    if asked is not None and asked > now.number and now.log_id:
        raise Terminal(
            f"the log of `{settings.env}` is in generation {now.number}, not {asked}: set SLUICEGATE_GENERATION"
        )
    return generations.seen_from(control, asked)


async def newest(client: AIOKafkaClient, env: str) -> int:
    """The generation that takes intents now, as far as this user may know topics: for those that cannot read control."""
    names = (await client.fetch_all_metadata()).topics()
    number = 0
    while full_name(space_of(env, number + 1), "intents") in names:
        number += 1
    return number
