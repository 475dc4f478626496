"""The library: what earlier inputs of a partition say, kept as words that are quick to search.

A memo and nothing else: a place in an input topic always holds the same bytes, so an entry follows from its place.
It is no part of the state; what is missing here is asked for through `Decision.needs` and read again, from the input
topic or from the ledger. One library serves one partition, live or replayed. Never reads anything itself.
Next: `grounding.py` (who searches), `words.py` (how text is prepared).
"""

from __future__ import annotations

from sluicegate.processors.grounding import Choir
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.outcomes import Decision
from sluicegate.processors.words import NOTHING, Words, words_of

KEPT_TOPICS = ("messages", "receipts", "intents")
"""Inputs that are asked for again: words that ground values, and calls that are offered a second time."""

MAX_LIBRARY_BYTES = 64 * 1024 * 1024
"""Of one partition: about 10,000 results of 6 kB. Words take some three times as much, and what was not used for longest
leaves first."""

ENTRY_BYTES = 300
"""What an entry takes besides its input's bytes: place 100, its slot in the table 100, headers of objects."""


MAX_CHOIR_EVENTS = 10_000
"""Events gathered by session; about as many as fit the library. Then all are let go and gathered again when asked."""


class Library:
    """Place -> words, bounded; and by session what was gathered from them (`trace.py`)."""

    __slots__ = ("_bytes", "_choir_events", "_choirs", "_words", "limit_bytes")

    def __init__(self, limit_bytes: int = MAX_LIBRARY_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._words: dict[Place, Words | bytes] = {}
        self._bytes = 0
        self._choirs: dict[tuple[str, str], Choir] = {}
        self._choir_events = 0

    def get(self, place: Place) -> Words | None:
        """The words at a place, or None when it must be read."""
        found = self._words.pop(place, None)
        if found is None:
            return None
        words = words_of(found) if isinstance(found, bytes) else found
        self._words[place] = words  # the last one used stands last
        return words

    def choir(self, agent_id: str, session_id: str, first: bytes, release: str) -> Choir:
        """What a session heard so far, to be added to. `first`: its first source's event; both must still fit."""
        key = (agent_id, session_id)
        found = self._choirs.get(key)
        if found is None or found.first != first or found.release != release:
            found = self._choirs[key] = Choir(first, release)
        return found

    def gathered(self) -> None:
        """One event was added to a choir."""
        self._choir_events += 1
        if self._choir_events > MAX_CHOIR_EVENTS:
            self._choirs.clear()
            self._choir_events = 0

    def raw(self, place: Place) -> bytes | None:
        """The bytes at a place, or None when it must be read."""
        found = self._words.get(place)
        return found.raw if isinstance(found, Words) else found

    def put(self, place: Place, value: bytes | None) -> Words:
        """Keep an input's words. None: the bytes are gone, so they say nothing, and are not remembered as such."""
        if value is None:
            return NOTHING
        self._drop(place)
        words = self._words[place] = words_of(value)
        self._bytes += ENTRY_BYTES + words.size_bytes
        self._shrink()
        return words

    def remember(self, source: Input | Tick, decision: Decision) -> None:
        """Keep the bytes of an input that was just decided: they are at hand now, and prepared when first asked."""
        refused = (
            bool(decision.outcomes) and decision.outcomes[-1].status == "refused"
        )  # never asked for again
        if isinstance(source, Input) and source.topic in KEPT_TOPICS and not refused:
            place = (source.topic, source.offset)
            self._drop(place)
            self._words[place] = source.value
            self._bytes += ENTRY_BYTES + len(source.value)
            self._shrink()

    def drop(self, place: Place) -> None:
        """Forget a place and all that was gathered from it, for erasure."""
        self._choirs.clear()
        self._drop(place)

    def _drop(self, place: Place) -> None:
        found = self._words.pop(place, None)
        if found is not None:
            size = len(found) if isinstance(found, bytes) else found.size_bytes
            self._bytes -= ENTRY_BYTES + size

    def _shrink(self) -> None:
        while self._bytes > self.limit_bytes and len(self._words) > 1:
            self._drop(next(iter(self._words)))

    def __len__(self) -> int:
        return len(self._words)
