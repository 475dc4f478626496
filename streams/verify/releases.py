"""The releases that decided, read from their topic for `ledger verify`: whose bytes are whole, and their `control.cedar`.

The topic alone is asked, never this machine's copies: those would hide that it was changed. Reads only.
Next: `verify.py` (who asks), `control/releases.py` (who writes the topic), `processors/control/rules.py`.
"""

from __future__ import annotations

import contextlib

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.control.rules import rules_alone
from sluicegate.processors.releases.release import CompiledRelease
from sluicegate.schemas import codec
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.records import ReleaseChunk
from sluicegate.streams.control.releases import unpack
from sluicegate.streams.scan import places, scan, stretches

Cuts = dict[tuple[str, int], dict[int, bytes]]
"""(digest, number of pieces) -> the pieces read so far."""


async def rules(consumer: AIOKafkaConsumer, env: str) -> dict[str, CompiledRelease | None]:
    """Digest -> its rules, of every release that is whole; None where `control.cedar` is absent.

    At most the pieces of releases that are not whole yet are kept, and of each whole one its rules.
    """
    found: dict[str, CompiledRelease | None] = {}
    cuts: Cuts = {}
    [stretch] = await stretches(consumer, places(env, "releases", [0]))
    async for batch in scan(consumer, stretch.place, stretch.begin, stretch.end):
        for record in batch:
            with contextlib.suppress(SluicegateError):  # of another form, or of another digest: not whole
                _take(codec.decode_as(ReleaseChunk, record.value or b""), cuts, found)
    return found


def _take(chunk: ReleaseChunk, cuts: Cuts, found: dict[str, CompiledRelease | None]) -> None:
    """One piece. Raises `SluicegateError` when the whole is not what its digest says."""
    digest, count = chunk.digest, chunk.count
    if digest in found:
        return
    parts = cuts.setdefault((digest, count), {})
    parts[chunk.index] = chunk.data  # a later publication's piece stands for an earlier one's
    if len(parts) == count and all(i in parts for i in range(count)):
        found[digest] = rules_alone(unpack(b"".join(parts[i] for i in range(count)), digest))
        for key in [key for key in cuts if key[0] == digest]:
            del cuts[key]
