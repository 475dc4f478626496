"""The digest of a state that a worker holds: asked over its web page `/state`, or said by the newest snapshot.

A lane answers between two transactions, so what it tells is committed: a seq, the link of the chain after it, and the
digest of the state bytes. It holds up that partition only, some 100 ms for 10 MB. Never changes anything.
Next: `rebuild/rebuild.py` (who compares), `ledger.py` (who answers).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from sluicegate.processors.snapshot import encode_parts
from sluicegate.processors.state import PartitionState
from sluicegate.processors.work import ENGINE
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.topics import full_name
from sluicegate.streams import kafka
from sluicegate.streams.lanes.recovery import read_range
from sluicegate.streams.role_files import here
from sluicegate.streams.sdk.transport import stop_consumer
from sluicegate.streams.settings import Settings

ASK_LIMIT_S = 30.0
WORKER, SNAPSHOT = "worker", "snapshot"


@dataclass(frozen=True, slots=True)
class Live:
    """A state that somebody holds or stored, as of `seq`."""

    partition: int
    seq: int
    header_hash: str
    digest: str
    where: str = WORKER


class Asked:
    """Who waits for a lane's digest."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Live]] = []

    async def ask(self) -> Live:
        """The digest, once the lane is between two transactions. Raises `TimeoutError`."""
        future: asyncio.Future[Live] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await asyncio.wait_for(future, ASK_LIMIT_S)

    async def serve(self, state: PartitionState) -> None:
        """Called by the lane; the state does not change meanwhile."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        total = hashlib.sha256()
        for part in encode_parts(state):
            total.update(part)
            await asyncio.sleep(0)
        live = Live(state.partition, state.seq - 1, state.prev_hash.hex(), total.hexdigest())
        for future in waiting:
            if not future.done():
                future.set_result(live)


class Lanes(Protocol):
    """What has lanes that can be asked."""

    @property
    def asked(self) -> Asked: ...


async def states_of(lanes: Iterable[Lanes]) -> list[dict[str, object]]:
    """What `/state` answers."""
    found = await asyncio.gather(*(lane.asked.ask() for lane in lanes), return_exceptions=True)
    return [asdict(one) for one in found if isinstance(one, Live)]


async def ask_workers(settings: Settings, urls: Iterable[str] = ()) -> dict[int, Live]:
    """The states of this machine's ledger workers and of those at `urls`; who does not answer is passed over."""
    import httpx  # a lane that is asked needs no client

    places = list(urls)
    places += [f"http://127.0.0.1:{one.port}" for one in here(settings.home, "ledger")]
    found: dict[int, Live] = {}
    async with httpx.AsyncClient(timeout=ASK_LIMIT_S, trust_env=False) as client:
        for place in places:
            try:
                answer = await client.get(f"{place.rstrip('/')}/state")
                rows = answer.raise_for_status().json()["partitions"]
            except (httpx.HTTPError, ValueError, KeyError):
                continue
            found.update({int(row["partition"]): Live(**row) for row in rows})
    return found


async def newest_snapshots(settings: Settings, partitions: Iterable[int]) -> dict[int, Live]:
    """What the newest snapshot of each partition says, where one of this engine was stored."""
    found: dict[int, Live] = {}
    consumer = await kafka.connect(kafka.consumer(settings, fetch_wait_ms=20))
    try:
        for partition in partitions:
            place = TopicPartition(full_name(settings.space, "snapshots"), partition)
            async for batch in read_range(consumer, place, 0):
                for record in batch:
                    chunk = codec.decode_as(r.SnapshotChunk, record.value)
                    if chunk.index == 0 and chunk.engine == ENGINE:
                        link, digest = chunk.header_hash.hex(), chunk.state_sha256.hex()
                        found[partition] = Live(partition, chunk.seq, link, digest, SNAPSHOT)
    except (KafkaError, SluicegateError):
        return found
    finally:
        await stop_consumer(consumer)
    return found


async def live_states(
    settings: Settings, partitions: Iterable[int], urls: Iterable[str] = ()
) -> dict[int, Live]:
    """Of each partition what its worker says, else its newest snapshot."""
    asked = await ask_workers(settings, urls)
    rest = [p for p in partitions if p not in asked]
    return {**(await newest_snapshots(settings, rest)), **asked} if rest else asked
