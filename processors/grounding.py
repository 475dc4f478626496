"""Grounding: where does the value of a protected argument come from?

For each protected argument of a call: from the user's words, from a field of a result, from a constant or default
that the contract approves, or from nowhere (the hallucinated parameter). The answer names the event it was found in and
the label of that place. Of several places the most trusted one counts. Rules of DESIGN §5.3:

    exact      the whole value, as whole tokens
    account    as exact, whatever its grouping
    amount     an equal number           date    an equal date
    links      each link or address in a text, as exact; the rest of the text is free
    text       each token of six characters or more, as exact; shorter ones are free

Never calls a model, never guesses by similarity. Pure. Next: `guardrails/words.py`, `authorize.py` (who asks).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sluicegate.processors.guardrails.words import (
    MAX_COMPACT_CHARS,
    Paths,
    Words,
    compact,
    dates_in,
    normal,
    number,
)
from sluicegate.processors.labels import INTEGRITY, INTERNAL, UNKNOWN, USER

Json = object

KINDS = ("exact", "account", "amount", "date", "links", "text")
MIN_TEXT_TOKEN_CHARS = 6
"""Shorter tokens of free text occur by chance (DESIGN §5.3)."""
MAX_PARTS = 200
"""Values of one argument that are looked for (list items, links, tokens); beyond, the argument is from nowhere."""

_LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"')\]*`\\]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?<![\w@.])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}(?:/[^\s<>\"')\]]*)?(?!\w)"
)
_ESCAPED = re.compile(r"\\[nrt]")
"""Models write line breaks as two characters: `\\nwww.example.com` names no host `nwww`."""
_TOKEN = re.compile(r"[^\s,;:!?()\[\]{}\"<>]+")
_JOINERS = ".@-/:_"
"""Between two letters these hold one token together: `bob` does not occur in `bob@example.com`."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One event of a session that values may come from, with its words.

    Attributes:
        rank_at: path -> rank of the integrity label there.
    """

    origin: str
    event_id: bytes
    words: Words
    rank_at: Callable[[str], int]


@dataclass(slots=True)
class Choir:
    """All that one session heard, in order: its people apart from its tools.

    Attributes:
        first, release: what it was gathered for; another first source or release makes another choir.
        count: sources gathered.
    """

    first: bytes = b""
    release: str = ""
    count: int = 0
    people: list[Heard] = field(default_factory=list)
    tools: list[Heard] = field(default_factory=list)

    def add(self, heard: Heard) -> None:
        """One more event."""
        self.count += 1
        (self.people if heard.origin == "user" else self.tools).append(heard)


@dataclass(frozen=True, slots=True)
class Grounded:
    """Where one protected argument's value comes from: user, result, constant, default, absent or nowhere."""

    argument: str
    origin: str
    rank: int
    event_id: bytes = b""
    path: str = ""

    @property
    def label(self) -> str:
        """The integrity label as a word."""
        return INTEGRITY[self.rank]


def ground(
    args: dict[str, Json], protected: dict[str, str], constants: dict[str, frozenset[str]],
    defaults: dict[str, frozenset[str]], choir: Choir,
) -> list[Grounded]:  # fmt: skip
    """One answer for each protected argument, in the contract's order. `constants` and `defaults` are normalised."""
    return [
        _ground(name, kind, value_at(args, name), constants.get(name), defaults.get(name), choir)
        for name, kind in protected.items()
    ]


def worst_of(found: list[Grounded]) -> int:
    """The worst rank of all; `user` for none."""
    return max((g.rank for g in found), default=USER)


def value_at(args: dict[str, Json], path: str) -> Json:
    """The argument at a dotted path, or None."""
    value: Json = args
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _ground(
    name: str, kind: str, value: Json, constants: frozenset[str] | None, defaults: frozenset[str] | None,
    choir: Choir,
) -> Grounded:  # fmt: skip
    parts = list(_parts(kind, value))
    if not parts:
        return Grounded(name, "absent", USER)
    if len(parts) > MAX_PARTS:
        return Grounded(name, "nowhere", UNKNOWN)
    result: Grounded | None = None
    for part in parts:
        found = _one(name, kind, part, constants, defaults, choir)
        if result is None or found.rank > result.rank:
            result = found
    assert result is not None
    return result


