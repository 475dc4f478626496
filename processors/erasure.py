"""Erasure: a subject's key was destroyed, and everything here knows by which control event.

    subject.erased   {subjects: [...]}   their keys are destroyed after it; nothing said of them opens from there on

What was sealed stays on the ledger as ciphertext that nobody can open; headers and facts fold as before. The bytes of
inputs stand in their topics for a while longer, so every decision that would load them asks `is_erased` first. Who comes
back after an erasure is sealed under a key of a new name (`key_name`): sessions that stood on the old one take no more
calls. Never holds content or a key. Pure. Next: `control/control.py` (the fold), `streams/erasures.py` (who destroys).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from sluicegate.processors.control.control import Body, Control

KIND: Final = "subject.erased"
REASON: Final = "subject_erased"

MAX_ERASED = 1_000_000
"""Subjects in one control ledger, about 250 bytes each: 250 MB. `sluicegate erase` stops there."""

MAX_TIMES = 100
"""Erasures of one subject that comes back again and again; the command stops there."""

_MARK = "#"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure of one subject.

    Attributes:
        event: seq of the control event, whose facts say why.
        at: its time, in microseconds.
        who: the person who ordered it.
    """

    event: int
    at: int
    who: str


Erased = Mapping[str, tuple[Erasure, ...]]
"""Subject as it was named first -> its erasures, in order."""


def key_name(control: Control, subject: str) -> str:
    """The subject that a session which opens now seals under: after an erasure one that the erasure does not reach."""
    times = control.erased.get(subject)
    return f"{subject}{_MARK}{times[-1].event}" if times else subject


def key_names(control: Control, subject: str) -> list[str]:
    """Every name that a subject's content was ever sealed under, the oldest first; the last one is `key_name`."""
    return [subject, *(f"{subject}{_MARK}{one.event}" for one in control.erased.get(subject, ()))]


def first_name(control: Control, name: str) -> str:
    """The subject as it was named first, of any of its names."""
    subject, mark, number = name.rpartition(_MARK)
    known = mark and any(str(one.event) == number for one in control.erased.get(subject, ()))
    return subject if known else name


def erased_by(control: Control, name: str) -> Erasure | None:
    """The event by which content of this header's `subject` was erased, or None when it was not.

    None and no key at hand means that the key is elsewhere or lost, not that anybody asked for it.
    """
    if not control.erased:
        return None
    subject = first_name(control, name)
    names = key_names(control, subject)
    times = control.erased.get(subject, ())
    at = names.index(name) if name in names else 0
    return times[at] if at < len(times) else None


def is_erased(control: Control, name: str) -> bool:
    """Whether what is about this header's `subject` may not be read any more, wherever its bytes still stand."""
    return bool(control.erased) and erased_by(control, name) is not None


def step(new: Control, body: Body, who: str) -> None:
    """`subject.erased` {subjects}: from here on they are."""
    erased = dict(new.erased)
    for subject in sorted({str(one) for one in cast("list[object]", body["subjects"])}):
        times = erased.get(subject, ())
        if len(times) < MAX_TIMES and (times or len(erased) < MAX_ERASED):
            erased[subject] = (*times, Erasure(new.head, new.at, who))
    new.erased = erased
