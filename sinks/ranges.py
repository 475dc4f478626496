"""Step 1 of the sink: which records make a range. Pure: records and time come in, frozen ranges come out.

Never does I/O. The steps are listed in `clickhouse.py`. Next: `rows.py` (a record -> a row).
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sluicegate.sinks.rows import Record, Reject, Row, row

RANGE_ROWS = 10_000  # ClickHouse likes 10,000 and more; at 60,000 rows/s that is six ranges a second
RANGE_BYTES = 16 * 1024 * 1024  # of records; a partition holds at most three ranges: 48 MB
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
    rows: tuple[Row, ...]
    rejects: tuple[Reject, ...]

    @property
    def token(self) -> str:
        """What makes a repetition one: never the content, always the place."""
        place = f"{self.log_id.hex()}:{self.topic}:{self.partition}"
        if self.rows:
            return f"{place}:{self.first_seq}-{self.last_seq}"
        return f"{place}:offset:{self.first_offset}-{self.last_offset}"

    def metadata(self) -> str:
        """How the range is written down in step 2."""
        return json.dumps([1, self.log_id.hex(), self.first_offset, self.last_offset, self.last_seq])


@dataclass(frozen=True, slots=True)
class Frozen:
    """A range that an owner before this one froze: it is cut there and nowhere else."""

    first_offset: int
    last_offset: int
    last_seq: int

    @classmethod
    def parse(cls, metadata: str, log_id: bytes) -> Frozen | None:
        """From what `Range.metadata` wrote; None when that is empty, of another log or of another version."""
        try:
            version, log, first, last, seq = json.loads(metadata)
        except (ValueError, TypeError):
            return None
        return cls(first, last, seq) if version == 1 and log == log_id.hex() else None


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
    _rows: list[Row] = field(default_factory=list)
    _rejects: list[Reject] = field(default_factory=list)
    _bytes: int = 0
    _first_offset: int = -1
    _last_offset: int = -1
    _month_end: int = 0
    _since: float = 0.0
    _closed: float = float("-inf")
    _ready: deque[Range] = field(default_factory=deque)

    def __len__(self) -> int:
        """Records held."""
        return len(self._rows) + len(self._rejects) + sum(len(r.rows) + len(r.rejects) for r in self._ready)

    def add(self, record: Record, now: float) -> None:
        """Take the next record."""
        item = self._judge(record)
        gap = isinstance(item, Row) and item.seq > self.next_seq
        month = isinstance(item, Row) and bool(self._rows) and item.decided_at >= self._month_end
        begins, inside, ends = self._against_frozen(record.offset)
        self.gaps += gap
        if gap or month or begins:
            self._close(now)
        if not self._rows and not self._rejects:
            self._since, self._first_offset = now, record.offset
        if isinstance(item, Reject):
            self._rejects.append(item)
            self._bytes += len(item.value)
        else:
            if not self._rows:
                self._month_end = _month_end(item.decided_at)
            self._rows.append(item)
            self._bytes += item.size
            self.next_seq = item.seq + 1
        self._last_offset = record.offset
        full = len(self._rows) + len(self._rejects) >= RANGE_ROWS or self._bytes >= RANGE_BYTES
        if ends or (full and not inside):
            self._close(now)

    def take(self, now: float) -> Range | None:
        """The next frozen range, when there is one."""
        if not self._ready and now >= self.due():
            self._close(now)
        return self._ready.popleft() if self._ready else None

    def due(self) -> float:
        """When what is held is frozen though it is not full; infinity when nothing is held."""
        if not self._rows and not self._rejects:
            return float("inf")
        _, inside, ends = self._against_frozen(self._last_offset)
        return (
            float("inf") if inside and not ends else max(self._since + QUIET_S, self._closed + RANGE_EVERY_S)
        )

    def _judge(self, record: Record) -> Row | Reject:
        item = row(record)
        if isinstance(item, Reject):
            return item
        if item.log_id != self.log_id:
            return Reject(
                record.offset, "wrong_log", f"the header is of log `{item.log_id.hex()}`", record.value or b""
            )
        if item.seq < self.next_seq:
            return Reject(
                record.offset, "seq_repeated", f"seq `{item.seq}` was there before", record.value or b""
            )
        return item

    def _against_frozen(self, offset: int) -> tuple[bool, bool, bool]:
        """Whether a record begins a range on account of the frozen one, stands in that, and ends it."""
        if self.frozen is None:
            return False, False, False
        first, last = self.frozen.first_offset, self.frozen.last_offset
        passed = self._last_offset < last < offset  # its last record is gone from Kafka
        return offset == first or passed, first <= offset <= last, offset == last

    def _close(self, now: float) -> None:
        if not self._rows and not self._rejects:
            return
        first = self._rows[0].seq if self._rows else self.next_seq
        last = self._rows[-1].seq if self._rows else self.next_seq - 1
        self._ready.append(
            Range(
                self.log_id, self.topic, self.partition, first, last, self._first_offset, self._last_offset,
                tuple(self._rows), tuple(self._rejects),
            )
        )  # fmt: skip
        self._rows, self._rejects, self._bytes, self._closed = [], [], 0, now


def _month_end(us: int) -> int:
    """The first microsecond of the month after."""
    at = datetime.fromtimestamp(us / 1e6, UTC)
    following = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
    return int(following.timestamp()) * 1_000_000
