"""What is remembered of an ended intent until its id leaves the window, packed into 45 bytes.

A worker remembers hundreds of thousands of these (`intents.py` keeps them). Words that this version knows are numbers in it, by their place in
its lists; others, of a ledger written by another version, are spelled out at the end. The packed form never leaves the
process: `snapshot.py` writes the fields. Never knows about open intents. Next: `state.py`.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from sluicegate.processors import lifecycle
from sluicegate.schemas.reasons import REASONS
from sluicegate.schemas.records import CacheFacts, CellFacts, ResultFacts
from sluicegate.schemas.topics import INPUTS, TICK

ID_BYTES = 16
"""Of the digest and of the event id, as the schemas fix them."""

_WORDS = (
    (*lifecycle.DECIDED_TERMINAL, *lifecycle.EXECUTED_TERMINAL, *lifecycle.OTHER),
    ("", *REASONS),
    (*INPUTS, TICK),
    ("",),
)
"""Known states, reasons, topics, redactions."""
_NUMBERS = tuple({word: n for n, word in enumerate(words)} for words in _WORDS)
_CODES = struct.Struct(">BHBB")
_SPELLED = (0xFF, 0xFFFF, 0xFF, 0xFF)
"""Instead of a number."""
_CODES_AT, _DIGEST_AT, _EVENT_AT = 8, 8 + _CODES.size, 8 + _CODES.size + ID_BYTES
PACKED_BYTES = _TAIL_AT = _EVENT_AT + ID_BYTES
"""Of one whose words are all numbers."""
_KINDS_MAX = 4_096
"""Different ends remembered by `_codes`: about 200 bytes each."""


_REDACTED = (ResultFacts, CacheFacts, CellFacts)


def taken_out(facts: object) -> str:
    """The recipes that were applied to a result before the agent saw it, separated by spaces."""
    return " ".join(facts.redacted) if isinstance(facts, _REDACTED) else ""


@lru_cache(_KINDS_MAX)
def _codes(*words: str) -> tuple[bytes, bytes]:
    """The numbers of the words, and the unknown ones spelled out: their length in 2 bytes, then UTF-8."""
    numbers = [
        known.get(word, spelled) for known, word, spelled in zip(_NUMBERS, words, _SPELLED, strict=True)
    ]
    unknown = [word.encode() for word, known in zip(words, _NUMBERS, strict=True) if word not in known]
    return _CODES.pack(*numbers), b"".join(len(raw).to_bytes(2, "big") + raw for raw in unknown)


def words_of(codes: bytes) -> tuple[str, ...]:
    """State, reason, topic and redactions by their numbers, none of which is spelled out."""
    return tuple(words[n] for words, n in zip(_WORDS, _CODES.unpack(codes), strict=True))


class Ended(bytes):
    """What is remembered of an ended intent, read by its fields.

    Attributes:
        digest: of the intent's bytes, 16 bytes.
        state, reason: how it ended.
        topic, offset: the input that ended it.
        event_id: of the outcome that ended it, 16 bytes.
        redacted: recipes that were applied to the result, separated by spaces; usually none.
    """

    # INVARIANT: each field is read as it was given, and equal fields are equal bytes. tests/properties/test_ended.py
    __slots__ = ()

    def __new__(
        cls,
        digest: bytes,
        state: str,
        reason: str,
        topic: str,
        offset: int,
        event_id: bytes,
        redacted: str = "",
    ) -> Ended:
        codes, tail = _codes(state, reason, topic, redacted)
        packed = offset.to_bytes(8, "big", signed=True) + codes + digest + event_id
        if len(packed) != _TAIL_AT:
            raise ValueError(f"digest and event id have {ID_BYTES} bytes each")
        return bytes.__new__(cls, packed + tail)

    @classmethod
    def unpack(cls, packed: bytes) -> Ended:
        """One as it was packed."""
        return bytes.__new__(cls, packed)

    @property
    def codes(self) -> bytes:
        """The numbers of its words: for `words_of`, where it has `PACKED_BYTES`."""
        return self[_CODES_AT:_DIGEST_AT]

    @property
    def digest(self) -> bytes:
        return self[_DIGEST_AT:_EVENT_AT]

    @property
    def state(self) -> str:
        return self._word(0)

    @property
    def reason(self) -> str:
        return self._word(1)

    @property
    def topic(self) -> str:
        return self._word(2)

    @property
    def offset(self) -> int:
        return int.from_bytes(self[:_CODES_AT], "big", signed=True)

    @property
    def event_id(self) -> bytes:
        return self[_EVENT_AT:_TAIL_AT]

    @property
    def redacted(self) -> str:
        return self._word(3)

    def _word(self, which: int) -> str:
        numbers: tuple[int, ...] = _CODES.unpack_from(self, _CODES_AT)
        if numbers[which] != _SPELLED[which]:
            return _WORDS[which][numbers[which]]
        at = _TAIL_AT
        for _ in range(sum(n == spelled for n, spelled in zip(numbers[:which], _SPELLED, strict=False))):
            at += 2 + int.from_bytes(self[at : at + 2], "big")
        return self[at + 2 : at + 2 + int.from_bytes(self[at : at + 2], "big")].decode()

    def __repr__(self) -> str:
        words = f"{self.state!r}, {self.reason!r}, {self.topic!r}"
        return f"Ended({self.digest!r}, {words}, {self.offset}, {self.event_id!r}, {self.redacted!r})"

    def __getnewargs__(self) -> tuple[object, ...]:  # type: ignore[override]
        """So that it can be copied."""
        return self.digest, self.state, self.reason, self.topic, self.offset, self.event_id, self.redacted
