"""What a decision is made on: one record of an input topic, or a due deadline.

Plain data, filled by the ledger loop or by replay; nothing here reads anything. Next: `intake.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicegate.processors.sessions.library import Library

Place = tuple[str, int]
"""(topic without prefix, offset) in the deciding partition: where an input's bytes stand."""


@dataclass(slots=True)
class Input:
    """One record of an input topic, as bytes.

    Attributes:
        topic: without the environment prefix.
        control_stale: the worker could not confirm control's head for 5 s.
        contents: bytes a first call of `decide` asked for; None where they no longer exist.
        library: what earlier inputs say, prepared; a memo that may be missing.
    """

    topic: str
    partition: int
    offset: int
    value: bytes
    control_stale: bool = False
    contents: dict[Place, bytes | None] = field(default_factory=dict)
    library: Library | None = None


@dataclass(slots=True)
class Tick:
    """The time reached a deadline: it concerns the intent that has been due longest.

    Attributes:
        due_by: deadlines up to here may be acted on; the ledger loop made sure that nothing before was overlooked.
        order: instead of a deadline, the control event that orders an agent's rollback (`agents/restore.py`).
    """

    partition: int
    due_by: int
    control_stale: bool = False
    contents: dict[Place, bytes | None] = field(default_factory=dict)
    library: Library | None = None
    order: int = -1
