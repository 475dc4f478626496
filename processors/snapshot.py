"""State <-> canonical bytes: what a snapshot holds, and what two folds are compared by.

The same state always gives the same bytes: maps are written sorted, nothing is pickled, floats do not occur.
`encode_parts` yields pieces, so that a large state is written without stopping the event loop for long.
Next: `state.py`; `streams/lanes/recovery.py` stores and restores these.
"""

from __future__ import annotations

import hashlib
import heapq
import io
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice

import fastavro
from sluicegate.processors.budget import snapshot as budget_snapshot
from sluicegate.processors.cache.entries import CacheEntry
from sluicegate.processors.crossing.alarms import remember, set_alarm
from sluicegate.processors.ended import PACKED_BYTES, Ended, words_of
from sluicegate.processors.entries import Closed
from sluicegate.processors.intents import keys_in
from sluicegate.processors.memory.cells import Cell, Piece
from sluicegate.processors.models import health
from sluicegate.processors.models.health import Health
from sluicegate.processors.sessions.session import NO_COUNTS, Session, Source, learn
from sluicegate.processors.state import OpenIntent, PartitionState
from sluicegate.schemas.codec import encode_array, encode_bytes, encode_long, encode_string
from sluicegate.schemas.errors import Terminal

FORMAT = 15
PIECE_ENTRIES = 2_000
"""Entries written between two pieces: about 5 ms of work."""

_SESSION = ("agent_id", "session_id", "subject", "on_behalf_of", "origin", "opened_at", "last_at", "calls",
            "user_messages", "opened_by", "dispatched", "integrity", "confidentiality", "recent", "halted", "idle",
            "calls_before", "verified", "chain", "roles_cap", "calls_cap", "calls_given", "held", "sure", "falls",
            "release", "opened_head", "opened_offset")  # fmt: skip
_CLOSED = ("at", "subject", "release", "opened_by")
_SOURCE = ("event_id", "origin", "topic", "offset", "tool", "redacted")
_CELL = ("agent_id", "topic", "offset", "version", "value_digest", "integrity", "confidentiality", "subject",
         "scope", "base_version", "seq", "at", "form", "size")  # fmt: skip
_CACHE = ("tool", "home", "ttl_us", "state", "runner", "away", "lease_until", "topic", "offset", "expires_at",
          "made_by", "subject")  # fmt: skip
_COUNTERS = ("counts", "last_used", "sums")
_OPEN = ("intent_id", "agent_id", "session_id", "tenant", "subject", "tool", "version", "executor", "state", "digest",
         "issued_at", "deadline_at", "topic", "offset", "release", "last_event", "tool_class", "attempt", "due_at",
         "dispatch_id", "action_digest", "timeout_ms", "claimed_at", "redacted", "asked", "quorum", "reviewers",
         "approvals", "hold_policies", "hold_release", "held_at", "asked_at", "waited_us", "edit_topic",
         "edit_offset", "keeps", "awaits", "waits_for", "polls", "alive_until", "ends_at", "job_topic", "job_offset",
         "routes", "candidate", "tried", "aimed", "repair",
         "cached", "withdrawn", "stream", "shown")  # fmt: skip
_ENDED = {
    "digest": "bytes",
    "state": "str",
    "reason": "str",
    "topic": "str",
    "offset": "int",
    "event_id": "bytes",
    "redacted": "str",
}
_HEAD = ("log_id", "partition", "partitions", "env", "signing", "seq", "prev_hash", "now", "control_head",
         "open_count", "swept_hour", "sealed", "imported", "began", "earlier")  # fmt: skip


def _write(value: object) -> bytes:
    if type(value) is str:
        return encode_string(value)
    if type(value) is bytes:
        return encode_bytes(value)
    if type(value) is tuple:
        return encode_array(list(value), encode_string)
    assert type(value) is int
    return encode_long(value)


def _fields(record: object, names: Iterable[str]) -> bytes:
    return b"".join([_write(getattr(record, n)) for n in names])


