"""Ledger records into a state, fast: what recovery, a rebuild and an agent's fold have in common.

    bytes ▸ taken apart by position ▸ seq, chain and hash of the facts checked ▸ `apply`

A record is some ten microseconds: what an input's outcomes share is read once, short facts are known by their bytes,
and what the fold does not look at (causes, content) is passed over. Only the ledger's own encoding is read; a property
test holds it to `schemas/codec.py`. Never reads content. Pure. Next: `state.py` (`apply`), `verify/reading.py`.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NoReturn

from sluicegate.processors.outcomes import HEADER_VERSION, Origin, Outcome
from sluicegate.processors.state import PartitionState, apply
from sluicegate.processors.verify import reading
from sluicegate.processors.verify.reading_words import WORDS, words
from sluicegate.schemas import codec
from sluicegate.schemas import records as r
from sluicegate.schemas.codec import encode_long
from sluicegate.schemas.errors import Terminal, Unreadable
from sluicegate.schemas.positions import array, varint
from sluicegate.schemas.struct_reader import read_facts

_HEADER = codec.schema_of(r.Header).prefix
_VERSION = encode_long(HEADER_VERSION)
_LOG_ID_AT = codec.PREFIX_BYTES + len(_VERSION)
_NONE: list[str] = []
_NO_CAUSES: list[bytes] = []
"""Shared: nobody changes what is folded."""

SHORT_BYTES = 32
"""Facts this short say little, and many records say the same: those of a stage that passed have 18 bytes."""
MAX_SHORT, MAX_NAMED = 4_096, 4_096
"""Remembered at most: about 500 bytes each, 4 MB."""


_short: dict[bytes, tuple[object, bytes]] = {}
_texts: dict[bytes, list[str]] = {}


def _names(b: bytes, p: int) -> tuple[list[str], int]:
    """A list of texts that is not empty."""
    if b[p] == 2:  # one, as nearly always: its bytes are known
        found = _texts.get(b[p : p + 3 + (b[p + 1] >> 1)])
        if found is not None:
            return found, p + 3 + (b[p + 1] >> 1)
    raw, q = array(b, p, 0)
    key = b[p:q]
    found = _texts.get(key)
    if found is None:
        if len(_texts) >= MAX_NAMED:
            _texts.clear()
        found = _texts[key] = [text.decode() for text in raw]
    return found, q


def facts_of(raw: bytes) -> tuple[object, bytes]:
    """(the facts, their sha256). Raises `Unreadable`. The facts are shared: nobody changes them."""
    if len(raw) > SHORT_BYTES:
        return read_facts(raw), sha256(raw).digest()
    found = _short.get(raw)
    if found is None:
        if len(_short) >= MAX_SHORT:
            _short.clear()
        found = _short[raw] = (read_facts(raw), sha256(raw).digest())
    return found


class Folder:
    """Folds one partition's records, in order, into a state.

    `apply` may change an origin (its key), so one is shared by an input's outcomes only.
    """

    def __init__(self, state: PartitionState) -> None:
        self.state = state
        self._rest = b""
        self._origin: Origin | None = None
        self._log_id = b""
        self._start = b""
        self._seq_at = 0
        self.until: int | None = None
        """Up to when records are folded, in microseconds; None is to the end."""

    def add(self, value: bytes) -> None:
        """Fold a whole record of the topic. Raises `Terminal` when it does not continue the chain."""
        self.take(*reading.split_two(value))

    def take(self, header: bytes, facts: bytes) -> bool:
        """Fold a record, given by its header and its facts. False: it was decided after `until`, and is not."""
        state = self.state
        if self._log_id != state.log_id or not self._start:
            self._begin(header)
        # INVARIANT: seq is dense and every header names the one before (tests/crash, `ledger verify`).
        p = self._seq_at
        if not header.startswith(self._start):
            self._refuse(header)
        try:
            n = header[p]
            if n < 0x80:
                p += 1
            elif (m := header[p + 1]) < 0x80:
                n, p = n + (m << 7) - 0x80, p + 2
            elif (o := header[p + 2]) < 0x80:
                n, p = n + (m << 7) + (o << 14) - 0x4080, p + 3
            else:
                n, p = varint(header, p)
            if n != state.seq << 1:
                self._refuse(header)
            event, p = header[p : p + 16], p + 16
            q = p + 1 + (header[p] >> 1)
            q += 1 + (header[q] >> 1)
            q += 1 + (header[q] >> 1)
            known = WORDS.get(header[p:q])
            said, p = (known, q) if known is not None else words(header, p)
            policies, labels = _NONE, _NONE
            if header[p]:
                policies, p = _names(header, p)
            else:
                p += 1
            if header[p] == 2 and not header[p + 17]:  # one cause, as nearly all have
                p += 18
            elif header[p]:
                _, p = array(header, p, 16)
            else:
                p += 1
            if header[p]:
                labels, p = _names(header, p)
            else:
                p += 1
            q = p + (65 if header[p + 32] else 33)
        except (IndexError, ValueError) as error:
            raise Unreadable("malformed_record", f"the header is damaged ({error})") from error
        if header[q : q + 32] != state.prev_hash:
            self._refuse(header)
        record, digest = facts_of(facts)
        if digest != header[p : p + 32]:
            raise Terminal(f"the facts of seq {state.seq} in partition {state.partition} were changed")
        rest, origin = header[q + 32 :], self._origin
        if rest != self._rest or origin is None:
            origin = Origin(*reading.rest(rest))
            if self.until is not None and origin.decided_at > self.until:
                return False
            self._origin, self._rest = origin, rest
        apply(state, Outcome(origin, event, *said, record, policies, _NO_CAUSES, labels, None))
        state.prev_hash = sha256(b"\x00" + header).digest()
        return True

    def _begin(self, header: bytes) -> None:
        """What every header of this partition begins with. The first record names the log."""
        state = self.state
        if state.seq == 0:
            state.log_id = header[_LOG_ID_AT : _LOG_ID_AT + 16]
        self._log_id = state.log_id
        self._start = _HEADER + _VERSION + state.log_id + encode_long(state.partition)
        self._seq_at = len(self._start)

    def _refuse(self, header: bytes) -> NoReturn:
        found = reading.head(header)
        state = self.state
        raise Terminal(
            f"ledger partition {state.partition} is broken at seq {found.seq} (expected {state.seq}), "
            "run `sluicegate ledger verify`"
        )
