"""The records of a seam, before they are chained: the seal of a partition, and the first ones of the next generation's.

    sealed     the last one of an old partition, with the root of all that is before it
    genesis    the first one of a new partition
    imported   then one for each piece of each slice, in the order of the old partitions

They are ticks of their partition under control's head, as no input leads to them. Pure. Next: `seam/seam.py`, `streams/repartition/repartition.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sluicegate.processors.control.control import Control
from sluicegate.processors.outcomes import Origin, Outcome, event_id
from sluicegate.processors.seam.fold import IMPORTED, SEALED, STAGE
from sluicegate.processors.seam.generations import Generation
from sluicegate.processors.seam.seam import Seal, imports
from sluicegate.processors.work import ENGINE, SYSTEM
from sluicegate.schemas.records import GenesisFacts, ImportFacts, SealFacts
from sluicegate.schemas.topics import TICK


def _tick(
    log_id: bytes, partition: int, seq: int, control: Control, now: int, status: str, facts: object
) -> Outcome:
    origin = Origin("", "", "", "", SYSTEM, now, TICK, partition, seq, control.head, control.deployed, ENGINE)
    return Outcome(origin, event_id(log_id, partition, seq, STAGE, 0), STAGE, status, "", facts)


def sealed(
    log_id: bytes, partition: int, seq: int, root: bytes, control: Control, generation: int, now: int
) -> Outcome:
    """The seal of a partition that holds `seq` records under `root`. `control`: the next generation is begun there."""
    assert control.repartition is not None
    facts = SealFacts(generation, control.repartition.log_id, seq, root)
    return _tick(log_id, partition, seq, control, now, SEALED, facts)


def genesis(one: Generation, partition: int, control: Control, now: int) -> Outcome:
    """The first record of a partition of a generation."""
    origin = Origin("", "", "", "", SYSTEM, now, "", partition, 0, control.head, "", ENGINE)
    ident = event_id(one.log_id, partition, 0, "genesis", 0)
    facts = GenesisFacts(one.log_id, one.partitions, control.env, control.signing)
    return Outcome(origin, ident, "genesis", "genesis", "", facts)


def imported(
    one: Generation, partition: int, seq: int, facts: ImportFacts, control: Control, now: int
) -> Outcome:
    """One piece of a slice."""
    return _tick(one.log_id, partition, seq, control, now, IMPORTED, facts)


def expected(seals: Sequence[Seal], slices: Sequence[Sequence[bytes]]) -> list[ImportFacts]:
    """The imports of one new partition: a slice of every old one, in their order."""
    return [facts for seal, rows in zip(seals, slices, strict=True) for facts in imports(seal, rows)]
