"""Step 1 of the sink: which records make a range. Pure: records and time come in, frozen ranges come out.

Never does I/O. The steps are listed in `clickhouse.py`. Next: `rows.py` (a record -> a row).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from sluicegate.sinks.block import Block, Sealed
from sluicegate.sinks.calls import Calls, Seen
from sluicegate.sinks.rows import DECIDED_AT, LOG_ID, SEQ, Record, Reject, Row, row

RANGE_ROWS = 20_000  # ClickHouse likes 10,000 and more; at 60,000 rows/s that is three ranges a second
RANGE_BYTES = (
    16 * 1024 * 1024
)  # of records; a partition holds at most three ranges: 48 MB, and 70 MB of their blocks
QUIET_S = 0.25  # a lone record waits so long for others
RANGE_EVERY_S = (
    1.0  # a partition makes at most one range a second that is not full: each is two to four small inserts
)


@dataclass(frozen=True, slots=True)
class Range:
    """A frozen piece of one ledger partition: consecutive rows, and the records among them that are none."""

    log_id: bytes
    topic: str
    partition: int
    first_seq: int
    last_seq: int
    first_offset: int
    last_offset: int
    n: int
    block: bytes
    """The rows, ready to send."""
    hashes: bytes
    """sha256 of their header hashes."""
    decided_until: int
    sealed: Sequence[Sealed]
    rejects: tuple[Reject, ...]
    records: Sequence[Record]
    """What it was made of: after a failure some rows may have to be sent without the others."""
    calls: Seen = ([], [])
    """Of each row, the call it is about."""

    def __len__(self) -> int:
        """Records in it."""
        return self.n + len(self.rejects)

    def block_of(self, seqs: Collection[int]) -> bytes:
        """The block of these rows only."""
        part = Block(self.topic, self._seen)
        for item in map(row, self.records):
            if not isinstance(item, Reject) and item[0][SEQ] in seqs and item[0][LOG_ID] == self.log_id:
                part.append(item)
        return part.finish()[0]

    def _seen(self, rows: Sequence[Row]) -> Seen:
        """What was seen when they were collected; rows are consecutive."""
        places = [cast(int, item[0][SEQ]) - self.first_seq for item in rows]
        tools, before = self.calls
        return [tools[at] for at in places], [before[at] for at in places]

    @property
    def token(self) -> str:
        """What makes a repetition one: never the content, always the place."""
        place = f"{self.log_id.hex()}:{self.topic}:{self.partition}"
        if self.n:
            return f"{place}:{self.first_seq}-{self.last_seq}"
        return f"{place}:offset:{self.first_offset}-{self.last_offset}"

    def metadata(self) -> str:
        """How the range is written down in step 2."""
        return json.dumps([1, self.log_id.hex(), self.first_offset, self.last_offset])


@dataclass(frozen=True, slots=True)
class Frozen:
    """A range that an owner before this one froze: it is cut there and nowhere else."""

    first_offset: int
    last_offset: int

    @classmethod
    def parse(cls, metadata: str, log_id: bytes) -> Frozen | None:
        """From what `Range.metadata` wrote; None when that is empty, of another log or of another version."""
        try:
            version, log, first, last = json.loads(metadata)
        except (ValueError, TypeError):
            return None
        return cls(first, last) if version == 1 and log == log_id.hex() else None


@dataclass(slots=True)
class Collector:
    """The freeze rules of one partition.

    A range ends when it is full, when what follows would not be consecutive, when the month changes (a month is a
    part of its own, and only one part is inserted all or nothing), and when its records have waited long enough;
    except a range that is `frozen` already.
    """

    log_id: bytes
    topic: str
    partition: int
    next_seq: int = 0
    frozen: Frozen | None = None
    gaps: int = 0
    calls: Calls = field(default_factory=Calls)
    """What the rows before these began."""
    _block: Block = field(init=False)
    _records: list[Record] = field(default_factory=list)
    _n: int = 0
    _rejects: list[Reject] = field(default_factory=list)
    _bytes: int = 0
    _first_seq: int = 0
    _first_offset: int = -1
    _last_offset: int = -1
    _month_end: int = 0
    _since: float = 0.0
    _closed: float = float("-inf")
    _ready: deque[Range] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._block = Block(self.topic, self.calls.see)

    def __len__(self) -> int:
        """Records held."""
        return self._n + len(self._rejects) + sum(map(len, self._ready))

    def add(self, record: Record, now: float) -> None:
        """Take the next record."""
        item = row(record)
        if self._n and self.frozen is None and type(item) is tuple:
            fields: tuple[Any, ...] = item[0]
            if (
                fields[SEQ] == self.next_seq
                and fields[DECIDED_AT] < self._month_end
                and fields[LOG_ID] == self.log_id
            ):
                self._follow(item, record, now)  # as nearly all do
                return
        self._consider(item, record, now)

    def _follow(self, item: Row, record: Record, now: float) -> None:
        """A row that continues what is held."""
        self._block.append(item)
        self._records.append(record)
        self._n += 1
        self.next_seq += 1
        self._bytes += len(record.value or b"")
        self._last_offset = record.offset
        if self._n + len(self._rejects) >= RANGE_ROWS or self._bytes >= RANGE_BYTES:
            self._close(now)

    def _consider(self, item: Row | Reject, record: Record, now: float) -> None:
        """Anything else."""
        inside = ends = False
        if self.frozen is not None:
            begins, inside, ends = self._against(self.frozen, record.offset)
            if begins:
                self._close(now)
        if isinstance(item, Reject):
            self._reject(item, now)
        elif item[0][LOG_ID] != self.log_id:
            self._reject(
                Reject(record.offset, "wrong_log", "its header is of another log", record.value or b""), now
            )
        elif (seq := cast(int, item[0][SEQ])) < self.next_seq:
            self._reject(
                Reject(record.offset, "seq_repeated", f"seq `{seq}` was there", record.value or b""), now
            )
        else:
            if seq != self.next_seq or cast(int, item[0][DECIDED_AT]) >= self._month_end:
                self._cut(seq, cast(int, item[0][DECIDED_AT]), now)
            if not self._n:
                self._begin(record.offset, now)
                self._first_seq = seq
            self._block.append(item)
            self._records.append(record)
            self._n += 1
            self.next_seq = seq + 1
        self._bytes += len(record.value or b"")
        self._last_offset = record.offset
        full = self._n + len(self._rejects) >= RANGE_ROWS or self._bytes >= RANGE_BYTES
        if ends or (full and not inside):
            self._close(now)

    def take(self, now: float) -> Range | None:
        """The next frozen range, when there is one."""
        if not self._ready and now >= self.due():
            self._close(now)
        return self._ready.popleft() if self._ready else None

    def due(self) -> float:
        """When what is held is frozen though it is not full; infinity when nothing is held."""
        if not self._n and not self._rejects:
            return float("inf")
        if self.frozen is not None:
            _, inside, ends = self._against(self.frozen, self._last_offset)
            if inside and not ends:
                return float("inf")
        return max(self._since + QUIET_S, self._closed + RANGE_EVERY_S)

    def _against(self, frozen: Frozen, offset: int) -> tuple[bool, bool, bool]:
        """Whether a record begins a range on account of the frozen one, stands in that, and ends it."""
        first, last = frozen.first_offset, frozen.last_offset
        passed = self._last_offset < last < offset  # its last record is gone from Kafka
        return offset == first or passed, first <= offset <= last, offset == last

    def _reject(self, reject: Reject, now: float) -> None:
        self._begin(reject.offset, now)
        self._rejects.append(reject)

    def _begin(self, offset: int, now: float) -> None:
        if not self._n and not self._rejects:
            self._since, self._first_offset, self._first_seq = now, offset, self.next_seq

    def _cut(self, seq: int, decided_at: int, now: float) -> None:
        """What comes now is not consecutive, or is of another month than the rows held."""
        gap = seq != self.next_seq
        self.gaps += gap
        if gap or self._n:
            self._close(now)
        self._month_end = _month_end(decided_at)

    def _close(self, now: float) -> None:
        if not self._n and not self._rejects:
            return
        block, hashes = self._block.finish()
        self._ready.append(
            Range(
                self.log_id, self.topic, self.partition, self._first_seq, self.next_seq - 1, self._first_offset,
                self._last_offset, self._n, block, hashes, self._block.decided_until, self._block.sealed,
                tuple(self._rejects), self._records, self._block.calls,
            )
        )  # fmt: skip
        self._block, self._records = Block(self.topic, self.calls.see), list[Record]()
        self._n, self._rejects = 0, list[Reject]()
        self._bytes, self._closed = 0, now


def _month_end(us: int) -> int:
    """The first microsecond of the month after."""
    at = datetime.fromtimestamp(us / 1e6, UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(following.timestamp()) * 1_000_000
