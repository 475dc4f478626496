"""The releases that decided, read from their topic for `ledger verify`: whose bytes are whole, and their `control.cedar`.

The topic alone is asked, never this machine's copies: those would hide that it was changed. Reads only.
Next: `verify.py` (who asks), `control/releases.py` (who writes the topic), `processors/control/rules.py`.
"""

from __future__ import annotations

import contextlib

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.control.rules import rules_alone
from sluicegate.processors.releases.assembly import Assembly
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import ReleaseChunk
from sluicegate.streams.control.releases import unpack
from sluicegate.streams.scan import places, scan, stretches


async def rules(consumer: AIOKafkaConsumer, env: str) -> dict[str, CompiledRelease | None]:
    """Digest -> its rules, of every release that is whole; None where `control.cedar` is absent.

    Chunks of releases that are not whole yet are kept as far as `Assembly` does, and of each whole one its rules.
    """
    found: dict[str, CompiledRelease | None] = {}
    assembly = Assembly()
    [stretch] = await stretches(consumer, places(env, "releases", [0]))
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            with contextlib.suppress(SluicegateError):  # of another form, or of another digest: not whole
                _take(codec.decode_as(ReleaseChunk, record.value or b""), assembly, found)
    return found


def _take(chunk: ReleaseChunk, assembly: Assembly, found: dict[str, CompiledRelease | None]) -> None:
    """One chunk. Raises `SluicegateError` when the whole is not what its digest says."""
    if chunk.digest in found:
        return
    data = assembly.add(chunk)
    if data is not None:
        found[chunk.digest] = rules_alone(unpack(data, chunk.digest))
        assembly.forget(chunk.digest)
