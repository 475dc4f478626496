"""Words and times as people write them on the command line: what is none of those that there are is wrong usage.

Looks at nothing but the words, so it is asked before anything else is. Next: `commands/replay.py`, `commands/quarantine.py`.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable

from sluicegate.processors.releases.findings import nearest
from sluicegate.schemas.errors import WrongUsage

_POSITION = re.compile(r"(?:([0-9]{1,9}):)?(-1|[0-9]{1,18})")

MIN_PART_CHARS = 3
"""A shorter word is a part of too many names."""
MANY = 12
"""More known words than these are not listed whole: the nearest is named."""


def one_of(what: str, word: str, known: Iterable[str]) -> str:
    """The word, when it is one of those known. Raises `WrongUsage` with them."""
    names = list(known)
    if word not in names:
        hint = nearest(word, names) if len(names) > MANY else f", choose one of {', '.join(names)}"
        raise WrongUsage(f"there is no {what} `{word[:80]}`{hint}")
    return word


def near_names(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The names that a word was probably meant for, the likeliest first: those it is a part of, then those spelt alike."""
    names, low = list(known), word.casefold()
    parts = sorted((n for n in names if len(low) >= MIN_PART_CHARS and low in n.casefold()), key=len)
    alike = difflib.get_close_matches(word, names, most, 0.6)
    return list(dict.fromkeys((*parts, *alike)))[:most]


def an_id(text: str) -> str:
    """What could be somebody's or something's id. Raises `WrongUsage`."""
    from sluicegate.processors.route import valid_id  # all of the deciding code comes with it

    if not valid_id(text):
        raise WrongUsage(f"`{text[:80]}` is no id: 1 to 256 printable characters")
    return text


def position_of(text: str) -> tuple[int | None, int] | None:
    """(partition, seq) of `SEQ` or `PARTITION:SEQ`, -1 for before everything; a partition of None where none is named, and
    None for what is no position."""
    found = _POSITION.fullmatch(text)
    return found and (int(found[1]) if found[1] else None, int(found[2]))


def micros_of(text: str, expected: str = "no time, write ISO 8601 such as") -> int:
    """Microseconds of an ISO 8601 time, UTC unless it says otherwise. Raises `WrongUsage`, which says what is expected."""
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongUsage(f"`{text}` is {expected} `2026-05-31T12:00:00`") from error
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return int(at.timestamp() * 1_000_000)


def moment(text: str) -> int:
    """A time where a position could stand, too."""
    return micros_of(text, "neither PARTITION:SEQ nor a time, write `2:1200` or")