def encode_parts(state: PartitionState) -> Iterator[bytes]:
    """The canonical bytes of a state, in pieces."""
    yield encode_long(FORMAT) + _fields(state, _HEAD)
    positions = sorted(state.positions.items())
    yield encode_long(len(positions)) + b"".join(encode_string(t) + encode_long(o) for t, o in positions)
    for sessions, packed in (
        (state.sessions, state.sessions.packed),
        (state.parked, lambda n: _session(state.parked[n])),
    ):
        names = sorted(sessions)
        yield encode_long(len(names))
        for at in range(0, len(names), PIECE_ENTRIES):
            yield b"".join(packed(n) for n in names[at : at + PIECE_ENTRIES])
    yield encode_long(len(state.closed)) + b"".join(
        encode_string(name) + _fields(one, _CLOSED)
        for name, one in state.closed.items()  # the oldest first
    )
    yield _counter(state.marks)
    yield _counter(state.alarms)
    yield _counter(state.restored)
    yield encode_long(len(state.withdrawn)) + b"".join(
        encode_string(name) + encode_bytes(event) + encode_long(at)
        for name, (event, at) in state.withdrawn.items()  # the oldest first
    )
    yield encode_long(len(state.seen)) + b"".join(k + encode_long(state.seen[k]) for k in sorted(state.seen))
    yield from budget_snapshot.encode(state)
    yield encode_long(len(state.health)) + b"".join(
        encode_string(name) + _fields(one, health.FIELDS) for name, one in health.rows(state.health)
    )
    cells = sorted(state.memory)
    yield encode_long(len(cells))
    for at in range(0, len(cells), PIECE_ENTRIES):
        yield b"".join(key + _cell(state.memory[key]) for key in cells[at : at + PIECE_ENTRIES])
    yield encode_long(len(state.shelves))
    for name in sorted(state.shelves):  # the order of its cells is part of it
        yield encode_string(name) + encode_bytes(b"".join(state.shelves[name]))
    yield encode_long(len(state.cache.entries))
    yield b"".join(key + _cached(state.cache.entries[key]) for key in sorted(state.cache.entries))
    hour_of = {key: hour for hour, keys in state.expiry.items() for key in keys_in(keys)}
    intents = state.intents.ordered()
    yield encode_long(len(state.intents))
    while piece := list(islice(intents, PIECE_ENTRIES)):
        yield b"".join([_entry(key, hour_of[key], entry) for key, entry in piece])


def _session(session: Session) -> bytes:
    sources = [_source(source) for source in session.sources]
    counters = [_counter(getattr(session, name)) for name in _COUNTERS]
    cells = b"".join(session.cells)
    return b"".join(
        [_fields(session, _SESSION), encode_bytes(cells), encode_long(len(sources)), *sources, *counters]
    )


def _source(s: Source) -> bytes:
    """`_fields(s, _SOURCE)`: a session has up to 200, and their words are few."""
    place = _name(s.origin), _name(s.topic), encode_long(s.offset), _name(s.tool), _name(s.redacted)
    return encode_bytes(s.event_id) + b"".join(place)


def pack_session(session: Session) -> bytes:
    """The canonical bytes of one session."""
    return _session(session)


def unpack_session(packed: bytes) -> Session:
    """The session in canonical bytes."""
    return _Reader(packed).session()


def _cell(cell: Cell) -> bytes:
    pieces = [b"".join(map(_write, piece)) for piece in cell.pieces]
    return _fields(cell, _CELL) + encode_long(len(pieces)) + b"".join(pieces)


def _cached(entry: CacheEntry) -> bytes:
    queue = [encode_long(number) for pair in entry.queue for number in pair]
    waiters = encode_bytes(b"".join(entry.waiters))
    return _fields(entry, _CACHE) + waiters + encode_long(len(entry.queue)) + b"".join(queue)


def _counter(counts: Mapping[str, int]) -> bytes:
    parts = [encode_string(name) + encode_long(counts[name]) for name in sorted(counts)]
    return encode_long(len(parts)) + b"".join(parts)


def _entry(key: bytes, hour: int, entry: OpenIntent | Ended) -> bytes:
    if type(entry) is not Ended:
        return key + encode_long(hour) + b"\x01" + _fields(entry, _OPEN)
    if len(entry) != PACKED_BYTES:
        return key + encode_long(hour) + b"\x00" + _fields(entry, _ENDED)
    # INVARIANT: the same as field by field (tests/properties/test_ended.py). A partition remembers millions of these, whose
    # words are a few dozen combinations.
    said, redacted = _words(entry.codes)
    digest, at, event = encode_bytes(entry.digest), encode_long(entry.offset), encode_bytes(entry.event_id)
    return b"".join((key, encode_long(hour), b"\x00", digest, said, at, event, redacted))


@lru_cache(4_096)  # x some 200 bytes
def _words(codes: bytes) -> tuple[bytes, bytes]:
    state, reason, topic, redacted = words_of(codes)
    return encode_string(state) + encode_string(reason) + encode_string(topic), encode_string(redacted)


_name = lru_cache(4_096)(encode_string)  # origins, topics and tools: x some 200 bytes


def encode(state: PartitionState) -> bytes:
    """The canonical bytes of a state."""
    return b"".join(encode_parts(state))


def digest(state: PartitionState) -> bytes:
    """sha256 of the canonical bytes."""
    total = hashlib.sha256()
    for part in encode_parts(state):
        total.update(part)
    return total.digest()