def _parts(kind: str, value: Json) -> Iterator[Json]:
    """The values to look for. A truth value says too little to come from somewhere."""
    if value is None or isinstance(value, bool) or value == "":
        return
    if isinstance(value, list):
        for item in value:
            yield from _parts(kind, item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _parts(kind, item)
    elif kind == "links" and isinstance(value, str):
        yield from (m[0].rstrip(".,;:!?_/") for m in _LINK.finditer(normal(_ESCAPED.sub(" ", value))))
    elif kind == "text" and isinstance(value, str):
        tokens = (t.strip(".'`*_-/") for t in _TOKEN.findall(normal(value)))
        yield from (t for t in tokens if len(t) >= MIN_TEXT_TOKEN_CHARS)
    else:
        yield value


def _one(
    name: str, kind: str, value: Json, constants: frozenset[str] | None, defaults: frozenset[str] | None,
    choir: Choir,
) -> Grounded:  # fmt: skip
    key = plain(value)
    if constants is not None and key in constants:
        return Grounded(name, "constant", INTERNAL)
    if defaults is not None and key in defaults:
        return Grounded(name, "default", INTERNAL)
    best: Grounded | None = None
    look = _LOOK.get(kind, _exact)
    for events in (choir.people, choir.tools):
        for event in reversed(events):
            for path in look(value, key, event.words):
                rank = event.rank_at(path)
                if best is None or rank < best.rank:
                    best = Grounded(name, event.origin, rank, event.event_id, path)
            if best is not None and best.rank == USER:
                return best
    return best or Grounded(name, "nowhere", UNKNOWN)


def plain(value: Json) -> str:
    """A value as `Words.whole` knows it."""
    return normal(value) if isinstance(value, str) else number(value) or ""


def _exact(value: Json, key: str, words: Words) -> Paths:
    if not isinstance(value, str):
        return words.numbers.get(key, ())
    found = list(words.whole.get(key, ()))
    found += [path for path, text in words.texts if path not in found and occurs(key, text)]
    bare = key.split("://", 1)[-1] if key.startswith(("http://", "https://")) else ""
    return tuple(found) if found or not bare else _exact(bare, bare, words)


def _link(value: Json, key: str, words: Words) -> Paths:
    """As exact; a host is the same with and without `www.`."""
    found = _exact(value, key, words)
    if found:
        return found
    bare = key.split("://", 1)[-1]
    other = bare.removeprefix("www.") if bare.startswith("www.") else "www." + bare
    return _exact(other, other, words)


def _account(value: Json, key: str, words: Words) -> Paths:
    short = compact(key)
    found = list(words.compact.get(short, ()))
    if 0 < len(short) <= MAX_COMPACT_CHARS:
        grouped = re.compile(r"(?<!\w)" + r"[ \-]?".join(map(re.escape, short)) + r"(?!\w)")
        found += [path for path, text in words.texts if path not in found and grouped.search(text)]
    return tuple(found)


def _amount(value: Json, key: str, words: Words) -> Paths:
    return words.numbers.get(number(value) or "", ()) if key else ()


def _date(value: Json, key: str, words: Words) -> Paths:
    found: list[str] = []
    for date in sorted(dates_in(key)):
        found += [p for p in words.dates.get(date, ()) if p not in found]
    return tuple(found) or _exact(value, key, words)


_LOOK: dict[str, Callable[[Json, str, Words], Paths]] = {
    "account": _account,
    "amount": _amount,
    "date": _date,
    "links": _link,
}


def occurs(value: str, text: str) -> bool:
    """Whether a normalised value stands in a normalised text as whole tokens."""
    at = text.find(value)
    while at >= 0:
        if not _joined(text, at - 1, -1) and not _joined(text, at + len(value), 1):
            return True
        at = text.find(value, at + 1)
    return False


def _joined(text: str, at: int, step: int) -> bool:
    """Whether the character outside an occurrence belongs to the same token."""
    if not 0 <= at < len(text):
        return False
    char = text[at]
    if char.isalnum():
        return True
    beyond = at + step
    return (
        char in _JOINERS
        and 0 <= beyond < len(text)
        and (text[beyond].isalnum() or text[beyond] == char == "/")
    )
