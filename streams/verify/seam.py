"""The generation before, folded again: what its partitions left is what this one has to have imported.

Reads only. Next: `processors/verify/seam.py` (who compares), `repartition/sealing.py`, `verify.py` (who calls this).
"""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer
from sluicegate.processors.control.control import Control
from sluicegate.processors.seam import generations
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.repartition.sealing import Folded, Seam, seam_of
from sluicegate.streams.scan import Advance
from sluicegate.streams.settings import Settings


async def remade(settings: Settings, consumer: AIOKafkaConsumer, control: Control, advance: Advance) -> Seam:
    """The seam before the settings' generation. Raises `Terminal` where the old one cannot be folded to its seals."""
    assert settings.generation
    old, new = (generations.at(control, settings.generation - step) for step in (1, 0))
    assert old is not None and new is not None
    folded = [Folded(settings.env, old, partition) for partition in range(old.partitions)]
    for one in folded:
        await one.catch_up(consumer, advance)
        if not one.state.sealed:
            raise Terminal(
                f"partition {one.place.partition} of generation {old.number} has no seal: nothing can be verified across the seam"
            )
    return seam_of(folded, new.partitions)
