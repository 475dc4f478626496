"""Generations: how many partitions a log has, and which log that is. A repartition begins one and, when it stands, starts it.

    generation.begun      {number, log_id, partitions}   nothing new is permitted; what is open comes to its end
    generation.started    {number}                       every partition is sealed, its state imported: this one decides
    generation.called_off {number}                       before anything was sealed: everything goes on as it was

Each generation has a random log id and topics of its own (`topics.space_of`); control is one ledger for all of them, under the
log id of the first. An event that does not fit changes nothing. Pure. Next: `control/control.py` (the fold), `seam/seam.py` (what is moved).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from sluicegate.schemas.places import MAX_GENERATION, PARTITION_BITS

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Control

BEGUN: Final = "generation.begun"
STARTED: Final = "generation.started"
CALLED_OFF: Final = "generation.called_off"

REASON = "repartitioning"
"""Why nothing new is permitted while one is begun."""

LOG_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of an environment's log.

    Attributes:
        begun, started: control events; -1 while it is not.
    """

    number: int
    log_id: bytes
    partitions: int
    begun: int = -1
    started: int = -1


def first(control: Control) -> Generation:
    """The generation that the genesis made."""
    return (
        control.generations[0]
        if control.generations
        else Generation(0, control.log_id, control.partitions, 0, 0)
    )


def current(control: Control) -> Generation:
    """The one that decides."""
    return control.generations[-1] if control.generations else first(control)


def at(control: Control, number: int | None) -> Generation | None:
    """One that was started; None for another number. Without a number the current one."""
    if number is None or not control.generations:
        return current(control) if not number else None
    return control.generations[number] if 0 <= number < len(control.generations) else None


def seen_from(control: Control, number: int | None) -> Control:
    """Control as a partition of this generation stands under it: with that one's log id and number of partitions."""
    one = at(control, number)
    if one is None or (one.log_id, one.partitions) == (control.log_id, control.partitions):
        return control
    return replace(control, log_id=one.log_id, partitions=one.partitions)


def all_seen_from(history: Sequence[Control], number: int | None) -> list[Control]:
    """All of control's history so; what was before a generation was begun, too, as verify and replay begin there."""
    one = at(history[-1], number) if history else None
    if one is None or one.number == 0 == current(history[-1]).number:
        return list(history)
    return [replace(control, log_id=one.log_id, partitions=one.partitions) for control in history]


def begin(new: Control, body: Mapping[str, object], who: str) -> None:
    """`generation.begun`."""
    number, partitions = cast(int, body["number"]), cast(int, body["partitions"])
    log_id = bytes.fromhex(str(body["log_id"]))
    known = {one.log_id for one in new.generations}
    fits = number == current(new).number + 1 <= MAX_GENERATION and 0 < partitions < 1 << PARTITION_BITS
    # INVARIANT: no log id comes to mean two logs (tests/unit/test_seam.py).
    fresh = len(log_id) == LOG_ID_BYTES and log_id not in known
    if new.repartition is None and fits and fresh and partitions != new.partitions:
        new.repartition = Generation(number, log_id, partitions, new.head)


def start(new: Control, body: Mapping[str, object], who: str) -> None:
    """`generation.started`: from here on control's log id and partitions are those of the new one."""
    one = new.repartition
    if one is not None and one.number == cast(int, body["number"]):
        new.generations = (*new.generations, replace(one, started=new.head))
        new.log_id, new.partitions, new.repartition = one.log_id, one.partitions, None


def call_off(new: Control, body: Mapping[str, object], who: str) -> None:
    """`generation.called_off`."""
    if new.repartition is not None and new.repartition.number == cast(int, body["number"]):
        new.repartition = None


STEPS = {BEGUN: begin, STARTED: start, CALLED_OFF: call_off}
"""Kind -> what it changes."""
