"""`replay --mode resink`: ClickHouse filled anew from the ledger, in tables beside the live ones, which change places at the end.

Until then everybody asks the live tables, and where it is stopped half-way nothing has changed. No projector may run
meanwhile: what it wrote into the old tables would be missing in the new ones. What was erased comes back without content,
for its key is destroyed. Never writes to a topic and never touches checkpoints.
Next: `sinks/ddl.py` (the tables), `sinks/clickhouse.py` (the projector that fills them).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams import kafka, topics
from sluicegate.streams.inspect.tail import newest
from sluicegate.streams.scan import OnStart, places, stretches
from sluicegate.streams.settings import Settings

if TYPE_CHECKING:
    from sluicegate.sinks.clickhouse import Projector
    from sluicegate.sinks.rows import ContentOpener

LOOK_EVERY_S = 0.2
STALL_LIMIT_S = 300.0
"""Without a row more for so long ClickHouse or Kafka counts as away: the projector alone would wait for ever."""


@dataclass(frozen=True, slots=True)
class Resunk:
    """What was filled, or would be: offsets of ledger and control, rows, and records that nobody can read."""

    offsets: int
    rows: int = 0
    rejects: int = 0


async def resink(
    settings: Settings, opener: ContentOpener, *, dry_run: bool = False, on_start: OnStart | None = None
) -> Resunk:
    """Fill and exchange; `dry_run` only counts. Raises `Terminal` while a projector runs (not for `dry_run`), `Retryable`
    when ClickHouse or Kafka is away."""
    from sluicegate.sinks import ddl  # the sinks need chDB only when they are used
    from sluicegate.sinks.clickhouse import Projector
    from sluicegate.sinks.embedded import connect, database

    assert settings.kafka is not None
    if not dry_run:  # that one changes nothing, and is asked while everything runs
        await _no_projector(settings)
    offsets, last = await _ends(settings)
    client = await asyncio.to_thread(connect, settings, "sink")
    try:
        if dry_run:
            return Resunk(offsets)
        await asyncio.to_thread(ddl.ensure_schema, client, database(settings))
        await asyncio.to_thread(ddl.begin_rebuild, client, database(settings))
        projector = Projector(
            settings,
            settings.kafka,
            lambda: connect(settings, "sink"),
            opener,
            suffix=ddl.REBUILD,
            # A new one each time: ranges that an earlier attempt froze are not in these tables.
            group=f"{settings.env}.projector{ddl.REBUILD}.{uuid.uuid4().hex[:8]}",
        )
        await _fill(projector, last, on_start)
        await _no_projector(settings)
        await asyncio.to_thread(ddl.finish_rebuild, client, database(settings))
        return Resunk(offsets, projector.rows, projector.rejects)
    finally:
        client.close()


async def _ends(settings: Settings) -> tuple[int, dict[TopicPartition, int]]:
    """How many offsets there are, and the last `seq` of each partition that has any."""
    wanted = places(settings.env, "control", [0])
    for number in range((settings.generation or 0) + 1):  # the projector reads those before it, too
        then = replace(settings, generation=number)
        wanted += places(then.space, "outcomes", range(await topics.partitions_of(then)))
    consumer = await kafka.connect(kafka.consumer(settings))
    try:
        found = await stretches(consumer, wanted)
        events = {one.place: await newest(consumer, one, 1) for one in found}
    finally:
        await consumer.stop()
    return sum(one.end - one.begin for one in found), {p: e[0].header.seq for p, e in events.items() if e}


async def _fill(projector: Projector, last: Mapping[TopicPartition, int], on_start: OnStart | None) -> None:
    """Until each partition has come to its last `seq`; what came since is the next projector's."""
    advance = on_start(sum(last.values()) + len(last)) if on_start is not None else None
    stop, clock = asyncio.Event(), asyncio.get_running_loop().time
    task = asyncio.create_task(projector.run(stop))
    done, moved = 0, clock()
    try:
        while any(projector.reached.get(place, -1) < seq for place, seq in last.items()):
            await asyncio.wait([task], timeout=LOOK_EVERY_S)
            if task.done():
                task.result()
            now = sum(min(projector.reached.get(p, -1), seq) + 1 for p, seq in last.items())
            if now > done:
                if advance is not None:
                    advance(now - done)
                done, moved = now, clock()
            elif clock() - moved > STALL_LIMIT_S:
                said = "; ".join(projector.errors.values()) or "nothing is read"
                raise Retryable(
                    f"clickhouse is not filled: {said}, try again; the live tables are as they were"
                )
    finally:
        stop.set()
        await asyncio.wait([task])


async def _no_projector(settings: Settings) -> None:
    from sluicegate.sinks.clickhouse import group_of

    admin = await kafka.connect(kafka.admin(settings))
    try:
        answers = await admin.describe_consumer_groups([group_of(settings)])
    except KafkaError as error:
        raise Retryable(f"kafka does not say whether a projector runs: {error!r}, try again") from error
    finally:
        await admin.close()
    # (error, group, state, protocol type, protocol, members)
    members = sum(len(g[5]) for one in answers for g in one.groups)
    if members:
        raise Terminal(
            f"`{members}` projector(s) of `{settings.env}` run and would write into the tables that are replaced, stop "
            "them first (`sluicegate up --roles` without `projector`); nothing has changed"
        )
