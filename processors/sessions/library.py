"""The library: earlier inputs of a partition that are asked for again, and by session what they say, quick to search.

A memo and nothing else: a place in an input topic always holds the same bytes, so an entry follows from its place.
It is no part of the state; what is missing here is asked for through `Decision.needs` and read again, from the input
topic or from the ledger. One library serves one partition, live or replayed. Never reads anything itself.
Next: `grounding.py` (who searches), `guardrails/words.py` (how text is prepared).
"""

from __future__ import annotations

from sluicegate.processors.grounding import Choir
from sluicegate.processors.guardrails.words import NOTHING, Words, words_of
from sluicegate.processors.inputs import Input, Place, Tick
from sluicegate.processors.outcomes import Decision

KEPT_TOPICS = ("messages", "receipts", "intents", "transfers")
"""Inputs that are asked for again: words that ground values, calls that are offered a second time, and cached results."""

MAX_LIBRARY_BYTES = 16 * 1024 * 1024
"""Of one partition: 16,000 calls of 600 bytes that wait for an executor, or 2,500 results of 6 kB. What was not used for
longest leaves first, and costs a read of a few milliseconds when it is asked for."""

ENTRY_BYTES = 300
"""What an entry takes besides its input's bytes: place 100, its slot in the table 100, headers of objects."""

CHOIR_ENTRY_BYTES = 1_300
"""What an event's words take besides: tables, headers of objects, and its session's choir."""

MAX_CHOIR_BYTES = 4 * 1024 * 1024
"""Of the inputs whose words are gathered by session, in one partition; as words they take some three times as much.
Then all are let go, and gathered again when asked."""


class Library:
    """Place -> bytes, bounded; and by session the words that were gathered from them (`trace.py`)."""

    __slots__ = ("_bytes", "_choir_bytes", "_choirs", "_inputs", "limit_bytes")

    def __init__(self, limit_bytes: int = MAX_LIBRARY_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._inputs: dict[Place, bytes] = {}
        self._bytes = 0
        self._choirs: dict[tuple[str, str], Choir] = {}
        self._choir_bytes = 0

    def raw(self, place: Place) -> bytes | None:
        """The bytes at a place, or None when it must be read."""
        found = self._inputs.pop(place, None)
        if found is not None:
            self._inputs[place] = found  # the last one used stands last
        return found

    def get(self, place: Place) -> Words | None:
        """The words at a place, or None when it must be read."""
        found = self.raw(place)
        return None if found is None else words_of(found)

    def choir(self, agent_id: str, session_id: str, first: bytes, release: str) -> Choir:
        """What a session heard so far, to be added to. `first`: its first source's event; both must still fit."""
        key = (agent_id, session_id)
        found = self._choirs.get(key)
        if found is None or found.first != first or found.release != release:
            found = self._choirs[key] = Choir(first, release)
        return found

    def gathered(self, words: Words) -> None:
        """One event was added to a choir."""
        self._choir_bytes += CHOIR_ENTRY_BYTES + words.size_bytes
        if self._choir_bytes > MAX_CHOIR_BYTES:
            self._choirs.clear()
            self._choir_bytes = 0

    def put(self, place: Place, value: bytes | None) -> Words:
        """Keep an input. None: the bytes are gone, so they say nothing, and are not remembered as such."""
        if value is None:
            return NOTHING
        self.keep(place, value)
        return words_of(value)

    def remember(self, source: Input | Tick, decision: Decision) -> None:
        """Keep the bytes of an input that was just decided: they are at hand now. Nothing asks again for a refused one."""
        refused = bool(decision.outcomes) and decision.outcomes[-1].status == "refused"
        if isinstance(source, Input) and source.topic in KEPT_TOPICS and not refused:
            self.keep((source.topic, source.offset), source.value)

    def drop(self, place: Place) -> None:
        """Forget a place and all that was gathered from it, for erasure."""
        self._choirs.clear()
        self._drop(place)

    def keep(self, place: Place, value: bytes) -> None:
        """Keep the bytes at a place."""
        self._drop(place)
        self._inputs[place] = value
        self._bytes += ENTRY_BYTES + len(value)
        if self._bytes > self.limit_bytes:
            self._make_room(place)

    def _make_room(self, newest: Place) -> None:
        """Let the oldest go until a sixteenth is free: one at a time, finding the oldest of a table means walking over all
        that were dropped before it, 40 us an input in a full library."""
        oldest, size, enough = [], self._bytes, self.limit_bytes - self.limit_bytes // 16
        for place, value in self._inputs.items():
            left = size - ENTRY_BYTES - len(value)
            if place == newest or (size <= self.limit_bytes and left < enough):
                break
            oldest.append(place)
            size = left
        for place in oldest:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        found = self._inputs.pop(place, None)
        if found is not None:
            self._bytes -= ENTRY_BYTES + len(found)

    def __len__(self) -> int:
        return len(self._inputs)