_TEXTS = {"type": "array", "items": "string"}


class _Reader:
    """Reads what `_write` wrote, by the Avro library's own primitives."""

    def __init__(self, data: bytes) -> None:
        self._io = io.BytesIO(data)

    def long(self) -> int:
        return int(fastavro.schemaless_reader(self._io, "long", None))  # type: ignore[arg-type]

    def text(self) -> str:
        return self.blob().decode()

    def blob(self) -> bytes:
        return self.raw(self.long())

    def texts(self) -> tuple[str, ...]:
        return tuple(fastavro.schemaless_reader(self._io, _TEXTS, None))  # type: ignore[arg-type]

    def raw(self, size: int) -> bytes:
        data = self._io.read(size)
        if len(data) != size:
            raise Terminal("the snapshot is cut short")
        return data

    def fields(self, record: type, names: tuple[str, ...]) -> list[object]:
        kinds = record.__annotations__
        return [self.one(kinds[n]) for n in names]

    def counter(self) -> dict[str, int]:
        return {self.text(): self.long() for _ in range(self.long())}

    def session(self) -> Session:
        found = Session(**dict(zip(_SESSION, self.fields(Session, _SESSION), strict=True)))  # type: ignore[arg-type]
        cells = self.blob()
        found.cells = tuple(cells[at : at + 16] for at in range(0, len(cells), 16))
        for _ in range(self.long()):
            learn(found, Source(*self.fields(Source, _SOURCE)))  # type: ignore[arg-type]
        for name in _COUNTERS:
            setattr(found, name, self.counter() or NO_COUNTS)
        return found

    def cached(self) -> CacheEntry:
        found = CacheEntry("", 0, 0)
        for name, value in zip(_CACHE, self.fields(CacheEntry, _CACHE), strict=True):
            setattr(found, name, value)
        waiters = self.blob()
        found.waiters = [waiters[at : at + 16] for at in range(0, len(waiters), 16)]
        found.queue = [(self.long(), self.long()) for _ in range(self.long())]
        return found

    def one(self, kind: str) -> object:
        kinds = {"str": self.text, "bytes": self.blob, "int": self.long, "tuple[str, ...]": self.texts}
        return kinds[kind]()


def decode(data: bytes) -> PartitionState:
    """The state in canonical bytes. Raises `Terminal` for another format."""
    read = _Reader(data)
    if read.long() != FORMAT:
        raise Terminal("the snapshot has another format")
    head = dict(zip(_HEAD, read.fields(PartitionState, _HEAD), strict=True))
    state = PartitionState(**head)  # type: ignore[arg-type]
    for _ in range(read.long()):
        topic = read.text()
        state.positions[topic] = read.long()
    for sessions in (state.sessions, state.parked):
        for _ in range(read.long()):
            session = read.session()
            sessions[f"{session.agent_id}\0{session.session_id}"] = session
    for _ in range(read.long()):
        name = read.text()
        state.closed[name] = Closed(*read.fields(Closed, _CLOSED))  # type: ignore[arg-type]
    state.marks = read.counter()
    for name, due in read.counter().items():
        set_alarm(state, name, due)
    state.restored = read.counter()
    state.withdrawn = {read.text(): (read.blob(), read.long()) for _ in range(read.long())}
    for _ in range(read.long()):
        remember(state, read.raw(16), read.long())
    budget_snapshot.decode(read, state)
    for _ in range(read.long()):
        name = read.text()
        state.health[name] = Health(*read.fields(Health, health.FIELDS))  # type: ignore[arg-type]
    for _ in range(read.long()):
        key = read.raw(16)
        cell = state.memory[key] = Cell(*read.fields(Cell, _CELL))  # type: ignore[arg-type]
        cell.pieces = tuple(Piece(read.text(), read.long(), read.blob()) for _ in range(read.long()))
        state.pieces += len(cell.pieces)
    for _ in range(read.long()):
        name, keys = read.text(), read.blob()
        state.shelves[name] = {keys[at : at + 16]: None for at in range(0, len(keys), 16)}
    for _ in range(read.long()):
        state.cache.put(read.raw(16), read.cached())
    for _ in range(read.long()):
        key, hour = read.raw(16), read.long()
        state.expiry.setdefault(hour, bytearray()).extend(key)
        if read.raw(1) == b"\x00":
            state.intents[key] = Ended(*(read.one(kind) for kind in _ENDED.values()))  # type: ignore[arg-type]
            continue
        entry = OpenIntent(*read.fields(OpenIntent, _OPEN))  # type: ignore[arg-type]
        state.intents[key] = entry
        if entry.due_at:
            heapq.heappush(state.timers, (entry.due_at, key))
    return state
